"""Stages of every recorded kind, which count their calls; none looks at a clock."""

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated

import anyio.lowlevel

from engine import Added, Context, Message, Reject, Row, Text, stage
from engine.chat import Chat
from engine.stages import NotResult

CALLS: Counter[str] = Counter()
HOOK: list[Callable[[int], None]] = []


def called(name: str) -> None:
    CALLS[name] += 1
    for hook in HOOK:
        hook(CALLS.total())


class Number(Row):
    n: int
    other: int


class Worded(Row):
    word: Text


class Message_(Row):
    said: Message


class Child(Row):
    part: int


class Scored(Row):
    score: int


class Placed(Row):
    place: int


class Total(Row):
    total: int


class Pair(Row):
    left: int
    right: int


@stage("t.numbers", version="1")
async def numbers(*, count: int = 30, keyed: bool = False, other: int = 0) -> AsyncIterator[Number]:
    for i in range(count):
        yield Number(i, other).keyed(f"k{i}") if keyed else Number(i % 7, other)


@stage("t.word", version="1")
async def word(n: int, *, ctx: Context, suffix: str = "") -> Worded:
    called("word")
    for _ in range(ctx.rng.randrange(4)):
        await anyio.lowlevel.checkpoint()
    return Worded("number " + Text.leaf(str(ctx.rng.random()), "draw") + suffix)


@stage("t.ask", version="1")
async def ask(n: int, word: Text, *, llm: Chat, least: int = 3) -> Message_:
    called("ask")
    (reply,) = await llm.complete([Message(role="user", content="Say " + word)])
    if len(reply.text) < least:
        reply.refuse("too short")
    return Message_(Message(role="assistant", content=reply.text))


@stage("t.gate", version="1")
async def gate(n: int, *, ctx: Context, modulo: int = 5) -> None:
    called("gate")
    if n % modulo == 4:
        raise Reject("remainder", span=f"\ud800 {n}")


@stage("t.parts", version="1")
async def parts(n: int, *, stop: Annotated[int, NotResult] = -1) -> AsyncIterator[Child | Reject]:
    called("parts")
    for i in range(n % 4):
        if i == stop:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        yield Reject("third") if i == 2 else Child(10 * n + i).keyed(f"part {i}")


@stage("t.score", version="1")
async def score(rows: Sequence[Child], *, ctx: Context) -> list[Scored | Reject]:
    called("score")
    await anyio.lowlevel.checkpoint()
    return [Reject("eleven") if row.part == 11 else Scored(row.part + len(rows)) for row in rows]


@stage("t.place", version="1")
async def place(rows: AsyncIterable[Number]) -> AsyncIterator[Added[Placed] | Reject]:
    called("place")
    held = [row async for row in rows]
    for i, row in enumerate(sorted(held, key=lambda row: -row.n)):
        yield row.reject("zero") if row.n == 0 else row.add(Placed(i))


@stage("t.distinct", version="1")
async def distinct(rows: AsyncIterable[Number]) -> AsyncIterator[Number | Reject]:
    called("distinct")
    seen: set[int] = set()
    async for row in rows:
        yield row.reject("again") if row.n in seen else row
        seen.add(row.n)


@stage("t.totals", version="1")
async def totals(rows: AsyncIterable[Number]) -> AsyncIterator[Total]:
    called("totals")
    total = 0
    async for row in rows:
        total += row.n
        if row.n == 6:
            yield Total(total)
    yield Total(total).keyed("all")


@stage("t.pairs", version="1")
async def pairs(a: AsyncIterable[Number], b: AsyncIterable[Total]) -> AsyncIterator[Pair]:
    called("pairs")
    right = [row.total async for row in b]
    async for row in a:
        yield Pair(row.n, right[row.n % len(right)])


@stage("t.poison", version="1")
async def poison(n: int, *, ctx: Context, at: int = 3) -> Scored:
    called("poison")
    if n == at:
        raise ValueError(f"poison {n}")
    return Scored(n)


@stage("t.flaky", version="1")
async def flaky(n: int, *, ctx: Context, flag: Annotated[Path, NotResult]) -> Scored:
    called("flaky")
    if n == 3 and flag.exists():
        raise OSError("the network is down")
    return Scored(n)


@stage("t.work", version="1")
async def work(n: int, *, ctx: Context, flag: Annotated[Path, NotResult]) -> Scored:
    file = ctx.workdir / "state"
    before = int(file.read_text()) if file.exists() else 0
    file.write_text(str(before + 1))
    if flag.exists():
        await anyio.sleep_forever()
    return Scored(before)


@stage("t.cheap", version="1")
async def cheap(n: int, *, plus: int = 0) -> Scored:
    called("cheap")
    return Scored((n + plus) // 10)


@stage("t.unlawful", version="1")
async def unlawful(n: int, *, ctx: Context) -> Scored:
    ctx.counters.received += n == 3
    return Scored(n)


class Odd(Row):
    value: object


@stage("t.odd", version="1")
async def odd(n: int, *, kind: str) -> Odd:
    return Odd({"nan": float("nan"), "set": {1}}[kind] if n == 2 else n)


@stage("t.odd_batch", version="1")
async def odd_batch(rows: Sequence[Number], *, ctx: Context) -> list[Odd]:
    return [Odd({1} if row.n == 2 else row.n) for row in rows]


@stage("t.fails", version="1")
async def fails(rows: AsyncIterable[Row], *, at: int) -> None:
    count = 0
    async for _ in rows:
        count += 1
        if count == at:
            raise RuntimeError(f"fails at {at}")


@stage("t.twins", version="1")
async def twins() -> AsyncIterator[Number]:
    for i in range(2):
        yield Number(i, 0).keyed("a")


@stage("t.peek", version="1")
async def peek(rows: AsyncIterable[Number]) -> AsyncIterator[Total]:
    async for row in rows:
        yield Total(row["score"])
