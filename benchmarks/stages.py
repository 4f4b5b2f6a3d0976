"""The stages that the benchmarks run: they do next to nothing, or sleep."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

import anyio

from benchmarks.draws import latencies
from engine import Context, Row, stage


class Start(Row):
    serial: int
    number: int


class A(Row):
    a: int


class B(Row):
    b: int


class C(Row):
    c: int


class D(Row):
    d: int


class Pair(Row):
    left: int
    right: int


@stage("bench.count")
async def count(*, rows: int = 0, keyed: bool = True) -> AsyncIterator[Start]:
    """Yield rows, with an id of their own or with one made from their content."""
    for i in range(rows):
        row = Start(serial=i, number=i % 1000)
        yield row.keyed(str(i)) if keyed else row


@stage("bench.a")
async def add_a(serial: int, number: int) -> A:
    """Add a field."""
    return A(serial + number)


@stage("bench.b")
async def add_b(number: int, a: int) -> B:
    """Add a field."""
    return B(number + a)


@stage("bench.c")
async def add_c(a: int, b: int) -> C:
    """Add a field."""
    return C(a + b)


@stage("bench.d")
async def add_d(b: int, c: int) -> D:
    """Add a field."""
    return D(b + c)


@stage("bench.first")
async def first(serial: int, *, seed: int) -> A:
    """Wait for as long as this row's first draw."""
    await anyio.sleep(latencies(seed, "first")[serial])
    return A(1)


@stage("bench.second")
async def second(serial: int, *, seed: int) -> B:
    """Wait for as long as this row's second draw."""
    await anyio.sleep(latencies(seed, "second")[serial])
    return B(1)


@stage("bench.first_with")
async def first_with(serial: int, *, ctx: Context, seed: int) -> A:
    """Wait likewise, the way that stages go which take a context or a resource."""
    await anyio.sleep(latencies(seed, "first")[serial])
    return A(1)


@stage("bench.second_with")
async def second_with(serial: int, *, ctx: Context, seed: int) -> B:
    """Wait likewise, the way that stages go which take a context or a resource."""
    await anyio.sleep(latencies(seed, "second")[serial])
    return B(1)


@stage("bench.pairs")
async def pairs(left: AsyncIterable[A], right: AsyncIterable[B]) -> AsyncIterator[Pair]:
    """Read one branch to its end, and then the other."""
    lefts = {row.row_id: row.a async for row in left}
    async for row in right:
        yield Pair(lefts[row.row_id], row.b)
