"""Waiting for one another: no lost wake-up, no limit or clock held over it, no stalled event loop."""

import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import engine
from engine import Context, Row, stage

pytestmark = pytest.mark.anyio
Write = Callable[..., Path]
HERE = Path(__file__)


class Number(Row):
    n: int


class Child(Row):
    child: int


@stage("w.numbers")
async def numbers(*, count: int = 10) -> AsyncIterator[Number]:
    for n in range(count):
        yield Number(n).keyed(str(n))


@stage("w.many")
async def many(n: int, *, ctx: Context, count: int = 3000) -> AsyncIterator[Child]:
    for i in range(count):
        yield Child(i)


@stage("w.gate")
async def gate(child: int, *, ctx: Context) -> None:
    await anyio.lowlevel.checkpoint()


@stage("w.held")
async def held(n: int) -> None:
    while not OPEN:
        await anyio.lowlevel.checkpoint()


@stage("w.stuck")
async def stuck(child: int) -> None:
    await anyio.sleep_forever()


@stage("w.everything")
async def everything(rows: AsyncIterable[Number]) -> AsyncIterator[Number]:
    for row in [row async for row in rows]:
        yield row


@stage("w.count_attempts")
async def count_attempts(n: int) -> None:
    CALLS.append(n)
    raise OSError("again")


OPEN: list[bool] = []
CALLS: list[int] = []


def module_of(name: str) -> Any:
    """Return this file as the run that is under way has loaded it: each folder loads its own."""
    return next(
        m
        for n, m in reversed(sys.modules.items())
        if n.startswith("engine_local_stages") and hasattr(m, name)
    )


async def test_an_iteration_that_was_cancelled_once_goes_on(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {count: 500}}, held: {use: './stages.py:held', concurrency: 64}}",
        stages=HERE,
    )
    async with engine.open(path, store=None) as run:
        with anyio.CancelScope() as scope:
            scope.cancel()  # nothing is ready yet, so this waits, and gives its place back
            await anext(run)
        assert scope.cancelled_caught
        module_of("OPEN").OPEN.append(True)
        with anyio.fail_after(20):
            rows = [row async for row in run]
    assert len(rows) == 500


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_one_limit_over_an_expand_and_the_map_behind_it(
    pipeline: Write, concurrency: int
) -> None:
    path = pipeline(
        f"""
limits: {{one: 1}}
stages:
  numbers: {{use: './stages.py:numbers', with: {{count: 2}}}}
  many: {{use: './stages.py:many', limit: one}}
  gate: {{use: './stages.py:gate', limit: one, concurrency: {concurrency}}}
""",
        stages=HERE,
    )
    with anyio.fail_after(30):
        summary = await engine.run(path, store=None)
    assert summary.finished == 6000


async def test_one_limit_over_a_map_and_the_stream_behind_it(pipeline: Write) -> None:
    path = pipeline(
        """
limits: {one: 1}
stages:
  numbers: {use: './stages.py:numbers'}
  many: {use: './stages.py:many', limit: one, with: {count: 1}}
  everything: {use: './stages.py:everything', limit: one}
""",
        stages=HERE,
    )
    with anyio.fail_after(30):
        summary = await engine.run(path, store=None)
    assert summary.finished == 10


async def test_draining_while_an_expand_waits_for_room(pipeline: Write) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: './stages.py:numbers', with: {count: 1}}
  many: {use: './stages.py:many', with: {count: 100000}}
  gate: {use: './stages.py:gate', concurrency: 1}
""",
        stages=HERE,
    )
    async with engine.open(path, store=None) as run:
        async for _ in run:
            with anyio.fail_after(30):
                await run.drain()
            break
    assert run.summary.status == "interrupted"


async def test_attempts_are_made_as_often_as_retry_says(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {count: 1}}, fails: {use: './stages.py:count_attempts', retry: 3}}",
        stages=HERE,
    )
    summary = await engine.run(path, store=None)
    assert (summary.dead, summary.stages["fails"].retries) == (1, 2)
    assert module_of("CALLS").CALLS == [0, 0, 0]


async def test_no_row_is_taken_with_limit_0(pipeline: Write) -> None:
    path = pipeline("stages: {numbers: {use: './stages.py:numbers'}}", stages=HERE)
    assert (await engine.run(path, store=None, limit=0)).finished == 0


async def test_draining_ends_no_sink_early(pipeline: Write) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: './stages.py:numbers', with: {count: 5}}
  held: {use: './stages.py:held', concurrency: 1}
  out: {use: dataset.write, with: {path: out.jsonl}}
""",
        stages=HERE,
    )
    out = path.with_name("out.jsonl")
    out.write_text("yesterday's")
    async with engine.open(path, store=None) as run:
        while not (run.counters["numbers"].done and run.counters["held"].in_flight):
            await anyio.lowlevel.checkpoint()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run.drain)
            for _ in range(5):  # in any order of tasks, it has begun by then
                await anyio.lowlevel.checkpoint()
            module_of("OPEN").OPEN.append(True)  # the row in flight ends; four still wait
    assert (run.summary.status, run.counters["held"].out) == ("interrupted", 1)
    assert out.read_text() == "yesterday's"
