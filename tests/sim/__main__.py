"""`make sim`: many seeds of the simulation, and every planted bug; prints a table."""

from __future__ import annotations

import sys
import time
import traceback

from tests.sim.bugs import BUGS, planted
from tests.sim.lives import Seen, simulate

WITHIN = 200


def first_to_find(name: str, within: int = WITHIN) -> tuple[int | None, str]:
    """Return the first seed that finds a planted bug, and what it says."""
    with planted(name):
        for seed in range(within):
            try:
                simulate(seed)
            except Exception as error:  # whatever it is: without the bug, there is none
                return seed, f"{type(error).__name__}: {error}"
    return None, ""


def main(seeds: int) -> int:
    """Run them all; return the exit code."""
    started, found = time.perf_counter(), []
    total, failed = Seen(0.0, 0, 0, 0, 0, 0, []), 0
    for seed in range(seeds):
        try:
            total += simulate(seed)
        except Exception:
            failed += 1
            print(f"seed {seed}:")
            traceback.print_exc()
    seconds = time.perf_counter() - started
    print(
        f"{seeds} seeds, {failed} failed: {total.lives} lives, {total.hours:.1f} virtual hours, "
        f"{total.kills} kills, {total.drains} drains, {total.failures} failing disks, "
        f"{total.calls} paid calls, {seconds:.0f} s"
    )
    print(f"\n{'planted bug':45} found by seed")
    for name in BUGS:
        seed, what = first_to_find(name)
        found.append(seed is not None)
        print(f"{name:45} {'NOT FOUND' if seed is None else seed:>9}  {what[:100]}", flush=True)
    return 0 if not failed and all(found) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
