"""Whether memory stays flat as rows stream: the peak at 1,000,000 rows minus that at 100,000.

Four map stages behind a source, store off, rows with an id of their own (`.keyed(...)`), each size
in a process of its own. Target: <= 60 MB. Short: 200,000 minus 20,000 rows, and a fifth of it
(12 MB). Reported: rows without an id, whose contents' digests must be remembered to tell equal
rows apart.
Command: `python -m benchmarks.memory [--short]`; one size: `... --rows N [--content]`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import anyio

from benchmarks.common import Result, alone, peak_mb, show

TARGET_MB = 60.0
NAME = "benchmarks.memory"


def one(rows: int, keyed: bool) -> dict[str, float]:
    """Run one size in this process."""
    from benchmarks.row_stage import CHAIN, ran

    anyio.run(ran, CHAIN % (rows, "true" if keyed else "false"), rows)
    return {"mb": peak_mb(), "cpu": time.process_time()}


def growth(few: int, many: int, *options: str) -> tuple[float, str]:
    """Return by how many MB the peak grows, and the figures behind it."""
    small = alone(NAME, "--rows", few, *options)
    large = alone(NAME, "--rows", many, *options)
    text = (
        f"{few:,} rows {small['mb']:.1f} MB, {many:,} rows {large['mb']:.1f} MB, "
        f"{large['cpu'] / many * 1e6:.1f} us of CPU a row"
    )
    return large["mb"] - small["mb"], text


def measure(short: bool) -> list[Result]:
    """Return the growth with keys, judged, and with content ids, reported."""
    few, many = (20_000, 200_000) if short else (100_000, 1_000_000)
    target = TARGET_MB * (many - few) / 900_000
    keyed, text = growth(few, many)
    results = [
        Result(
            f"memory (keyed{', short' if short else ''})",
            f"{keyed:+.1f} MB",
            f"<= {target:.0f} MB",
            keyed <= target,
            text,
        )
    ]
    if not short:
        content, text = growth(few, many, "--content")
        results.append(Result("memory (content ids)", f"{content:+.1f} MB", "-", None, text))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="fewer rows")
    parser.add_argument("--rows", type=int, help="run one size here, and print its peak")
    parser.add_argument("--content", action="store_true", help="ids from the rows' contents")
    options = parser.parse_args()
    if options.rows is None:
        sys.exit(show(measure(options.short)))
    print(json.dumps(one(options.rows, not options.content)))
