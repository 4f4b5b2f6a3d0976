"""What the tests of embedding share: pipelines, and proof that a run has left nothing behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.lowlevel
import pytest

import engine
from engine import Resource, Row, resource, stage

STAGES = Path(__file__).with_name("stages_embedding.py")
PLAIN = """
stages:
  questions: {use: ./stages.py:questions}
  shout: {use: ./stages.py:shout}
  double: {use: ./stages.py:double}
"""
HELD = """
resources:
  a: {use: held.thing, with: {name: a}}
  b: {use: held.thing, with: {name: b}}
stages:
  questions: {use: ./stages.py:questions}
  double: {use: ./stages.py:double, with: {bad: $BAD}, on_error: fail}
  first: {use: held.use, with: {thing: a}}
  second: {use: held.hang, with: {thing: b, at: $HANG}, concurrency: 1}
  out: {use: dataset.write, with: {path: out.jsonl}}
"""
LOG: list[str] = []


@resource("held.thing")
class Thing(Resource):
    """A resource that says when it is opened and closed."""

    def __init__(self, *, name: str) -> None:
        self.name = name

    @property
    def identity(self) -> str:
        return self.name

    async def __aenter__(self) -> Self:
        await anyio.lowlevel.checkpoint()
        LOG.append(f"open {self.name}")
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await anyio.lowlevel.checkpoint()  # closing is shielded: this does not raise
        LOG.append(f"close {self.name}")


class Used(Row):
    used: str


@stage("held.use")
async def use(number: int, *, thing: Thing) -> Used:
    return Used(thing.name)


@stage("held.hang")
async def hang(number: int, *, thing: Thing, at: int = -1) -> None:
    if number == at:
        LOG.append("hangs")
        try:
            await anyio.sleep_forever()
        finally:
            LOG.append("cancelled")


class Held:
    """The plugin, given as an object."""

    engine_stages = staticmethod(lambda: [use, hang])
    engine_resources = staticmethod(lambda: [Thing])


engine.hookimpl(Held.engine_stages)
engine.hookimpl(Held.engine_resources)


@pytest.fixture
def plain(pipeline: Callable[..., Path]) -> Path:
    """Two stages that wait for nothing."""
    return pipeline(PLAIN, stages=STAGES)


class Lab:
    """A pipeline with resources, a sink and a stage that can fail or hang."""

    def __init__(self, path: Path) -> None:
        self.path, self.log = path, LOG
        LOG.clear()

    def open(self, *, bad: int = -1, hang: int = -1, **options: Any) -> engine.Run:
        more = [f"stages.double.with.bad={bad}", f"stages.second.with.at={hang}"]
        return engine.open(self.path, plugins=[Held], set=more, **options)

    async def hanging(self) -> None:
        """Return once the stage hangs."""
        with anyio.fail_after(20):
            while "hangs" not in LOG:
                await anyio.lowlevel.checkpoint()

    async def left_nothing(self, tasks: set[int], **options: Any) -> None:
        """Assert that the run before is gone, and that its store opens again right away."""
        assert {task.id for task in anyio.get_running_tasks()} <= tasks
        names = {p.name for p in self.path.parent.iterdir()}
        assert names <= {"p.yaml", "stages.py", "store", ".engine"}
        opened = [line[5:] for line in LOG if line.startswith("open")]
        assert [line[6:] for line in LOG if line.startswith("close")] == opened[::-1]
        assert LOG.count("hangs") == LOG.count("cancelled")
        async with self.open(**options) as run:
            assert (await run.finish()).status == "done"


@pytest.fixture
def lab(pipeline: Callable[..., Path]) -> Lab:
    text = HELD.replace("$BAD", "-1").replace("$HANG", "-1")
    return Lab(pipeline(text, stages=STAGES))


@pytest.fixture
def stages_file() -> Path:
    return STAGES
