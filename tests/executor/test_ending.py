"""However a run ends, it leaves no task, no open resource and no half-written file."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.lowlevel
import pytest

import engine
from engine import Resource, ResourceError, Row, StageError, resource, stage
from engine.plugins import Plugins

pytestmark = pytest.mark.anyio
STAGES = Path(__file__).with_name("stages_kinds.py")
Write = Callable[..., Path]
LOG: list[str] = []


@resource("held.thing")
class Thing(Resource):
    """A resource that says when it is opened and closed."""

    def __init__(self, *, name: str = "thing", fails: bool = False) -> None:
        self.name, self.fails = name, fails

    @property
    def identity(self) -> str:
        return self.name

    async def __aenter__(self) -> Self:
        await anyio.lowlevel.checkpoint()
        if self.fails:
            raise OSError("no such device")
        LOG.append(f"open {self.name}")
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await anyio.lowlevel.checkpoint()  # closing is shielded: this does not raise
        LOG.append(f"close {self.name}")


class Used(Row):
    used: str


@stage("held.use")
async def use(n: int, *, thing: Thing, at: int = -1) -> Used:
    if n == at:
        raise ValueError("here")
    return Used(thing.name)


@stage("held.use_too")
async def use_too(n: int, *, other: Thing) -> None:
    await anyio.lowlevel.checkpoint()


@pytest.fixture(autouse=True)
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the plugin `held` known to every Plugins."""

    class Module:
        engine_stages = staticmethod(lambda: [use, use_too])
        engine_resources = staticmethod(lambda: [Thing])

    for hook in (Module.engine_stages, Module.engine_resources):
        engine.hookimpl(hook)
    original = Plugins.__init__

    def init(self: Plugins) -> None:
        original(self)
        self.register("held", Module)

    monkeypatch.setattr(Plugins, "__init__", init)
    LOG.clear()


PIPELINE = """
resources:
  a: {use: held.thing, with: {name: a}}
  b: {use: held.thing, with: {name: b}}
stages:
  numbers: {use: ./stages.py:numbers, with: {count: 500}}
  use: {use: held.use, with: {thing: a}}
  use_too: {use: held.use_too, with: {other: b}}
  out: {use: dataset.write, with: {path: out.jsonl}}
"""


def nothing_is_left(path: Path) -> None:
    files = {p.name for p in path.parent.iterdir()} - {
        "p.yaml",
        "stages.py",
        "__pycache__",
        ".engine",
    }
    assert files == set()


@asynccontextmanager
async def no_task_left() -> AsyncIterator[None]:
    before = {task.id for task in anyio.get_running_tasks()}
    yield
    await anyio.wait_all_tasks_blocked()
    assert [task for task in anyio.get_running_tasks() if task.id not in before] == []


@pytest.mark.parametrize("store", [None, "beside"])
async def test_to_the_end(pipeline: Write, store: str | None) -> None:
    path = pipeline(PIPELINE, stages=STAGES)
    async with no_task_left():
        summary = await engine.run(path, store=store)
    assert summary.finished == 500
    assert LOG == ["open a", "open b", "close b", "close a"]
    assert len(path.with_name("out.jsonl").read_bytes().splitlines()) == 500


@pytest.mark.parametrize("store", [None, "beside"])
async def test_break(pipeline: Write, store: str | None) -> None:
    path = pipeline(PIPELINE, stages=STAGES)
    async with no_task_left(), engine.open(path, store=store) as run:
        async for _ in run:
            break
    assert run.summary.status == "cancelled"
    assert LOG == ["open a", "open b", "close b", "close a"]
    nothing_is_left(path)


@pytest.mark.parametrize("store", [None, "beside"])
async def test_an_exception_of_the_embedder(pipeline: Write, store: str | None) -> None:
    path = pipeline(PIPELINE, stages=STAGES)
    with pytest.raises(ZeroDivisionError):
        async with no_task_left(), engine.open(path, store=store) as run:
            async for _ in run:
                raise ZeroDivisionError
    assert LOG[2:] == ["close b", "close a"]
    nothing_is_left(path)


@pytest.mark.parametrize("store", [None, "beside"])
async def test_a_failing_stage(pipeline: Write, store: str | None) -> None:
    path = pipeline(PIPELINE, stages=STAGES)
    with pytest.raises(StageError, match="stage use, row .*: ValueError: here"):
        async with no_task_left():
            await engine.run(
                path, store=store, set=["stages.use.with.at=250", "stages.use.on_error=fail"]
            )
    assert sorted(LOG) == ["close a", "close b", "open a", "open b"]
    nothing_is_left(path)


@pytest.mark.parametrize("store", [None, "beside"])
async def test_an_outer_cancellation(pipeline: Write, store: str | None) -> None:
    path = pipeline(
        PIPELINE.replace("held.use_too, with: {other: b}", "./stages.py:forever"), stages=STAGES
    )
    async with no_task_left():
        with anyio.CancelScope() as scope:
            async with engine.open(path, store=store) as run:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(run.finish)
                    while not run.counters["use_too"].in_flight:
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
    assert scope.cancelled_caught
    assert LOG == ["open a", "close a"]
    nothing_is_left(path)


async def test_an_outer_timeout(pipeline: Write) -> None:
    path = pipeline(
        "stages: {endless: {use: './stages.py:endless'}, double: {use: './stages.py:forever'}}",
        stages=STAGES,
    )
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.05):
            async with no_task_left():
                await engine.run(path, store="beside")


async def test_a_resource_that_cannot_be_opened(pipeline: Write) -> None:
    path = pipeline(PIPELINE.replace("{name: b}", "{name: b, fails: true}"), stages=STAGES)
    with pytest.raises(ResourceError, match="resource b cannot be opened: no such device"):
        await engine.run(path, store=None)
    assert LOG == ["open a", "close a"]
    nothing_is_left(path)


async def test_two_runs_at_once_in_one_process(pipeline: Write) -> None:
    path = pipeline(PIPELINE, stages=STAGES)
    summaries: list[Any] = []

    async def one(n: int) -> None:
        out = path.with_name(f"out{n}.jsonl")
        summaries.append(
            await engine.run(path, store=":memory:", set=[f"stages.out.with.path={out}"])
        )

    async with anyio.create_task_group() as tasks:
        for n in range(2):
            tasks.start_soon(one, n)
    assert [s.finished for s in summaries] == [500, 500]


async def test_draining_finishes_what_is_in_flight_and_the_next_run_goes_on(
    pipeline: Write, tmp_path: Path
) -> None:
    path = pipeline(PIPELINE, stages=STAGES)
    async with engine.open(path) as run:
        async for _ in run:
            await run.drain()
            break
    assert run.summary.status == "interrupted"
    assert run.summary.exit_code == 130
    assert not path.with_name("out.jsonl").exists()
    done = run.counters["use"].out
    assert 0 < done < 500
    again = await engine.run(path)
    assert again.stages["use"].reused == done
    assert again.finished == 500


async def test_a_timeout_of_a_stage_makes_a_dead_letter(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {count: 5}}, slow: {use: './stages.py:forever', timeout: 0.01, retry: 1}}",
        stages=STAGES,
    )
    summary = await engine.run(path, store=None)
    assert (summary.finished, summary.dead) == (3, 2)
    assert set(summary.stages["slow"].reasons) == {"dead: TimeoutError: no result within 0.01 s"}


@pytest.mark.parametrize(("size", "dead"), [(1, False), (2, True)])
async def test_a_named_limit_holds_over_stages(pipeline: Write, size: int, dead: bool) -> None:
    path = pipeline(
        f"""
limits: {{one: {size}}}
stages:
  numbers: {{use: ./stages.py:numbers}}
  a: {{use: ./stages.py:alone, limit: one, with: {{name: a}}, retry: 1}}
  b: {{use: ./stages.py:alone, limit: one, with: {{name: b}}, retry: 1}}
""",
        stages=STAGES,
    )
    summary = await engine.run(path, store=None)
    assert (summary.dead > 0) == dead  # a row dies once two have been inside together
