"""The store: durable records of 1 KB a second, CPU each, and how late it makes the event loop.

2,000 producers record as fast as they may, each waiting until its record is durable: replies, and
results with a field of 1 KB. Targets: >= 5,000 a second, <= 40 us of CPU each. Then 500 replies a
second are recorded while a ticker of 1 ms measures how late it is woken: p99 <= 10 ms; the same
ticker on an idle loop, in the same process, is reported beside it. The least CPU and the best rate
of the repeats count, the median of the repeats' lags.
Command: `python -m benchmarks.store [--short]`; one process: `... --records N --seconds S`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from benchmarks.common import HERE, Result, alone, show
from engine.store import Memo, SqliteStore

RATE, CPU_US, LAG_MS = 5_000, 40.0, 10.0
PRODUCERS = 2_000
SIZE = 1_000
STEADY = 500  # records a second while the lag is measured
REPEATS = 3
Write = Callable[[SqliteStore, bytes, str], Awaitable[None]]


async def reply(store: SqliteStore, key: bytes, text: str) -> None:
    """Record a reply; return once it is durable."""
    await store.calls.record(key, 0, text.encode())


async def result(store: SqliteStore, key: bytes, text: str) -> None:
    """Record a result; return once it is durable."""
    store.put_memo(key, Memo("row", {"value": text}))
    await store.flush()


async def throughput(folder: Path, records: int, write: Write) -> dict[str, float]:
    """Return records a second, and CPU microseconds each, of this process with all its threads."""
    rng = random.Random(0)
    text = rng.randbytes(SIZE).hex()[:SIZE]
    keys = iter([rng.randbytes(16) for _ in range(records)])

    async def produce() -> None:
        for key in keys:
            await write(store, key, text)

    async with SqliteStore(folder) as store:
        store.begin(pipeline="p", fresh=False)
        wall, cpu = time.perf_counter(), time.process_time()
        async with anyio.create_task_group() as tasks:
            for _ in range(PRODUCERS):
                tasks.start_soon(produce)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"rate": records / wall, "us": cpu / records * 1e6}


async def lag(seconds: float, folder: Path | None) -> float:
    """Return how many ms a ticker is late, p99, while replies are stored (None: nothing is)."""
    late: list[float] = []
    rng = random.Random(1)
    text = rng.randbytes(SIZE).hex()[:SIZE]

    async def tick() -> None:
        while True:
            due = time.perf_counter() + 0.001
            await anyio.sleep(0.001)
            late.append(time.perf_counter() - due)

    async with anyio.create_task_group() as tasks:
        if folder is None:
            tasks.start_soon(tick)
            await anyio.sleep(seconds)
        else:
            async with SqliteStore(folder) as store, anyio.create_task_group() as writes:
                store.begin(pipeline="p", fresh=False)
                tasks.start_soon(tick)
                begun = time.perf_counter()
                for number in range(int(STEADY * seconds)):
                    wait = begun + number / STEADY - time.perf_counter()
                    if wait > 0:
                        await anyio.sleep(wait)
                    writes.start_soon(reply, store, rng.randbytes(16), text)
        tasks.cancel_scope.cancel()
    return statistics.quantiles(late, n=100)[98] * 1e3


def one(records: int, seconds: float) -> dict[str, float]:
    """Measure all once, in this process, on a folder beside this file."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix=".store-", dir=HERE) as folder:
        for name, write in (("reply", reply), ("result", result)):
            figures = anyio.run(throughput, Path(folder) / name, records, write)
            found |= {f"{name}_{key}": value for key, value in figures.items()}
        found["idle"] = anyio.run(lag, seconds, None)
        found["lag"] = anyio.run(lag, seconds, Path(folder) / "lag")
    return found


def measure(short: bool) -> list[Result]:
    """Return rates, CPU and lag."""
    records, seconds = (10_000, 2) if short else (50_000, 10)
    arguments = ("--records", records, "--seconds", seconds)
    runs = [alone("benchmarks.store", *arguments) for _ in range(1 if short else REPEATS)]
    results = []
    for name, what in (("reply", "calls.record"), ("result", "put_memo + flush")):
        rate = max(run[f"{name}_rate"] for run in runs)
        us = min(run[f"{name}_us"] for run in runs)
        results += [
            Result(
                f"store ({what}, 1 KB)",
                f"{rate:,.0f} durable records/s",
                f">= {RATE:,}",
                rate >= RATE,
            ),
            Result(f"store ({what}, CPU)", f"{us:.1f} us each", f"<= {CPU_US:g} us", us <= CPU_US),
        ]
    late = statistics.median(run["lag"] for run in runs)
    idle = statistics.median(run["idle"] for run in runs)
    results.append(
        Result(
            f"store (event-loop lag at {STEADY}/s, p99)",
            f"{late:.2f} ms (idle {idle:.2f} ms)",
            f"<= {LAG_MS:g} ms",
            late <= LAG_MS,
        )
    )
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="fewer records")
    parser.add_argument("--records", type=int, help="measure once here, with so many records")
    parser.add_argument("--seconds", type=float, default=2.0, help="for how long the lag")
    options = parser.parse_args()
    if options.records is None:
        sys.exit(show(measure(options.short)))
    print(json.dumps(one(options.records, options.seconds)))
