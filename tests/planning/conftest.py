"""A pipeline with a stage of every kind, and a model that rejects a known part of what it writes."""

import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from pathlib import Path

import anyio
import pytest

import engine
from engine import Added, Context, Estimate, Message, Reject, Row, Summary, Text, plan_of, stage
from engine.chat import Answer, Chat, Endpoint, Feature, Limiter, Request
from engine.pipeline import Pipeline, read_pipeline
from engine.planning import Estimated, open_pilot, scaled
from engine.services import Usage
from engine.store import SqliteStore


class Topic(Row):
    topic: Text


class Plan(Row):
    plan: Text


class Said(Row):
    said: Text


class Better(Row):
    better: Text


class Audited(Row):
    opinion: Text | None


class Score(Row):
    score: float


class Marked(Row):
    marked: bool


@stage("t.topics", version="1")
async def topics(*, count: int) -> AsyncIterator[Topic]:
    for i in range(count):
        yield Topic(Text(f"topic {i}"))


@plan_of(topics)
def topics_plan(rows: int, *, count: int) -> Estimate:
    if count > 10_000:
        raise ValueError(f"there are not {count} topics in the world")
    return Estimate(count)


@stage("t.invented", version="1")
async def invented(*, llm: Chat, count: int) -> AsyncIterator[Topic]:
    """Yield topics of which the model names one a call."""
    for i in range(count):
        (reply,) = await llm.complete([Message(role="user", content=f"topic {i}")])
        yield Topic(reply.text)


@plan_of(invented)
def invented_plan(rows: int, *, count: int) -> Estimate:
    return Estimate(count, calls=count, new=5 * count, out=9 * count)


@stage("t.plans", version="1")
async def plans(topic: Text, *, llm: Chat, each: int) -> AsyncIterator[Plan]:
    for call in range(each // 5):
        (reply,) = await llm.complete([Message(role="user", content=f"plan {topic} {call}")])
        for i in range(5):
            yield Plan(reply.text[i : i + 10])


@plan_of(plans)
def plans_plan(rows: int, *, each: int, llm: str) -> Estimate:
    assert llm == "llm"
    calls = rows * each // 5
    return Estimate(rows * each, calls=calls, new=100 * calls, cached=50 * calls, out=200 * calls)


@stage("t.some", version="1")
async def some(topic: Text) -> AsyncIterator[Plan]:
    yield Plan(topic)


@stage("t.say", version="1")
async def say(topic: Text, plan: Text, *, llm: Chat) -> Said:
    """Ask once: a fifth of the replies is rejected."""
    (reply,) = await llm.complete([Message(role="user", content=f"say {topic} {plan}")])
    if reply.text.startswith("no"):
        raise Reject("no")
    return Said(reply.text)


@stage("t.mend", version="1")
async def mend(said: Text, *, llm: Chat) -> Better:
    """Ask until a reply is good: a tenth is not."""
    (reply,) = await llm.complete([Message(role="user", content=f"mend {said}")])
    if reply.text.startswith("bad"):
        reply.refuse("bad")
    return Better(reply.text[: len(reply.text) // 2])


@stage("t.audit", version="1")
async def audit(better: Text, *, llm: Chat, share: float, ctx: Context) -> Audited:
    """Ask about few rows."""
    if ctx.rng.random() >= share:
        return Audited(None)
    (reply,) = await llm.complete([Message(role="user", content=f"audit {better}")])
    return Audited(reply.text)


@plan_of(audit)
def audit_plan(rows: int, *, share: float) -> Estimate:
    return Estimate(rows, calls=rows * share, new=50 * rows * share, out=40 * rows * share)


@stage("t.score", version="1")
async def score(rows: Sequence[Better], *, llm: Chat) -> list[Score | Reject]:
    return [Score(len(row.better)) for row in rows]


@stage("t.mark", version="1")
async def mark(rows: AsyncIterable[Row]) -> AsyncIterator[Added[Marked] | Reject]:
    """Drop every tenth row."""
    at = 0
    async for row in rows:
        yield row.reject("tenth") if at % 10 == 9 else row.add(Marked(True))
        at += 1


class Writer(Endpoint):
    """Replies drawn by what is asked and the seed; each call takes time, and tokens that vary."""

    def __init__(self, seconds: float = 0.0, prices: bool = True, **limits: float) -> None:
        self.name, self.sent, self.seconds = "writer", 0, seconds
        self.prices = (1.0, 0.5, 2.0) if prices else None
        self.limiter = Limiter(64, **limits)  # type: ignore[arg-type]

    @property
    def identity(self) -> str:
        return "writer"

    @property
    def can(self) -> frozenset[Feature]:
        return frozenset()

    async def send(self, request: Request) -> Answer:
        self.sent += 1
        asked = request.messages[-1].content
        drawn = random.Random(f"{asked} {request.sampling.seed}")
        if self.seconds:
            await anyio.sleep(self.seconds * drawn.uniform(0.5, 1.5))
        task = asked.partition(" ")[0]
        text = " ".join(str(drawn.randrange(1000)) for _ in range(drawn.randrange(20, 60)))
        if drawn.random() < {"say": 0.2, "mend": 0.1}.get(task, 0.0):
            text = f"{'no' if task == 'say' else 'bad'} {text}"
        usage = Usage(len(asked.split()) + drawn.randrange(40), 30, len(text.split()))
        a, b, c = self.prices or (0.0, 0.0, 0.0)
        cost = (usage.new * a + usage.cached * b + usage.out * c) / 1e6
        return Answer(text, "stop", Usage(usage.new, usage.cached, usage.out, cost))


STAGES = [topics, invented, plans, some, say, mend, audit, score, mark]

PIPELINE = """
name: planned
seed: 3
resources: {llm: {use: fixture.chat, with: {file: none.jsonl}}}
stages:
  topics: {use: t.topics, with: {count: 30}}
  plans: {use: t.plans, with: {llm: llm, each: 10}}
  say: {use: t.say, with: {llm: llm}}
  mend: {use: t.mend, with: {llm: llm}}
  mark: {use: t.mark}
  score: {use: t.score, with: {llm: llm}}
  out: {use: dataset.write, with: {path: out.jsonl, fields: [row_id, better, score]}}
"""


class Folder:
    """A pipeline in a folder, piloted and run."""

    new_writer = Writer

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.file, self.written = path / "p.yaml", path / "out.jsonl"
        self.file.write_text(PIPELINE)
        (path / "none.jsonl").write_text("")

    def change(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def read(self, writer: Writer, *overrides: str) -> Pipeline:
        return read_pipeline(
            self.file, overrides=overrides, plugins=STAGES, resources={"llm": writer}
        )

    async def pilot(
        self,
        writer: Writer,
        *overrides: str,
        rows: int = 50,
        wanted: int | None = None,
        kept: bool = True,
    ) -> Estimated:
        """Run a pilot; in the pipeline's store, or in memory if it is not to be kept."""
        store = None if kept else SqliteStore(None)
        async with open_pilot(self.read(writer, *overrides), rows, store=store) as run:
            await run.finish()
        return scaled(run.pilot, wanted)

    async def run(self, writer: Writer, *overrides: str, kept: bool = True) -> Summary:
        store = "beside" if kept else ":memory:"
        return await engine.run(self.read(writer, *overrides), store=store)


@pytest.fixture
def new(tmp_path: Path) -> Callable[[], Folder]:
    """Make a folder."""
    numbers = iter(range(9))
    return lambda: Folder(tmp_path / str(next(numbers)))


@pytest.fixture
def folder(new: Callable[[], Folder]) -> Folder:
    return new()
