"""What `engine --help` costs beside an empty Python: the least CPU of 15 starts; reported.

Command: `python -m benchmarks.start [--short]`.
"""

from __future__ import annotations

import importlib.util
import sys

from benchmarks.common import Result, child_cpu, main


def measure(short: bool) -> list[Result]:
    """Return the CPU of both."""
    if importlib.util.find_spec("engine.cli") is None:
        return [Result("start", "skipped: there is no engine.cli yet", "-", None)]
    times = 5 if short else 15
    call = "from engine.cli import main; main()"
    helped = min(child_cpu([sys.executable, "-c", call, "--help"]) for _ in range(times))
    empty = min(child_cpu([sys.executable, "-c", "pass"]) for _ in range(times))
    return [
        Result(
            "start (engine --help)",
            f"{helped * 1e3:.0f} ms ({helped / empty:.1f}x `python -c pass`, {empty * 1e3:.0f} ms)",
            "-",
            None,
        )
    ]


if __name__ == "__main__":
    main(measure)
