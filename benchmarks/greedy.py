"""How near a run with slow stages comes to the best that it could do, in virtual time.

Two stages whose latency is lognormal (mean 50 ms, sigma 1), 64 rows at a time in each. The ideal
is the exact greedy schedule of the same draws: a row enters a stage as soon as it is there and one
of the 64 places is free, first come, first served. The engine runs on trio with a clock that jumps,
so the figure is exact on any machine. Target: >= 0.99 of greedy for each seed; reported: the
work bound (the sum of the longer stage's latencies / 64). Judged twice: stages that take nothing
(the fast path), and stages that take a context (the path of every stage with a resource).
Command: `python -m benchmarks.greedy [--short]`.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import trio
import trio.testing

import engine
from benchmarks.common import Result, document, main
from benchmarks.draws import MOST, latencies
from engine import Row
from engine.loader import Document

TARGET, WIDTH = 0.99, 64
PIPELINE = """
name: bench
stages:
  count: {{use: './stages.py:count'}}
  first: {{use: './stages.py:first{way}', concurrency: {width}, with: {{seed: {seed}}}}}
  second: {{use: './stages.py:second{way}', concurrency: {width}, with: {{seed: {seed}}}}}
"""


def scheduled(arrivals: Sequence[float], latencies: Sequence[float], width: int) -> list[float]:
    """Return when each row leaves a stage of `width` places, first come, first served."""
    free = [0.0] * width
    leaves = [0.0] * len(arrivals)
    for i in sorted(range(len(arrivals)), key=lambda i: (arrivals[i], i)):
        leaves[i] = max(arrivals[i], free[0]) + latencies[i]
        heapq.heapreplace(free, leaves[i])
    return leaves


async def virtual(pipeline: Document, rows: Sequence[Row]) -> float:
    """Return the virtual seconds of a run."""
    start = trio.current_time()
    async with engine.open(pipeline, inputs=rows, store=None) as run:
        summary = await run.finish()
    if summary.finished != len(rows) or summary.exit_code:
        raise RuntimeError(f"{len(rows)} rows went in: {summary}")
    return trio.current_time() - start


def efficiency(seed: int, count: int, way: str = "", width: int = WIDTH) -> tuple[float, float]:
    """Return greedy / engine and work bound / engine for one seed."""
    from benchmarks.stages import Start

    rows = [Start(i, 0).keyed(str(i)) for i in range(count)]
    ones, twos = latencies(seed, "first")[:count], latencies(seed, "second")[:count]
    greedy = max(scheduled(scheduled([0.0] * count, ones, width), twos, width))
    work = max(sum(ones), sum(twos)) / width
    pipeline = document(PIPELINE.format(width=width, seed=seed, way=way))
    clock = trio.testing.MockClock(autojump_threshold=0)
    took: float = trio.run(virtual, pipeline, rows, clock=clock)
    return greedy / took, work / took


def measure(short: bool) -> list[Result]:
    """Return the worst seed's efficiency of each path, and all of them."""
    count, seeds = MOST, 1 if short else 5
    results = []
    for title, way in (("plain", ""), ("context", "_with")):
        found = [efficiency(seed, count, way) for seed in range(1, seeds + 1)]
        worst = min(greedy for greedy, _ in found)
        results.append(
            Result(
                f"greedy ({title}, {count:,} rows)",
                f"{worst:.4f} (worst of {seeds})",
                f">= {TARGET:g}",
                worst >= TARGET,
                "; ".join(f"{g:.4f} of greedy, {w:.3f} of the work bound" for g, w in found),
            )
        )
    return results


if __name__ == "__main__":
    main(measure)
