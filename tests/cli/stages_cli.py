"""Stages of a small pipeline whose runs the command line looks at."""

import sys
from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated

import anyio

from engine import Message, Reject, Row, Text, stage
from engine.chat import Chat
from engine.stages import NotResult


class Topic(Row):
    topic: Text
    weight: int


class Item(Row):
    item: int


class Said(Row):
    said: Text


class Loud(Row):
    loud: Text


@stage("t.topics", version="1")
async def topics(*, count: int = 4, weight: int = 1) -> AsyncIterator[Topic]:
    for i in range(count):
        yield Topic(Text(f"topic {i}"), weight * i).keyed(str(i))


@stage("t.items", version="1")
async def items(topic: Text, *, per_topic: int = 2) -> AsyncIterator[Item]:
    for i in range(per_topic):
        yield Item(i)


@stage("t.say")
async def say(
    topic: Text, item: int, *, llm: Chat, end: str = ".", stop: Annotated[str, NotResult] = "none"
) -> Said:
    """Ask, and end with `end`; at the topic `stop`, wait for ever, with all before it durable."""
    question = Message(role="user", content=f"say {topic} {item}")
    if stop == topic:
        for i in range(4):
            await llm.complete([question], key=f"stop {i}")
        print("it waits", file=sys.stderr, flush=True)
        await anyio.sleep_forever()
    (reply,) = await llm.complete([question])
    if "boom" in reply.text:
        raise ValueError(f"it said {reply.text}")
    if "no" in reply.text:
        raise Reject("said no", span=reply.text)
    return Said(reply.text + Text(end))


@stage("t.weigh", version="1")
async def weigh(said: Text, weight: int, *, llm: Chat) -> Loud:
    return Loud(Text(f"{said} {weight}"))


@stage("t.unique", version="1")
async def unique(rows: AsyncIterable[Said]) -> AsyncIterator[Said | Reject]:
    seen = set()
    async for row in rows:
        yield row.reject("twin") if row.said in seen else row
        seen.add(row.said)
