"""Stages of every kind that call a model; the gates are functions of the reply alone."""

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Annotated

import anyio
from pydantic import BaseModel

from engine import Added, Context, Reject, Row, Text, stage
from engine.chat import Chat, Message, Reply, Sampling
from engine.stages import NotResult

LONGEST = 2000


class Number(Row):
    n: int


class Answers(Row):
    first: Text
    second: Text


class Part(Row):
    part: Text


class Score(Row):
    score: int


class Place(Row):
    place: int
    remark: Text


class Side(Row):
    side: str
    said: Text


class Closing(Row):
    length: int


class Paired(Row):
    left: Text
    right: Text
    verdict: Text


class Verdict(BaseModel):
    score: int
    why: Text


def ask(text: str) -> list[Message]:
    return [Message(role="user", content=Text(text))]


def checked(reply: Reply) -> Text:
    """Return what a reply says; refuse what is empty, cut off or without end."""
    if reply.finish in ("length", "content_filter"):
        reply.refuse(reply.finish)
    if not reply.text.strip():
        reply.refuse("empty")
    if len(reply.text) > LONGEST:
        reply.refuse("too_long")
    return reply.text


@stage("kinds.numbers", version="1")
async def numbers(*, count: int) -> AsyncIterator[Number]:
    for n in range(count):
        yield Number(n)


@stage("kinds.answers", version="1")
async def answers(n: int, *, llm: Chat) -> Answers:
    first, second = await llm.complete(ask(f"Say something about {n}."), n=2)
    return Answers(checked(first), checked(second))


@stage("kinds.parts", version="1")
async def parts(n: int, first: Text, *, llm: Chat, ctx: Context) -> AsyncIterator[Part | Reject]:
    for i in range(1 + n % 3):
        [reply] = await llm.complete(ask(f"Part {i} of {n}: ") + ask(first[:200]))
        text = checked(reply)
        if ctx.rng.random() < 0.1:
            yield Reject("drawn", span=text)
        else:
            yield Part(text)


@stage("kinds.scores", version="1")
async def scores(rows: Sequence[Part], *, llm: Chat) -> list[Score | Reject]:
    found: dict[int, Score | Reject] = {}
    errors: list[Exception] = []

    async def one(at: int, row: Part) -> None:
        try:
            [reply] = await llm.for_row(row).complete(ask(f"Score: {row.part}"), schema=Verdict)
            score = reply.parse(Verdict).score
            found[at] = Reject("low", span=row.part) if score < 10 else Score(score)
        except Exception as error:  # what the others are paid for is not cancelled
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for at, row in enumerate(rows):
            tasks.start_soon(one, at, row)
    if errors:
        raise errors[0]
    return [found[at] for at in range(len(rows))]


@stage("kinds.places", version="1")
async def places(rows: AsyncIterable[Score], *, llm: Chat) -> AsyncIterator[Added[Place] | Reject]:
    held = [row async for row in rows]
    for place, row in enumerate(sorted(held, key=lambda row: -row.score)):
        [reply] = await llm.complete(ask(f"Remark on place {place}."))
        if place % 7 == 6:
            yield row.reject("seventh")
        else:
            yield row.add(Place(place, reply.text[:LONGEST]))


@stage("kinds.side", version="1")
async def side(place: int, part: Text, *, llm: Chat, name: str) -> Side:
    if place % 2 == (name == "left"):
        raise Reject("the other side")
    [reply] = await llm.complete(ask(f"From the {name}: {part[:200]}"))
    return Side(name, checked(reply))


@stage("kinds.closing", version="1")
async def closing(said: Text) -> Closing:
    return Closing(len(said))


@stage("kinds.pairs", version="1")
async def pairs(
    a: AsyncIterable[Side], b: AsyncIterable[Side], *, llm: Chat
) -> AsyncIterator[Paired]:
    left = [row.said async for row in a]
    at = 0
    async for row in b:
        if at < len(left):
            [reply] = await llm.complete(ask(f"Compare {at}."))
            yield Paired(left[at], row.said, reply.text[:LONGEST])
        at += 1


@stage("kinds.once", version="1")
async def once(n: int, *, llm: Chat) -> Part:
    """Ask until the reply is good: samples are seeded 100, 101, 102, and two are garbage."""
    said = ask(f"Good from seed 102: word {n}")
    [reply] = await llm.complete(said, sampling=Sampling(seed=100))
    return Part(checked(reply))


@stage("kinds.poison", version="1")
async def poison(part: Text, *, llm: Chat) -> None:
    """Die of a hostile text, and show it."""
    await llm.complete(ask(f"Poison {part[:200]}"))
    if "$(" in part or "\x00" in part:
        raise ValueError(f"cannot read {part}")


@stage("kinds.echoed", version="1")
async def echoed(part: Text, *, llm: Chat, token: Annotated[str, NotResult] = "") -> Side:
    """Say the text again; `token` is a secret that a pipeline takes from the environment."""
    [reply] = await llm.complete(ask(f"Echo {part[:200]} {len(token)}"))
    return Side(part[:200], checked(reply))
