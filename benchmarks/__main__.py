"""All benchmarks, one table: name, measured, target, verdict; exit code 1 if a target is missed.

Command: `python -m benchmarks [--short] [name ...]`. Short: below 40 s of CPU; full: below 6 min,
and 20 more for `resume`, which builds a store of 1,000,000 records.
"""

from __future__ import annotations

import argparse
import resource
import sys

from benchmarks import (
    client,
    diamond,
    greedy,
    handoff,
    memory,
    pink_gates,
    resume,
    reward_packing,
    row_stage,
    start,
    store,
)
from benchmarks.common import Result, show

ALL = {
    "handoff": handoff.measure,
    "row_stage": row_stage.measure,
    "greedy": greedy.measure,
    "memory": memory.measure,
    "diamond": diamond.measure,
    "start": start.measure,
    "client": client.measure,
    "store": store.measure,
    "resume": resume.measure,
    "reward_packing": reward_packing.measure,
    "pink_gates": pink_gates.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--short", action="store_true", help="for CI: fewer rows and repeats")
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(ALL)}")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ALL]:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(ALL)}")
    results: list[Result] = []
    for name in options.names or ALL:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results += ALL[name](options.short)
    code = show(results)
    spent = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"\n{sum(u.ru_utime + u.ru_stime for u in spent):.0f} s of CPU")
    return code


if __name__ == "__main__":
    sys.exit(main())
