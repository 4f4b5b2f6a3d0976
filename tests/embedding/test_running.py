"""Runs as part of a program: several at once, within each other, watched, slowed, stopped."""

import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

import engine
from engine import PipelineError, StoreError
from engine.chat import Answer, Chat, Request
from engine.testing import FakeChat

pytestmark = pytest.mark.anyio
Write = Callable[..., Path]
MANY = 10_000


def many() -> Any:
    return ({"question": "q", "number": n} for n in range(MANY))


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not true():
            await anyio.lowlevel.checkpoint()


# --- several at once ------------------------------------------------------------------------------


async def test_different_pipelines_at_once(plain: Path, pipeline: Write) -> None:
    spoken = pipeline(
        "stages: {turns: {use: ./stages.py:turns}, spoken: {use: ./stages.py:spoken}}",
        name="spoken.yaml",
    )
    async with (
        engine.open(plain, store=":memory:") as one,
        engine.open(spoken, store=":memory:") as other,
    ):
        assert [row["answer"] async for row in other] == [""]
        assert sorted([row["doubled"] async for row in one]) == [0, 2, 4]


@pytest.mark.parametrize("stores", ["memory", "folders", "none"])
async def test_one_pipeline_at_once_with_separate_stores(
    plain: Path, tmp_path: Path, stores: str
) -> None:
    found: dict[int, list[int]] = {}

    async def one(n: int) -> None:
        store = {"memory": ":memory:", "folders": tmp_path / f"store{n}", "none": None}[stores]
        rows = [{"question": "q", "number": n}] * 50
        async with engine.open(plain, inputs=rows, store=store) as run:
            found[n] = [row["doubled"] async for row in run]

    async with anyio.create_task_group() as tasks:
        for n in range(4):
            tasks.start_soon(one, n)
    assert found == {n: [2 * n] * 50 for n in range(4)}


@pytest.mark.parametrize("store", ["beside", "folder"])
async def test_one_store_for_two_runs_at_once_is_refused(
    plain: Path, tmp_path: Path, store: Any
) -> None:
    store = tmp_path / "store" if store == "folder" else store
    async with engine.open(plain, store=store) as first:
        with pytest.raises(StoreError, match="which is this one: .*give each a store of its own"):
            await engine.run(plain, store=store)
        assert (await first.finish()).finished == 3  # it has noticed nothing


async def test_a_run_within_a_stage_of_another(plain: Path, pipeline: Write) -> None:
    outer = pipeline(
        f"stages: {{questions: {{use: ./stages.py:questions}}, "
        f"within: {{use: ./stages.py:within, with: {{file: '{plain}'}}}}}}",
        name="outer.yaml",
    )
    for store in (None, ":memory:"):
        rows = [{"question": "q", "number": n} for n in range(20)]
        async with engine.open(outer, inputs=rows, store=store) as run:
            totals = {row["number"]: row["total"] async for row in run}
        assert totals == {n: n * (n - 1) for n in range(20)}


async def test_a_run_in_a_thread_with_a_loop_of_its_own(
    plain: Path, tmp_path: Path, anyio_backend: str
) -> None:
    other = "trio" if anyio_backend == "asyncio" else "asyncio"

    def in_thread(backend: str, store: Any) -> int:
        async def main() -> int:
            async with engine.open(plain, store=store) as run:
                ready.set()
                await anyio.to_thread.run_sync(go.wait)
                return (await run.finish()).finished

        return anyio.run(main, backend=backend)

    for backend, store in ((anyio_backend, tmp_path / "one"), (other, ":memory:")):
        ready, go = threading.Event(), threading.Event()
        found: list[int] = []

        async def thread(backend: str = backend, store: Any = store) -> None:
            found.append(await anyio.to_thread.run_sync(in_thread, backend, store))  # noqa: B023

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(thread)
            await anyio.to_thread.run_sync(ready.wait)  # that one is open while this one runs
            async with engine.open(plain, store=tmp_path / "two") as run:
                assert (await run.finish()).finished == 3
            go.set()
        assert found == [3]


# --- what runs share ------------------------------------------------------------------------------

ASK = """
resources:
  writer: {use: openai.chat, with: {model: nobody/none}}
stages:
  questions: {use: ./stages.py:questions}
  ask: {use: ./stages.py:ask, with: {llm: writer}, concurrency: 4}
"""


class Counted(FakeChat):
    """A chat that says when it is opened and closed, and how many it answers at once."""

    def __init__(self, at_once: int) -> None:
        super().__init__()
        self.limit, self.most = anyio.CapacityLimiter(at_once), 0
        self.events: list[str] = []

    async def __aenter__(self) -> "Counted":
        self.events.append("open")
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        self.events.append("close")

    async def send(self, request: Request) -> Answer:
        async with self.limit:
            self.most = max(self.most, int(self.limit.borrowed_tokens))
            await anyio.lowlevel.checkpoint()
            return await super().send(request)


async def test_two_runs_share_a_resource_that_they_neither_open_nor_close(
    pipeline: Write, stages_file: Path
) -> None:
    path, chat = pipeline(ASK, stages=stages_file), Counted(2)
    found: list[int] = []

    async def one() -> None:
        rows = [{"question": "q", "number": n} for n in range(10)]
        async with engine.open(path, inputs=rows, store=None, resources={"writer": chat}) as run:
            found.append((await run.finish()).finished)

    async with chat:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            tasks.start_soon(one)
        assert chat.events == ["open"]
    assert (found, chat.most, len(chat.requests)) == ([10, 10], 2, 20)


async def test_a_resource_that_fits_nothing_is_refused(pipeline: Write, stages_file: Path) -> None:
    path = pipeline(ASK, stages=stages_file)
    with pytest.raises(PipelineError, match="declares no resource 'wrtier'; did you mean 'writer'"):
        engine.open(path, resources={"wrtier": FakeChat()})
    with pytest.raises(PipelineError, match="'writer' is a object, which does not derive from"):
        engine.open(path, resources={"writer": object()})  # type: ignore[dict-item]


class Observer:
    """A plugin that is an object."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @engine.hookimpl
    def engine_event(self, event: Any) -> None:
        self.events.append(type(event).__name__)


async def test_an_object_given_as_a_plugin_observes_one_run_alone(plain: Path) -> None:
    one, other = Observer(), Observer()
    async with engine.open(plain, store=None, plugins=[one]) as run:
        async with engine.open(plain, store=None, plugins=[other]):
            pass
        await run.finish()
    assert one.events == ["RunStarted", "StageEnded", "StageEnded", "StageEnded", "RunEnded"]
    assert (other.events[0], other.events[-1]) == ("RunStarted", "RunEnded")


# --- a run that is watched, slowed and stopped ----------------------------------------------------


async def test_a_slow_reader_holds_the_run_back(plain: Path) -> None:
    taken = 0

    async def given() -> AsyncIterator[dict[str, Any]]:
        nonlocal taken
        for row in many():
            taken += 1
            yield row

    async with engine.open(plain, inputs=given(), store=None) as run:
        await anext(run)
        await anyio.wait_all_tasks_blocked()
        # 1024 finished, 1024 between two stages twice over, and one in each worker's hands
        assert 1024 <= taken <= 1 + 3 * 1024 + 2 * 8 + 1
        before = taken
        for _ in range(600):  # half of what waits, and then more is let in
            await anext(run)
        await anyio.wait_all_tasks_blocked()
        assert before < taken < MANY
        assert (await run.finish()).finished == MANY


async def test_counters_are_live_and_a_summary_is_a_snapshot(plain: Path) -> None:
    gate = anyio.Event()

    async def given() -> AsyncIterator[dict[str, Any]]:
        yield {"question": "q", "number": 1}
        await gate.wait()
        yield {"question": "q", "number": 2}

    async with engine.open(plain, inputs=given(), store=None) as run:
        await anext(run)
        counters, early = run.counters, run.summary
        assert (run.finished, counters["double"].out, early.finished) == (1, 1, 1)
        assert early.status == "running"
        gate.set()
        summary = await run.finish()
        assert (counters["double"].out, early.stages["double"].out) == (2, 1)
        assert (summary.finished, summary.status) == (2, "done")
        seconds = run.summary.seconds
        assert 0 < early.seconds < seconds
    assert run.summary.seconds == seconds  # the stages' time, not the reader's


async def test_two_readers_of_one_run_share_its_rows(plain: Path) -> None:
    seen: list[list[str]] = [[], []]

    async def read(n: int, run: engine.Run) -> None:
        async for row in run:
            seen[n].append(row.row_id)
            await anyio.lowlevel.checkpoint()

    async with engine.open(plain, inputs=many(), limit=100, store=None) as run:
        async with anyio.create_task_group() as tasks:
            for n in range(2):
                tasks.start_soon(read, n, run)
    assert len({*seen[0], *seen[1]}) == len(seen[0]) + len(seen[1]) == 100
    assert all(seen)


async def test_stop_ends_the_rows_and_keeps_what_is_stored(plain: Path, tmp_path: Path) -> None:
    found = 0
    async with engine.open(plain, inputs=many(), store=tmp_path / "store") as run:
        async for _ in run:
            found += 1
            run.stop()
    assert (run.summary.status, run.summary.exit_code) == ("interrupted", 130)
    assert 0 < found < MANY
    run.stop()  # once more is no error, and changes nothing
    assert run.summary.status == "interrupted"


async def test_stop_from_a_thread(plain: Path) -> None:
    async with engine.open(plain, inputs=many(), store=None) as run:
        await anext(run)

        def from_thread() -> None:
            anyio.from_thread.run_sync(run.stop)

        await anyio.to_thread.run_sync(from_thread)
        async for _ in run:
            pass
    assert run.summary.status == "interrupted"


async def test_drain_lets_what_is_in_flight_end(
    pipeline: Write, stages_file: Path, tmp_path: Path
) -> None:
    path, inside, gate = pipeline(ASK, stages=stages_file), anyio.Event(), anyio.Event()

    class Slow(FakeChat):
        async def send(self, request: Request) -> Answer:
            if len(self.requests) == 3:
                inside.set()
            self.requests.append(request)
            await gate.wait()
            return Answer("done")

    chat: Chat = Slow()
    async with engine.open(path, inputs=many(), store=tmp_path / "s", resources={"writer": chat}) as run:  # fmt: skip
        async with anyio.create_task_group() as tasks:
            await inside.wait()
            tasks.start_soon(run.drain)
            await anyio.wait_all_tasks_blocked()
            assert run.counters["ask"].in_flight == 4
            gate.set()
        assert [row["answer"] async for row in run] == ["done"] * 4
    assert run.summary.status == "interrupted"


@pytest.mark.parametrize("store", [None, ":memory:"])
async def test_all_that_had_finished_can_be_read_after_draining(
    plain: Path, store: str | None
) -> None:
    async with engine.open(plain, inputs=many(), store=store) as run:
        await until(lambda: run.finished > 1024)  # more than there is room for
        await run.drain()
        assert len([row async for row in run]) == run.finished


async def test_rows_may_be_read_after_the_stages_have_ended(plain: Path, tmp_path: Path) -> None:
    async with engine.open(plain, store=tmp_path / "store") as run:
        await until(lambda: run.summary.status == "done")
        assert sorted([row["doubled"] async for row in run]) == [0, 2, 4]
        assert [row async for row in run] == []
        assert (await run.finish()).finished == 3


async def test_the_store_stays_open_until_the_run_is_left(
    pipeline: Write, stages_file: Path
) -> None:
    path = pipeline(
        "stages: {questions: {use: ./stages.py:questions}, draw: {use: ./stages.py:draw}}",
        stages=stages_file,
    )
    observer = Observer()
    async with engine.open(path, store=":memory:", plugins=[observer]) as run:
        await until(lambda: run.summary.status == "done")
        await anyio.wait_all_tasks_blocked()
        assert "RunEnded" not in observer.events
        assert run.store is not None
        files = [run.store.blobs.path(row["drawing"]) async for row in run]
        assert sorted(f.read_text() for f in files) == [f"question {n}" for n in range(3)]
    assert observer.events[-1] == "RunEnded"
    assert not any(f.exists() for f in files)


async def test_a_pipeline_that_was_read_before(plain: Path) -> None:
    read = engine.open(plain, store=None).pipeline
    rows = [{"question": "q", "number": 7}]
    async with engine.open(read, inputs=rows, store=None) as run:
        assert [row["doubled"] async for row in run] == [14]
    for more in ({"set": ["seed=2"]}, {"into": "shout"}, {"resources": {"a": FakeChat()}}):
        with pytest.raises(TypeError, match="are for a pipeline yet to be read"):
            engine.open(read, inputs=rows, **more)  # type: ignore[arg-type]


def test_run_takes_what_open_takes(plain: Path) -> None:
    summary = anyio.run(lambda: engine.run(plain, store=None, limit=2))
    assert (summary.finished, summary.exit_code) == (2, 0)
