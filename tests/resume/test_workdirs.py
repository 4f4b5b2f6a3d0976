"""Work folders: kept over an interruption and a death, handed back, removed once all is durable."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated

import anyio.lowlevel
import pytest

import engine
from engine import Context, Reject, Row, StageError, stage
from engine.stages import NotResult
from engine.store import find_runs
from engine.store.room import collect
from engine.testing import run_stage

pytestmark = pytest.mark.anyio
Write = Callable[..., Path]
Flag = Annotated[Path, NotResult]


class Number(Row):
    n: int


class Seen(Row):
    seen: int
    """How many starts of this row have written to the folder."""


@stage("w.numbers", version="1")
async def numbers() -> AsyncIterator[Number]:
    for n in range(4):
        yield Number(n).keyed(str(n))


def said(flag: Path) -> str:
    return flag.read_text() if flag.exists() else ""


async def started(ctx: Context, flag: Path, n: int) -> int:
    """Count a start in the work folder; then wait, or fail, where the flag's file says so."""
    file = ctx.workdir / "starts"
    count = int(file.read_text()) if file.exists() else 0
    file.write_text(str(count + 1))
    match said(flag):
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            await anyio.sleep_forever()
        case "fail" if n == 2:
            raise OSError("the device is gone")
        case "reject" if n == 2:
            raise Reject("two")
    return count


@stage("w.map", version="1")
async def mapped(n: int, *, ctx: Context, flag: Flag) -> Seen:
    return Seen(await started(ctx, flag, n))


@stage("w.batch", version="1")
async def batched(rows: Sequence[Number], *, ctx: Context, flag: Flag) -> list[Seen]:
    starts = [await started(ctx, flag, row.n) for row in rows]
    return [Seen(starts[0]) for _ in rows]


@stage("w.expand", version="1")
async def expanded(n: int, *, ctx: Context, flag: Flag) -> AsyncIterator[Seen]:
    yield Seen(await started(ctx, flag, n))


@stage("w.stream", version="1")
async def streamed(rows: AsyncIterable[Number], *, ctx: Context, flag: Flag) -> AsyncIterator[Seen]:
    async for row in rows:
        if row.n == 0:
            yield Seen(await started(ctx, flag, row.n))


@stage("w.sink", version="1")
async def sunk(rows: AsyncIterable[Number], *, ctx: Context, flag: Flag) -> None:
    async for row in rows:
        if row.n == 0:
            await started(ctx, flag, row.n)


KINDS = {"mapped": 4, "batched": 2, "expanded": 4, "streamed": 1, "sunk": 1}
"""The stages, and how many work folders each makes of four rows."""


def write(pipeline: Write, name: str, more: str = "") -> Path:
    batch = ", batch: 2" if name == "batched" else ""
    return pipeline(
        f"stages:\n  numbers: {{use: './stages.py:numbers'}}\n"
        f"  work: {{use: './stages.py:{name}', with: {{flag: flag}}{batch}{more}}}\n",
        stages=Path(__file__),
    )


def folders(path: Path) -> list[Path]:
    return sorted((path.parent / ".engine" / "test" / "work").glob("*"))


async def run(path: Path, **options: object) -> tuple[list[int], engine.Summary]:
    async with engine.open(path, **options) as running:  # type: ignore[arg-type]
        found = [row["seen"] async for row in running if "seen" in row]
    return found, running.summary


@pytest.mark.parametrize("name", KINDS)
async def test_kept_over_an_interruption_and_removed_at_the_end(pipeline: Write, name: str) -> None:
    path = write(pipeline, name)
    flag = path.with_name("flag")
    flag.write_text("wait")
    async with engine.open(path):
        while sum((folder / "starts").exists() for folder in folders(path)) < KINDS[name]:
            await anyio.lowlevel.checkpoint()
    assert len(folders(path)) == KINDS[name]
    assert collect(path.parent / ".engine" / "test") == [], "nothing that is open is collected"
    flag.unlink()
    found, _ = await run(path)
    assert found == [1] * {"streamed": 1, "sunk": 0}.get(name, 4)
    assert folders(path) == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # that of the command line
@pytest.mark.parametrize("name", KINDS)
async def test_handed_back_after_a_kill(pipeline: Write, name: str) -> None:
    path = write(pipeline, name, ", concurrency: 1")
    flag = path.with_name("flag")
    flag.write_text("kill")
    command = [sys.executable, "-m", "engine", "run", str(path)]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: ASYNC221
    assert done.returncode == -signal.SIGKILL, done.stderr
    (kept,) = folders(path)
    assert (kept / "starts").read_text() == "1"
    flag.unlink()
    found, _ = await run(path)
    assert sorted(found)[-1:] == [1][: name != "sunk"]
    assert folders(path) == []


@pytest.mark.parametrize("name", ["mapped", "batched", "expanded"])
async def test_a_dead_row_keeps_it_until_it_is_tried_again(pipeline: Write, name: str) -> None:
    path = write(pipeline, name, ", retry: 1")
    flag = path.with_name("flag")
    flag.write_text("fail")
    _, summary = await run(path)
    assert summary.dead == 1
    kept = folders(path)
    assert len(kept) == (2 if name == "batched" else 1), "of a batch: that of the whole, too"
    assert collect(path.parent / ".engine" / "test") == []
    assert folders(path) == kept
    flag.unlink()
    letters = find_runs(path.parent / ".engine" / "test").rows(fate="dead", run=1)
    keys = [bytes.fromhex(letter.note["memo"]) for letter in letters]
    found, summary = await run(path, redrive=keys)
    assert (summary.dead, sorted(found)[-1]) == (0, 1)
    assert folders(path) == []


async def test_a_row_that_fails_the_run_keeps_it(pipeline: Write) -> None:
    path = write(pipeline, "mapped", ", retry: 1, on_error: fail")
    flag = path.with_name("flag")
    flag.write_text("fail")
    with pytest.raises(StageError, match="the device is gone"):
        await run(path)
    flag.unlink()
    found, _ = await run(path)
    assert 1 in found
    assert folders(path) == []


async def test_a_rejected_row_needs_it_no_more(pipeline: Write) -> None:
    path = write(pipeline, "mapped")
    flag = path.with_name("flag")
    flag.write_text("reject")
    _, summary = await run(path)
    assert (summary.rejected, folders(path)) == (1, [])


async def test_a_source_is_told_that_it_has_none(pipeline: Write) -> None:
    @stage("w.source")
    async def source(*, ctx: Context) -> AsyncIterator[Number]:
        yield Number(len(list(ctx.workdir.iterdir())))

    with pytest.raises(StageError, match="nothing of it is recorded, so it has no workdir"):
        await run_stage(source)


async def test_a_test_of_a_stage_has_one(tmp_path: Path) -> None:
    rows = await run_stage(mapped, [{"n": 1}], flag=tmp_path / "flag")
    assert [row["seen"] for row in rows] == [0]
