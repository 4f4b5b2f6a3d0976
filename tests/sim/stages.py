"""The stages of simulated pipelines: every kind; they take virtual time, and tell the auditor.

`salt` changes the value of every other row, `idle` changes nothing but the fingerprint.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Annotated

import anyio

from engine import Added, Context, Message, Reject, Row, Text, stage
from engine.chat import Chat, Sampling
from engine.stages import NotResult
from tests.executor import test_random_pipelines as lists
from tests.executor.test_random_pipelines import Number, Value, children, twice
from tests.sim.server import SimChat, seen
from tests.sim.world import world

Most = Annotated[int, NotResult]
"""How many executions of the stage may be at work at once."""
GPUS = 2


class Spoken(Row):
    value: int
    text: Text


@contextlib.asynccontextmanager
async def at_work(ctx: Context, n: int, concurrency: int) -> AsyncIterator[None]:
    """Book an execution, and take a while."""
    here = world()
    with here.at_most(concurrency, ctx.stage_key):
        here.ran[ctx.stage_key, ctx.row_id] += ctx.attempt == 1
        await here.nap(ctx.stage_key, n, ctx.attempt)
        yield


def asked(prompt: str) -> list[Message]:
    return [Message(role="user", content=Text(prompt))]


def salted(value: int, n: int, salt: int) -> int:
    return value + salt * (n % 2)


@stage("sim.rows", version="1")
async def rows(*, values: tuple[int, ...], keyed: bool) -> AsyncIterator[Number | Reject]:
    for value in values:
        await world().nap("rows", value)
        if value % 9 == 4:
            yield Reject("four")
        else:
            yield Number(value).keyed(str(value)) if keyed else Number(value)


@stage("sim.cheap", version="1")
async def cheap(n: int, *, salt: int = 0, idle: int = 0) -> Value:
    await world().nap("cheap", n)
    return Value(salted(twice(n), n, salt))


@stage("sim.steps", version="1")
async def steps(n: int, *, most: Most, salt: int = 0, idle: int = 0, ctx: Context) -> Value:
    async with at_work(ctx, n, most):
        if ctx.attempt == 1 and n % 5 == 1:
            raise OSError("not yet")
        return Value(salted(twice(n), n, salt))


@stage("sim.naps", version="1")
async def naps(n: int, *, most: Most, salt: int = 0, idle: int = 0, ctx: Context) -> Value:
    async with at_work(ctx, n, most):
        with world().at_most(GPUS, "gpu"):
            if n % 13 == 11 or (ctx.attempt == 1 and n % 7 == 3):
                await anyio.sleep_forever()
            await world().nap("gpu", n)
        return Value(salted(n, n, salt))


@stage("sim.gate", version="1")
async def gate(n: int, *, most: Most, idle: int = 0, ctx: Context) -> None:
    async with at_work(ctx, n, most):
        if n % 4 == 3:
            raise Reject("three")


@stage("sim.ask", version="1")
async def ask(
    n: int, *, llm: Chat, most: Most, samples: int, salt: int = 0, idle: int = 0, ctx: Context
) -> Spoken:
    async with at_work(ctx, n, most):
        prompt = f"ask|{ctx.stage_key}|{ctx.row_id}|{n}"
        replies = await llm.complete(asked(prompt), n=samples, sampling=Sampling(seed=0))
        values = [seen(prompt, reply.text) for reply in replies]
        for reply in replies:
            if reply.text.startswith("garbage"):
                reply.refuse("garbage")
        return Spoken(salted(sum(values), n, salt), replies[0].text[:4])


@stage("sim.talk", version="1")
async def talk(n: int, *, llm: Chat, most: Most, idle: int = 0, ctx: Context) -> Spoken:
    async with at_work(ctx, n, most):
        total, prompt = 0, f"talk|{ctx.stage_key}|{ctx.row_id}|{n}"
        for _ in range(2):  # the same request twice: two calls
            (reply,) = await llm.complete(asked(prompt), sampling=Sampling(seed=0))
            total += seen(prompt, reply.text)
        return Spoken(total, reply.text)


@stage("sim.slow", version="1")
async def slow(n: int, *, llm: Chat, most: Most, idle: int = 0, ctx: Context) -> Spoken:
    async with at_work(ctx, n, most):
        prompt = f"slow|{ctx.stage_key}|{ctx.row_id}|{n}"
        (reply,) = await llm.complete(asked(prompt))
        return Spoken(seen(prompt, reply.text), reply.text)


@stage("sim.splits", version="1")
async def splits(
    n: int, *, most: Most, salt: int = 0, idle: int = 0, ctx: Context
) -> AsyncIterator[Number | Reject]:
    async with at_work(ctx, n, most):
        for child in children(n):
            await world().nap("child", n)
            yield Reject("child") if child is None else Number(salted(child, n, salt))
            if ctx.attempt == 1 and n % 6 == 1:
                raise OSError("not yet")
        if n % 5 == 3:
            raise Reject("midway")
        if n % 11 == 6:
            raise ValueError("at the end")


@stage("sim.inquires", version="1")
async def inquires(
    n: int, *, llm: Chat, most: Most, idle: int = 0, ctx: Context
) -> AsyncIterator[Number]:
    async with at_work(ctx, n, most):
        for i in range(n % 3):
            prompt = f"child|{ctx.stage_key}|{ctx.row_id}|{n}|{i}"
            (reply,) = await llm.complete(asked(prompt))
            yield Number((seen(prompt, reply.text) + i) % 50)
            if ctx.attempt == 1 and n % 6 == 2:
                raise OSError("not yet")


def scored(n: int, salt: int) -> Value | Reject:
    return Reject("seven") if n % 8 == 7 else Value(salted(n + 1, n, salt))


@stage("sim.scores", version="1")
async def scores(
    rows: Sequence[Number], *, salt: int = 0, idle: int = 0, ctx: Context
) -> list[Value | Reject]:
    for row in rows:
        world().ran[ctx.stage_key, row.row_id] += 1
    await world().nap("scores", rows[0].n)
    if any(row.n % 13 == 6 for row in rows):
        raise ValueError("six")
    return [scored(row.n, salt) for row in rows]


@stage("sim.rates", version="1")
async def rates(
    rows: Sequence[Number], *, llm: Chat, idle: int = 0, ctx: Context
) -> list[Spoken | Reject]:
    found: dict[str, Spoken] = {}

    async def rate(row: Number) -> None:
        prompt = f"rate|{ctx.stage_key}|{row.row_id}|{row.n}"
        (reply,) = await llm.for_row(row).complete(asked(prompt))
        found[row.row_id] = Spoken(seen(prompt, reply.text), reply.text)

    for row in rows:
        world().ran[ctx.stage_key, row.row_id] += 1
    async with anyio.create_task_group() as tasks:
        for row in rows:
            tasks.start_soon(rate, row)
    if any(row.n % 13 == 6 for row in rows):
        raise ValueError("six")
    return [found[row.row_id] for row in rows]


@stage("sim.judge", version="1")
async def judge(
    rows: AsyncIterable[Number], *, llm: Chat, idle: int = 0, ctx: Context
) -> AsyncIterator[Added[Spoken] | Reject]:
    world().ran[ctx.stage_key, ""] += 1
    async for row in rows:
        if row.n % 6 == 5:
            yield row.reject("five")
            continue
        prompt = f"judge|{ctx.stage_key}|{row.row_id}|{row.n}"
        (reply,) = await llm.for_row(row).complete(asked(prompt))
        yield row.add(Spoken(seen(prompt, reply.text), reply.text))


@stage("sim.backwards", version="1")
async def backwards(
    rows: AsyncIterable[Number], *, idle: int = 0, ctx: Context
) -> AsyncIterator[Number | Reject]:
    world().ran[ctx.stage_key, ""] += 1
    async with contextlib.aclosing(lists.backwards(rows)) as found:  # type: ignore[type-var]
        async for row in found:
            yield row


@stage("sim.some", version="1")
async def some(
    rows: AsyncIterable[Number], *, idle: int = 0, ctx: Context
) -> AsyncIterator[Number]:
    world().ran[ctx.stage_key, ""] += 1
    async with contextlib.aclosing(lists.some(rows)) as found:  # type: ignore[type-var]
        async for row in found:
            await world().nap("some", row.n)
            yield row


@stage("sim.placed", version="1")
async def placed(
    rows: AsyncIterable[Number], *, idle: int = 0, ctx: Context
) -> AsyncIterator[Added[Value]]:
    world().ran[ctx.stage_key, ""] += 1
    async with contextlib.aclosing(lists.placed(rows)) as found:  # type: ignore[type-var]
        async for row in found:
            yield row


@stage("sim.pairs", version="1")
async def pairs(
    rows: AsyncIterable[Number], *, idle: int = 0, ctx: Context
) -> AsyncIterator[Value]:
    world().ran[ctx.stage_key, ""] += 1
    async with contextlib.aclosing(lists.pairs(rows)) as found:  # type: ignore[type-var]
        async for row in found:
            yield row


@stage("sim.zipped", version="1")
async def zipped(
    a: AsyncIterable[Number], b: AsyncIterable[Number], *, idle: int = 0, ctx: Context
) -> AsyncIterator[Value]:
    world().ran[ctx.stage_key, ""] += 1
    async with contextlib.aclosing(lists.zipped(a, b)) as found:  # type: ignore[type-var]
        async for row in found:
            yield row


@stage("sim.collect", version="1")
async def collect(rows: AsyncIterable[Row], *, place: str) -> None:
    """Publish all rows at once, as a file that is renamed would."""
    found = []
    async for row in rows:
        fields = {n: row[n] for n in sorted(row)}
        graphs = {f"{n}'s graph": v.did.hex() for n, v in fields.items() if isinstance(v, Text)}
        found.append({"row_id": row.row_id, **fields, **graphs})
    if not world().dead:
        world().sinks[place] = found


STAGES = (
    rows,
    cheap,
    steps,
    naps,
    gate,
    ask,
    talk,
    slow,
    splits,
    inquires,
    scores,
    rates,
    judge,
    backwards,
    some,
    placed,
    pairs,
    zipped,
    collect,
    SimChat,
)
