"""Whether a diamond ends whose join reads one branch to its end before the other.

A source, two maps that read it, and a stream with two inputs, at 100,000 rows: with buffers that
are bounded and no place for held-back rows, this hangs. Store off, and with a store in a temporary
folder. Target: it ends, with all rows. Wall, CPU and peak memory are reported.
Command: `python -m benchmarks.diamond [--short]`; one: `... --rows N [--store]`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time

import anyio

import engine
from benchmarks.common import Result, alone, document, peak_mb, show

NAME = "benchmarks.diamond"
LIMIT = 240.0  # seconds of wall time until it counts as hung
PIPELINE = """
name: bench
stages:
  count: {{use: './stages.py:count', with: {{rows: {rows}}}}}
  a: {{use: './stages.py:add_a', from: count}}
  b: {{use: './stages.py:add_b', from: count, take: {{number: serial, a: number}}}}
  pairs: {{use: './stages.py:pairs', from: {{left: a, right: b}}}}
"""


async def run(rows: int, folder: str | None) -> int:
    """Run the diamond; return how many rows came out."""
    async with engine.open(document(PIPELINE.format(rows=rows)), store=folder) as running:
        return (await running.finish()).finished


def one(rows: int, stored: bool) -> dict[str, float]:
    """Run it in this process."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        finished = anyio.run(run, rows, folder if stored else None)
        took = time.monotonic() - start
    return {"finished": finished, "wall": took, "cpu": time.process_time(), "mb": peak_mb()}


def measure(short: bool) -> list[Result]:
    """Return whether it ends, without and with a store."""
    results = []
    for name, options in (("store off", ()), ("file store", ("--store",))):
        rows = 100_000 if not short else 20_000 if not options else 5_000
        title = f"diamond ({name}, {rows:,})"
        try:
            found = alone(NAME, "--rows", rows, *options, limit=LIMIT)
        except subprocess.TimeoutExpired:
            results.append(Result(title, f"not ended in {LIMIT:g} s", "all rows", False))
            continue
        figures = f"{found['wall']:.1f} s, CPU {found['cpu']:.1f} s, {found['mb']:.0f} MB"
        whole = found["finished"] == rows
        measured = f"{found['finished']:,} rows: {figures}"
        results.append(Result(title, measured, "all rows", whole))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="fewer rows")
    parser.add_argument("--rows", type=int, help="run it here, and print its figures")
    parser.add_argument("--store", action="store_true", help="with a store in a temporary folder")
    options = parser.parse_args()
    if options.rows is None:
        sys.exit(show(measure(options.short)))
    print(json.dumps(one(options.rows, options.store)))
