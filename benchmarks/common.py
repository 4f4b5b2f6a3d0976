"""What the benchmarks share: a result, CPU clocks, subprocesses, pipelines as text."""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.loader import Document, loads

HERE = Path(__file__).parent
ROOT = HERE.parent


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table. `ok` is None for a figure that is reported only."""

    name: str
    measured: str
    target: str
    ok: bool | None
    note: str = ""

    @property
    def verdict(self) -> str:
        return "reported" if self.ok is None else "ok" if self.ok else "MISS"


def document(text: str) -> Document:
    """Return a pipeline whose relative paths begin in this folder."""
    return loads(text, folder=HERE)


def cpu(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of one call, with no garbage left over from earlier ones."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def least(repeats: int, *works: Callable[[], Any]) -> list[float]:
    """Return the least CPU seconds of each work; they take turns, so that noise hits all alike."""
    best = [float("inf")] * len(works)
    for _ in range(repeats):
        for i, work in enumerate(works):
            best[i] = min(best[i], cpu(work))
    return best


def peak_mb() -> float:
    """Return this process's peak resident memory in MB.

    On Linux it is VmHWM: ru_maxrss survives `exec`, so that a child would report the size of
    the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def alone(module: str, *arguments: object, limit: float = 600) -> dict[str, Any]:
    """Run a benchmark's own process; return the JSON of its last line."""
    ran = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{module} {arguments} failed:\n{ran.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def child_cpu(command: Sequence[str]) -> float:
    """Return the CPU seconds of a command. Raises RuntimeError when it fails."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def show(results: Sequence[Result]) -> int:
    """Print the table; return the exit code: 1 if a target is missed."""
    heads = ("name", "measured", "target", "verdict")
    lines = [(r.name, r.measured, r.target, r.verdict) for r in results]
    widths = [max(len(line[i]) for line in (heads, *lines)) for i in range(len(heads))]
    for line in (heads, tuple("-" * w for w in widths), *lines):
        print("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())
    for result in results:
        if result.note:
            print(f"\n{result.name}: {result.note}")
    return int(any(r.ok is False for r in results))


def main(measure: Callable[[bool], list[Result]]) -> None:
    """Run one benchmark as a program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="fewer rows and repeats")
    sys.exit(show(measure(parser.parse_args().short)))
