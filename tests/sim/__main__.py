"""`make sim`: many seeds of the simulation, and every planted bug; prints a table."""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter

from tests.sim.bugs import BUGS, planted
from tests.sim.lives import simulate

WITHIN = 200
COUNTED = {
    "lives": "lives",
    "hours": "virtual hours",
    "kills": "kills",
    "drains": "drains",
    "failures": "failing disks",
    "calls": "paid calls",
}


def first_to_find(name: str, within: int = WITHIN) -> tuple[int | None, str]:
    """Return the first seed that finds a planted bug, and what it says."""
    with planted(name):
        for seed in range(within):
            try:
                simulate(seed)
            except Exception as error:  # whatever it is: without the bug, there is none
                said = f"{type(error).__name__}: {error}"
                assert "TypeError" not in said, f"this is no bug, but a crash: {said}"
                return seed, said
    return None, ""


def main(seeds: int) -> int:
    """Run them all; return the exit code."""
    started, totals, failed = time.perf_counter(), Counter[str](), 0
    for seed in range(seeds):
        try:
            seen = simulate(seed)
        except Exception:
            failed += 1
            print(f"seed {seed}:")
            traceback.print_exc()
            continue
        totals.update({name: getattr(seen, name) for name in COUNTED})
    seconds = time.perf_counter() - started
    counts = ", ".join(f"{totals[name]:.0f} {what}" for name, what in COUNTED.items())
    print(f"{seeds} seeds, {failed} failed, {seconds:.0f} s: {counts}\n")
    print(f"{'planted bug':46}found by seed")
    missed = 0
    for name in BUGS:
        found, what = first_to_find(name)
        missed += found is None
        print(f"{name:46}{'NONE' if found is None else found:>4}  {what[:90]}", flush=True)
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
