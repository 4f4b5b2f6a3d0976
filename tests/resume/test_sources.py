"""A source that asks a model: what it refuses is drawn again, and nothing is paid for twice."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import engine
from engine import Row, StageError, Text, stage
from engine.chat import Chat, Message
from engine.testing import FakeChat

pytestmark = pytest.mark.anyio


class Topic(Row):
    topic: Text


@stage("s.topics")
async def topics(*, llm: Chat, calls: int = 3) -> AsyncIterator[Topic]:
    for i in range(calls):
        (reply,) = await llm.complete([Message(role="user", content=Text(f"topic {i}"))])
        if reply.text.startswith("garbage"):
            reply.refuse("garbage")
        yield Topic(reply.text)


@pytest.mark.parametrize("store", [None, "beside"])
async def test_it_begins_again_and_draws_the_next_sample(
    pipeline: Callable[..., Path], store: str | None
) -> None:
    path = pipeline(
        "resources: {llm: {use: openai.chat, with: {model: m, base_url: 'http://localhost:1/v1'}}}\n"
        "stages: {topics: {use: s.topics, with: {llm: llm}}}"
    )
    replies = ["one", "garbage", "garbage again", "two", "three"]
    for chat in (FakeChat(replies), FakeChat(replies if store is None else [])):
        async with engine.open(path, plugins=[topics], resources={"llm": chat}, store=store) as run:
            assert [row["topic"] async for row in run] == ["one", "two", "three"]
        assert run.summary.stages["topics"].refused == 2
        assert run.counters["topics"].out == 3


async def test_after_its_last_attempt_the_run_says_how_to_draw_more(
    pipeline: Callable[..., Path],
) -> None:
    path = pipeline(
        "resources: {llm: {use: openai.chat, with: {model: m, base_url: 'http://localhost:1/v1'}}}\n"
        "stages: {topics: {use: s.topics, with: {llm: llm, calls: 1}}}"
    )
    chat = FakeChat(["garbage 1", "garbage 2", "garbage 3", "good"])
    for _ in range(2):
        with pytest.raises(
            StageError, match="3 attempts, the last for 'garbage': .*higher `retry`"
        ):
            await engine.run(path, plugins=[topics], resources={"llm": chat})
    assert len(chat.requests) == 3
    more = ["stages.topics.retry=4"]
    summary = await engine.run(path, plugins=[topics], resources={"llm": chat}, set=more)
    assert (summary.finished, len(chat.requests)) == (1, 4)
