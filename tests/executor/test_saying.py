"""`ctx.say`: what a stage says of the row in hand, until that row ends."""

from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from engine import Context, Row, stage
from engine.cli import progress
from engine.testing.running import open_stage

pytestmark = pytest.mark.anyio


class Number(Row):
    n: int


@stage("s.fit")
async def fit(n: int, *, ctx: Context) -> Number:
    ctx.say(f"step {n}\nof\t10")
    await GO[n].wait()
    if n == 2:
        raise ValueError("it goes wrong")
    return Number(n)


@stage("s.stream")
async def stream(rows: AsyncIterable[Number], *, ctx: Context) -> AsyncIterator[Number]:
    async for row in rows:
        ctx.say("x" * 999)
        await GO[row.n].wait()
        yield row


@stage("s.source")
async def source(*, ctx: Context) -> AsyncIterator[Number]:
    ctx.say("downloading")
    await GO[0].wait()
    yield Number(0)


GO: dict[int, anyio.Event] = {}


@pytest.fixture(autouse=True)
async def go() -> None:
    GO.update({n: anyio.Event() for n in range(3)})


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not true():
            await anyio.lowlevel.checkpoint()


async def test_the_newest_is_shown_until_its_row_ends() -> None:
    rows = [{"n": n} for n in range(3)]
    options = {"concurrency": 3, "on_error": "dead_letter", "retry": 1}
    async with open_stage(fit, rows, options=options) as run:
        counters = run.counters["fit"]
        await until(lambda: counters.in_flight == 3 and len(counters.sayings) == 3)
        assert counters.saying == "step 2 of 10"
        GO[2].set()
        await until(lambda: counters.dead == 1)
        assert counters.saying == "step 1 of 10"
        GO[0].set()
        await until(lambda: counters.out == 1)
        assert counters.saying == "step 1 of 10"
        GO[1].set()
        await until(lambda: counters.out == 2)
        assert counters.saying == ""
        assert "sayings" not in run.summary.as_dict()["stages"]["fit"]


@pytest.mark.parametrize("one", [stream, source])
async def test_streams_and_sources_speak_too(one: Any) -> None:
    given = [] if one is source else [[{"n": 0}]]
    async with open_stage(one, *given) as run:
        counters = run.counters[one.__name__]
        await until(lambda: counters.saying != "")
        assert counters.saying == ("downloading" if one is source else "x" * 200)
        GO[0].set()
        assert [row["n"] async for row in run] == [0]
        assert counters.saying == ""


@pytest.mark.parametrize(("apart", "times"), [(1e9, 1), (0.0, 4)])
async def test_plain_lines_say_it_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, apart: float, times: int
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.001)
    monkeypatch.setattr(progress, "SAID_SECONDS", apart)
    lines: list[str] = []

    def four() -> bool:
        lines.extend(capsys.readouterr().err.splitlines())
        return sum(line.startswith("[") for line in lines) >= 4

    async with open_stage(fit, [{"n": 1}]) as run, anyio.create_task_group() as tasks:
        await until(lambda: run.counters["fit"].saying != "")
        with progress.Progress(run) as view:
            tasks.start_soon(view.live)
            await until(four)
            tasks.cancel_scope.cancel()
    assert lines[1] == "  fit: step 1 of 10"
    assert lines[:8].count(lines[1]) == times
