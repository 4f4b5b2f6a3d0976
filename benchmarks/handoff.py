"""The hand-off alone: CPU an item, as a ratio to a bare `await f(x)` loop.

One producer task and one worker task with an `engine.channels.Channel` between them, used as the
executor's fast path uses it. Target: <= 6x on asyncio; trio is reported.
Command: `python -m benchmarks.handoff [--short]`.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel

from benchmarks.common import Result, least, main
from engine.channels import Channel
from engine.runners.base import FAIR

TARGET = 6.0


async def f(x: int) -> int:
    return x


async def bare(count: int) -> None:
    """Await the function, and nothing else."""
    for x in range(count):
        await f(x)


async def through(count: int) -> None:
    """Pass each item from a producer to a worker that awaits the function."""
    channel = Channel(lambda: False, lambda: None)
    low, taken = channel.capacity // 2, 0

    async def produce() -> None:
        for x in range(count):
            item = (b"", (x,), x)
            if not channel.try_put(item):
                await channel.put(item)
            if not x % FAIR:
                await anyio.lowlevel.checkpoint()
        channel.close()

    async def work() -> None:
        nonlocal taken
        items, turns = channel.items, 0
        while await channel.ready():
            while items:
                row_id, _, fields = items.popleft()
                if len(items) == low:
                    channel.drained()
                if row_id is None or fields is None:
                    continue
                await f(fields)
                taken += 1
                turns += 1
                if turns == FAIR:
                    turns = 0
                    await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        tasks.start_soon(produce)
    if taken != count:
        raise RuntimeError(f"{count} items were put, {taken} taken")


def measure(short: bool) -> list[Result]:
    """Return the ratio on asyncio, judged, and on trio, reported."""
    count, repeats = (50_000, 7) if short else (200_000, 11)
    results = []
    for backend in ("asyncio", "trio"):
        alone, handed = least(
            repeats,
            lambda backend=backend: anyio.run(bare, count, backend=backend),  # type: ignore[misc]
            lambda backend=backend: anyio.run(through, count, backend=backend),  # type: ignore[misc]
        )
        ratio, judged = handed / alone, backend == "asyncio"
        results.append(
            Result(
                f"handoff ({backend})",
                f"{ratio:.2f}x ({handed / count * 1e6:.2f} / {alone / count * 1e6:.2f} us)",
                f"<= {TARGET:g}x" if judged else "-",
                ratio <= TARGET if judged else None,
            )
        )
    return results


if __name__ == "__main__":
    main(measure)
