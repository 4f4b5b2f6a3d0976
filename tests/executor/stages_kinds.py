"""Stages of every kind, for the executor's tests; each pauses at checkpoints, never at a clock."""

import random
from collections.abc import AsyncIterable, AsyncIterator, Sequence

import anyio.lowlevel

from engine import Added, BadReply, Context, Reject, Row, stage


class Number(Row):
    n: int


class Doubled(Row):
    doubled: int


class Child(Row):
    child: int


class Total(Row):
    total: int


class Position(Row):
    position: int


class Pair(Row):
    left: int
    right: int


async def pause(seed: int) -> None:
    """Give way a number of times that depends on the row: rows overtake each other."""
    for _ in range(random.Random(seed).randrange(8)):
        await anyio.lowlevel.checkpoint()


@stage("t.numbers")
async def numbers(*, count: int = 20, keyed: bool = True) -> AsyncIterator[Number | Reject]:
    for n in range(count):
        yield Number(n).keyed(str(n)) if keyed else Number(n % 3)


@stage("t.double")
async def double(n: int) -> Doubled:
    await pause(n)
    return Doubled(2 * n)


@stage("t.again")
async def again(doubled: int, *, plus: int = 0) -> Total:
    await pause(doubled)
    return Total(doubled + plus)


@stage("t.gate")
async def gate(n: int, *, modulo: int = 3) -> None:
    await pause(n)
    if n % modulo == 0:
        raise Reject(f"multiple of {modulo}", span=f"n={n}")


@stage("t.poison")
async def poison(n: int, *, at: int = 5) -> Doubled:
    if n == at:
        raise ValueError(f"poison {n}")
    return Doubled(2 * n)


@stage("t.flaky")
async def flaky(n: int, *, ctx: Context, good_attempt: int = 2) -> Doubled:
    if ctx.attempt < good_attempt:
        raise OSError("not yet")
    return Doubled(ctx.attempt)


@stage("t.refused")
async def refused(n: int) -> Doubled:
    raise BadReply("garbage")


@stage("t.children")
async def children(n: int, *, count: int = 2) -> AsyncIterator[Child | Reject]:
    for i in range(count):
        await pause(10 * n + i)
        if i == 1 and n % 4 == 0:
            yield Reject("second child")
        else:
            yield Child(10 * n + i)


@stage("t.half")
async def half(n: int) -> AsyncIterator[Child]:
    yield Child(10 * n)
    if n % 2:
        raise Reject("odd")
    yield Child(10 * n + 1)


@stage("t.batched")
async def batched(rows: Sequence[Number]) -> list[Total | Reject]:
    if any(row.n == 7 for row in rows):
        raise ValueError("seven")
    return [Reject("zero") if row.n == 0 else Total(len(rows)) for row in rows]


@stage("t.distinct")
async def distinct(rows: AsyncIterable[Number]) -> AsyncIterator[Number | Reject]:
    seen: set[int] = set()
    async for row in rows:
        if row.n in seen:
            yield row.reject("duplicate")
        else:
            seen.add(row.n)
            yield row


@stage("t.ranked")
async def ranked(rows: AsyncIterable[Number]) -> AsyncIterator[Added[Position]]:
    held = [row async for row in rows]
    for position, row in enumerate(sorted(held, key=lambda row: -row.n)):
        yield row.add(Position(position))


@stage("t.summed")
async def summed(rows: AsyncIterable[Number]) -> AsyncIterator[Total]:
    yield Total(sum([row.n async for row in rows])).keyed("sum")


@stage("t.zipped")
async def zipped(a: AsyncIterable[Doubled], b: AsyncIterable[Total]) -> AsyncIterator[Pair]:
    left = [row.doubled async for row in a]  # one branch to its end before the other
    at = 0
    async for row in b:
        yield Pair(left[at], row.total)
        at += 1


@stage("t.fresh_in_rows")
async def fresh_in_rows(rows: AsyncIterable[Number]) -> AsyncIterator[Number]:
    async for row in rows:
        yield Number(row.n)


@stage("t.twice")
async def twice(rows: AsyncIterable[Number]) -> AsyncIterator[Number]:
    async for row in rows:
        yield row
        yield row


@stage("t.wrong_type")
async def wrong_type(n: int) -> Doubled:
    return Total(n)  # type: ignore[return-value]


class Ratio(Row):
    ratio: float


@stage("t.nan")
async def nan(n: int) -> Ratio:
    return Ratio(float("nan") if n == 1 else 1.0)


@stage("t.nested")
async def nested(n: int) -> Doubled:
    async def child() -> None:
        raise Reject("in a child task")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)
    return Doubled(n)


@stage("t.rejects_twice")
async def rejects_twice(rows: AsyncIterable[Number]) -> AsyncIterator[Total | Reject]:
    async for row in rows:
        yield row.reject("once")
        yield row.reject("twice")


@stage("t.same_key")
async def same_key(n: int) -> AsyncIterator[Child]:
    yield Child(1).keyed("k")
    yield Child(2).keyed("k")


@stage("t.quits")
async def quits(n: int, *, raised: str) -> None:
    if n == 1:
        raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[raised](7)


@stage("t.alone")
async def alone(n: int, *, name: str) -> None:
    INSIDE.append(name)
    if len(INSIDE) > 1:
        TOGETHER.append(tuple(INSIDE))
    await pause(n + 1)
    INSIDE.remove(name)
    if TOGETHER:
        raise ValueError(f"not alone: {TOGETHER[0]}")


@stage("t.forever")
async def forever(n: int) -> Doubled:
    if n < 3:
        return Doubled(n)
    await anyio.sleep_forever()
    raise AssertionError


@stage("t.endless")
async def endless() -> AsyncIterator[Number]:
    n = 0
    while True:
        yield Number(n).keyed(str(n))
        n += 1


INSIDE: list[str] = []
TOGETHER: list[tuple[str, ...]] = []
