"""However a run ends early, the calls in flight end first: they are paid, and their replies kept."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from pathlib import Path

import anyio
import pytest

import engine
from engine import CostError, Reject, ResourceError, Row, Text, stage
from engine.chat import Answer, Chat, Message, Request
from engine.errors import ChatError
from engine.services import Usage
from engine.store import find_runs
from engine.testing import FakeChat

pytestmark = pytest.mark.anyio
Write = Callable[..., Path]


class Number(Row):
    n: int


class Said(Row):
    said: Text


@stage("g.numbers")
async def numbers(*, count: int = 8) -> AsyncIterator[Number]:
    for n in range(count):
        yield Number(n).keyed(str(n))


@stage("g.ask")
async def ask(n: int, *, llm: Chat, calls: int = 1) -> Said:
    for i in range(calls):
        (reply,) = await llm.complete([Message(role="user", content=Text(f"{n} {i}"))])
    return Said(reply.text)


@stage("g.ask_all")
async def ask_all(rows: Sequence[Number], *, llm: Chat) -> list[Said | Reject]:
    return [Said((await llm.for_row(row).complete(_ask(row.n)))[0].text) for row in rows]


def _ask(n: int) -> list[Message]:
    return [Message(role="user", content=Text(f"{n} 0"))]


@stage("g.fail")
async def fail(n: int, *, at: int) -> None:
    if n == at:
        await READY[-1].wait()
        raise ValueError("here")


READY: list[anyio.Event] = []
STAGES = [numbers, ask, ask_all, fail]
PIPELINE = """
resources: {llm: {use: openai.chat, with: {model: m, base_url: 'http://localhost:1/v1'}}}
stages:
  numbers: {use: g.numbers}
  ask: {use: g.ask, with: {llm: llm, calls: 2}, concurrency: 3}
"""


class Held(FakeChat):
    """Answers once the gate is open; a reply costs what it was told."""

    def __init__(
        self, *, hold: int = 99, cost: float = 0.0, error: Exception | None = None
    ) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.gate, self.waits = anyio.Event(), anyio.Event()
        self._hold, self._cost, self._error = hold, cost, error

    async def send(self, request: Request) -> Answer:
        self.asked.append(request.messages[-1].content)
        if len(self.asked) == self._hold:
            self.waits.set()
        if len(self.asked) > self._hold and self._error is not None:
            raise self._error
        if self._hold < 99:
            await self.gate.wait()
        return Answer("done", usage=Usage(1, 0, 1, self._cost))


@pytest.fixture
def go(pipeline: Write, tmp_path: Path) -> Callable[..., engine.Run]:
    path = pipeline(PIPELINE)

    def start(chat: Chat, *overrides: str) -> engine.Run:
        READY.append(anyio.Event())
        return engine.open(
            path,
            set=overrides,
            plugins=STAGES,
            resources={"llm": chat},
            store=tmp_path / "store",
        )

    return start


async def test_a_run_that_drains_makes_no_new_call(go: Callable[..., engine.Run]) -> None:
    chat = Held(hold=3)
    async with go(chat) as run, anyio.create_task_group() as tasks:
        await chat.waits.wait()
        tasks.start_soon(run.drain)
        await anyio.wait_all_tasks_blocked()
        assert run.summary.status == "running", "three calls are in flight"
        chat.gate.set()
    assert run.summary.status == "interrupted"
    assert len(chat.asked) == run.counters["ask"].calls == 3, "the second call of a row never went"
    second = Held()
    async with go(second) as run:
        summary = await run.finish()
    assert (summary.finished, summary.stages["ask"].replayed) == (8, 3)
    assert len(second.asked) == 13


@pytest.mark.parametrize("use", ["ask", "ask_all"])
async def test_a_call_that_waits_for_a_budget_holds_no_run_up(
    go: Callable[..., engine.Run], use: str
) -> None:
    patient = ChatError("slow down", retryable=True, retry_after=3600)
    chat = Held(hold=1, error=patient)
    take = ["stages.ask.with={llm: llm}"] if use == "ask_all" else []
    async with go(chat, f"stages.ask.use=g.{use}", "stages.ask.batch=2", *take) as run:
        await chat.waits.wait()
        chat.gate.set()
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(10):
            await run.drain()
    assert run.summary.status == "interrupted"
    assert run.counters["ask"].calls >= 1


@pytest.mark.parametrize("what", ["stage", "resource", "store"])
async def test_a_failure_waits_for_the_calls_in_flight(
    go: Callable[..., engine.Run], what: str
) -> None:
    chat = Held(hold=3, error=ResourceError("the key is wrong") if what == "resource" else None)
    slots = "stages.ask.concurrency=4" if what == "resource" else "stages.ask.concurrency=3"
    branch = "stages.fail={use: g.fail, from: numbers, on_error: fail, retry: 1, with: {at: 2}}"
    said = {"stage": "ValueError: here", "resource": "key is wrong", "store": "no space"}
    with pytest.raises(engine.EngineError, match=said[what]):
        async with go(chat, slots, branch) as run:
            await chat.waits.wait()
            if what == "stage":
                READY[-1].set()
            elif what == "store":
                run.store.on_trouble(engine.StoreError("no space"))
            await anyio.wait_all_tasks_blocked()
            assert run.summary.status == "running"
            chat.gate.set()
            await run.finish()
    assert run.summary.status == "failed"
    assert run.counters["ask"].calls == 3
    second = Held()
    async with go(second) as run:
        summary = await run.finish()
    assert summary.stages["ask"].replayed == 3, "what was paid is not paid again"
    assert len(second.asked) == 13


async def test_a_run_costs_no_more_than_it_may(go: Callable[..., engine.Run]) -> None:
    chat = Held(cost=0.25)
    with pytest.raises(CostError, match="have cost 1, and `max_cost` is 1"):
        async with go(chat, "max_cost=1", "stages.ask.concurrency=1") as run:
            await run.finish()
    assert (len(chat.asked), run.summary.exit_code) == (4, 1)
    more = Held(cost=0.25)
    async with go(more, "max_cost=4") as run:
        assert (await run.finish()).finished == 8
    assert len(more.asked) == 12


async def test_a_call_that_cannot_succeed_is_made_once(go: Callable[..., engine.Run]) -> None:
    chat = Held(hold=0, error=ChatError("400: too long"))
    async with go(chat, "stages.numbers.with.count=2") as run:
        summary = await run.finish()
    assert (summary.dead, len(chat.asked)) == (2, 2)
    assert summary.stages["ask"].reasons == {"dead: ChatError: 400: too long": 2}


async def test_a_dead_letter_says_where_it_was_raised(
    go: Callable[..., engine.Run], tmp_path: Path
) -> None:
    branch = "stages.fail={use: g.fail, from: numbers, retry: 1, with: {at: 2}}"
    async with go(Held(), branch) as run:
        READY[-1].set()
        summary = await run.finish()
    (example,) = summary.stages["fail"].examples["dead: ValueError: here"]
    line = fail.__code__.co_firstlineno + 4
    assert f"test_gate.py:{line} in fail" in example
    store = find_runs(tmp_path / "store")
    (letter,) = store.rows(fate="dead", run=1)
    store.close()
    assert letter.note["at"] in example
    assert (letter.note["class"], letter.note["attempts"]) == ("ValueError", 1)


@pytest.mark.parametrize("store", [None, ":memory:"])
async def test_a_batch_that_is_halved_pays_for_no_call_again(
    pipeline: Write, store: str | None
) -> None:
    path = pipeline(PIPELINE)
    chat = Held()
    poison = [
        "stages.ask.use=g.ask_and_fail",
        "stages.ask.batch=4",
        "stages.ask.concurrency=1",
        "stages.ask.with={llm: llm}",
        "stages.numbers.with.count=4",
        "stages.ask.retry=1",
    ]
    plugins = [*STAGES, ask_and_fail]
    async with engine.open(
        path, set=poison, plugins=plugins, resources={"llm": chat}, store=store
    ) as run:
        summary = await run.finish()
    assert (summary.finished, summary.dead) == (3, 1)
    assert sorted(chat.asked) == ["0 0", "1 0", "2 0", "3 0"]


async def test_a_second_signal_does_not_hide_why_the_run_ends(
    go: Callable[..., engine.Run],
) -> None:
    chat = Held(hold=3)
    with pytest.raises(engine.StoreError, match="no space"):
        async with go(chat) as run:
            await chat.waits.wait()
            run.store.on_trouble(engine.StoreError("no space"))
            await anyio.wait_all_tasks_blocked()
            run.stop()
            await run.finish()
    assert (run.summary.status, run.summary.exit_code) == ("failed", 4)


@stage("g.ask_and_fail")
async def ask_and_fail(rows: Sequence[Number], *, llm: Chat) -> list[Said | Reject]:
    said = [Said((await llm.for_row(row).complete(_ask(row.n)))[0].text) for row in rows]
    if any(row.n == 2 for row in rows):
        raise ValueError("two")
    return said


@stage("g.ask_at_once")
async def ask_at_once(rows: AsyncIterable[Number], *, llm: Chat) -> AsyncIterator[Number]:
    async for row in rows:
        async with anyio.create_task_group() as tasks:
            for n in range(2):
                tasks.start_soon(llm.complete, _ask(n))
        yield row


async def test_child_tasks_of_a_stream_that_meet_a_refused_key_say_so(
    pipeline: Write,
) -> None:
    path = pipeline(PIPELINE)
    chat = Held(hold=0, error=ResourceError("the key is wrong"))
    use = ["stages.ask={use: g.ask_at_once, with: {llm: llm}}"]
    with pytest.raises(ResourceError, match="the key is wrong"):
        await engine.run(
            path, set=use, plugins=[*STAGES, ask_at_once], resources={"llm": chat}, store=None
        )
