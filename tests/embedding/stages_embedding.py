"""Stages for the tests of embedding: a pipeline loads this file as its own."""

from collections.abc import AsyncIterator

import engine
from engine import Artifact, Context, Row, Text, stage
from engine.chat import Chat, Message
from engine.rows import Dialogue


class Question(Row):
    question: Text
    number: int
    note: str = "none"


class Answer(Row):
    answer: Text


class Doubled(Row):
    doubled: int


class Turns(Row):
    dialogue: Dialogue


class Total(Row):
    total: int


@stage("x.questions")
async def questions(*, count: int = 3) -> AsyncIterator[Question]:
    for n in range(count):
        yield Question(Text(f"question {n}"), n).keyed(str(n))


@stage("x.turns")
async def turns() -> AsyncIterator[Turns]:
    yield Turns(())


@stage("x.spoken")
async def spoken(dialogue: Dialogue) -> Answer:
    return Answer(Text(" / ".join(f"{turn.role}: {turn.content}" for turn in dialogue)))


@stage("x.shout")
async def shout(question: Text) -> Answer:
    return Answer(question.upper())


@stage("x.double")
async def double(number: int, *, bad: int = -1) -> Doubled:
    if number == bad:
        raise ValueError(f"{number} is bad")
    return Doubled(2 * number)


class Drawing(Row):
    drawing: Artifact


@stage("x.draw")
async def draw(question: Text, *, ctx: Context) -> Drawing:
    with ctx.blobs.new("text/plain") as blob:
        blob.path.write_text(question)
    return Drawing(blob.artifact)


@stage("x.ask")
async def ask(question: Text, *, llm: Chat) -> Answer:
    (reply,) = await llm.complete([Message(role="user", content=question)])
    return Answer(reply.text)


@stage("x.within")
async def within(number: int, *, file: str) -> Total:
    """Run a pipeline in a stage of another."""
    rows = [{"question": "?", "number": n} for n in range(number)]
    async with engine.open(file, inputs=rows, store=":memory:") as run:
        return Total(sum([row["doubled"] async for row in run]))
