"""However a run is left, nothing stays behind, and its store opens again right away."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import engine
from engine import StageError, StoreError

pytestmark = pytest.mark.anyio
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
STORES = pytest.mark.parametrize("store", [None, ":memory:", "folder"])


def running() -> set[int]:
    return {task.id for task in anyio.get_running_tasks()}


@pytest.fixture
def options(store: str | None, tmp_path: Path) -> dict[str, Any]:
    return {"store": tmp_path / "store" if store == "folder" else store}


def many() -> Any:
    return ({"question": "q", "number": n} for n in range(20_000))


@STORES
async def test_break(lab: Any, options: dict[str, Any]) -> None:
    tasks = running()
    async with lab.open(inputs=many(), **options) as run:
        async for _ in run:
            break
    assert (run.summary.status, run.summary.exit_code) == ("cancelled", 130)
    await lab.left_nothing(tasks, **options)


async def _until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not true():
            await anyio.lowlevel.checkpoint()


@STORES
async def test_an_exception_in_the_body(lab: Any, options: dict[str, Any]) -> None:
    tasks = running()
    with pytest.raises(ZeroDivisionError):  # as it was raised: in no group
        async with lab.open(hang=2, **options):
            await lab.hanging()
            raise ZeroDivisionError
    await lab.left_nothing(tasks, **options)


@STORES
async def test_a_failing_stage(lab: Any, options: dict[str, Any]) -> None:
    tasks = running()
    with pytest.raises(StageError, match="stage double, row .*ValueError: 2 is bad") as caught:
        async with lab.open(bad=2, **options) as run:
            await run.finish()
    assert isinstance(caught.value.__cause__, ValueError)
    assert run.summary.error == str(caught.value)
    await lab.left_nothing(tasks, **options)


@STORES
async def test_failing_inputs(lab: Any, options: dict[str, Any]) -> None:
    tasks = running()
    with pytest.raises(StageError, match="inputs=, row 1 "):
        async with lab.open(inputs=[{"question": "q", "number": 1}, 7], **options) as run:
            await run.finish()
    await lab.left_nothing(tasks, **options)


@STORES
async def test_rows_that_had_finished_come_before_the_error(
    lab: Any, options: dict[str, Any]
) -> None:
    rows = []
    with pytest.raises(StageError, match="is bad"):
        async with lab.open(inputs=many(), bad=500, **options) as run:
            async for row in run:
                rows.append(row)
    assert len(rows) == run.finished
    assert run.summary.status == "failed"


async def test_leaving_a_run_ends_the_run_within_its_stage(
    lab: Any, pipeline: Callable[..., Path]
) -> None:
    @engine.stage("outer.within")
    async def within(number: int) -> None:
        async with lab.open(hang=2, store=None) as inner:
            await inner.finish()

    class Outer:
        engine_stages = staticmethod(lambda: [within])

    engine.hookimpl(Outer.engine_stages)
    path = pipeline(
        "stages: {questions: {use: ./stages.py:questions}, within: {use: outer.within}}",
        name="outer.yaml",
    )
    tasks = running()
    async with engine.open(path, plugins=[Outer], limit=1, store=None):
        await lab.hanging()
    path.unlink()
    await lab.left_nothing(tasks, store=None)


@STORES
@pytest.mark.parametrize("how", ["scope", "move_on_after", "fail_after"])
async def test_an_outer_cancellation(lab: Any, options: dict[str, Any], how: str) -> None:
    tasks = running()
    scope: anyio.CancelScope
    with contextlib.ExitStack() as stack:
        if how == "fail_after":
            stack.enter_context(pytest.raises(TimeoutError))
        make = {"scope": anyio.CancelScope, "move_on_after": lambda: anyio.move_on_after(60)}
        scope = stack.enter_context(make.get(how, lambda: anyio.fail_after(60))())
        async with lab.open(hang=2, **options) as run:
            await lab.hanging()
            scope.deadline = -1.0  # it is past
            await run.finish()
    assert scope.cancelled_caught
    assert run.summary.status == "cancelled"
    await lab.left_nothing(tasks, **options)


@STORES
@pytest.mark.parametrize("times", [1, 3])
@ASYNCIO
async def test_a_cancelled_asyncio_task(lab: Any, options: dict[str, Any], times: int) -> None:
    tasks = running()

    async def work() -> None:
        async with lab.open(hang=2, **options) as run:
            await run.finish()

    task = asyncio.create_task(work())
    await lab.hanging()
    for _ in range(times):  # one who is in a hurry cancels again while the run is being closed
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await lab.left_nothing(tasks, **options)


@STORES
@ASYNCIO
async def test_an_asyncio_timeout(lab: Any, options: dict[str, Any]) -> None:
    tasks = running()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60) as timeout, lab.open(hang=2, **options) as run:
            await lab.hanging()
            timeout.reschedule(0)
            await run.finish()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    await lab.left_nothing(tasks, **options)


@ASYNCIO
async def test_in_an_asyncio_task_group(plain: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(engine.run(plain, store=":memory:")) for _ in range(3)]
    assert [task.result().finished for task in running] == [3, 3, 3]

    async def fail() -> None:
        raise ZeroDivisionError

    async def forever(n: int) -> None:
        async with engine.open(plain, store=None):
            await asyncio.sleep(3600)

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever(1))
            await asyncio.sleep(0)
            tasks.create_task(fail())
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_in_a_trio_nursery(plain: Path) -> None:
    import trio

    found = []

    async def one() -> None:
        found.append(await engine.run(plain, store=":memory:"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(one)
    assert [summary.finished for summary in found] == [3, 3, 3]


async def test_cancelled_while_it_is_entered(lab: Any, tmp_path: Path) -> None:
    tasks = running()
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with lab.open(store=tmp_path / "store"):
            raise AssertionError("it was entered")
    assert scope.cancelled_caught
    await lab.left_nothing(tasks, store=tmp_path / "store")


async def test_the_pending_call_sees_the_cancellation_before_a_shielded_body_ends(
    lab: Any,
) -> None:
    with anyio.CancelScope() as scope:
        async with lab.open(hang=2, store=None):
            await lab.hanging()
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await _until(lambda: "cancelled" in lab.log)


async def test_a_run_is_entered_once_but_may_wait_for_its_store(
    plain: Path, tmp_path: Path
) -> None:
    second = engine.open(plain, store=tmp_path / "store")
    async with engine.open(plain, store=tmp_path / "store") as first:
        with pytest.raises(
            StoreError,
            match=f"in use by process {os.getpid()} on .*, which is this one: let the other run end first",
        ):
            await second.__aenter__()
        assert not second.started
        assert (await first.finish()).finished == 3
    async with second:
        assert (await second.finish()).finished == 3
        with pytest.raises(RuntimeError, match="a run is entered once: call engine.open again"):
            await second.__aenter__()


async def test_what_needs_a_run_that_has_begun_says_so(plain: Path) -> None:
    run = engine.open(plain, store=None)
    for act in (run.finish, run.drain, run.__anext__, run.stop):
        with pytest.raises(RuntimeError, match="the run has not begun: write `async with"):
            found: Any = act()
            await found


# --- an async generator that yields from within a run -------------------------------------------


async def yielding(path: Path, runs: list[engine.Run], **options: Any) -> AsyncIterator[engine.Row]:
    async with engine.open(path, inputs=many(), **options) as run:
        runs.append(run)
        async for row in run:
            yield row


@STORES
async def test_a_generator_that_is_closed_where_it_was_begun_is_safe(
    plain: Path, options: dict[str, Any]
) -> None:
    tasks, runs = running(), list[engine.Run]()
    async with contextlib.aclosing(yielding(plain, runs, **options)) as rows:
        async for _ in rows:
            break
    assert runs[0].summary.status == "cancelled"
    assert running() <= tasks
    await engine.run(plain, **options)


@STORES
@ASYNCIO
async def test_a_generator_closed_by_another_task_is_told_and_leaves_nothing_open(
    plain: Path, options: dict[str, Any]
) -> None:
    tasks, runs = running(), list[engine.Run]()

    async def began() -> AsyncIterator[engine.Row]:
        rows = yielding(plain, runs, **options)
        await anext(rows)
        return rows

    rows = await asyncio.create_task(began())  # the task that entered the run is over
    with pytest.raises(RuntimeError, match="left in another task.*contextlib.aclosing"):
        await rows.aclose()  # type: ignore[attr-defined]
    assert runs[0].summary.status == "cancelled"
    assert running() <= tasks
    await engine.run(plain, **options)


@STORES
@ASYNCIO
async def test_an_abandoned_generator_is_told_and_leaves_nothing_open(
    plain: Path, options: dict[str, Any]
) -> None:
    tasks, runs, told = running(), list[engine.Run](), list[Any]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))

    async def abandon() -> None:
        async for _ in yielding(plain, runs, **options):
            break

    await asyncio.create_task(abandon())
    gc.collect()
    await _until(lambda: running() <= tasks)
    gc.collect()  # asyncio tells of it when it collects the task that closed the generator
    assert runs[0].summary.status == "cancelled"
    await engine.run(plain, **options)
    loop.set_exception_handler(None)
    assert "left in another task than the one that entered" in str(told[0])


@pytest.mark.parametrize("store", [None, "folder"])
def test_a_loop_that_ends_around_an_abandoned_run_ends(
    plain: Path, store: str | None, options: dict[str, Any]
) -> None:
    held, runs, told = list[Any](), list[engine.Run](), list[Any]()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, c: told.append(c["exception"]))
        held.append(yielding(plain, runs, **options))
        await anext(held[0])
        await anyio.wait_all_tasks_blocked()

    asyncio.run(main())
    assert runs[0].summary.status == "cancelled"
    assert "left in another task than the one that entered" in str(told[0])
    assert asyncio.run(engine.run(plain, **options)).status == "done"


TRIO = """
import sys, trio, engine
async def rows(path):
    async with engine.open(path, store=sys.argv[2]) as run:
        async for row in run:
            yield row
async def close(found):
    try:
        await found.aclose()
    except RuntimeError as error:
        print(error)
async def main():
    found = rows(sys.argv[1])
    await anext(found)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(close, found)
    print((await engine.run(sys.argv[1], store=sys.argv[2])).status, flush=True)
trio.run(main)
"""


def test_trio_is_told_too_before_it_finds_its_nurseries_out_of_order(
    plain: Path, tmp_path: Path
) -> None:
    found = subprocess.run(  # in a process of its own: trio's state is lost
        [sys.executable, "-c", TRIO, str(plain), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told, status = found.stdout.splitlines()
    assert "left in another task than the one that entered" in told
    assert status == "done"  # the store was let go
    assert "Nursery stack corrupted" in found.stderr


# --- many runs, and the host's own affairs --------------------------------------------------------


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts what /proc shows")
@STORES
async def test_many_runs_leave_no_thread_file_or_memory_behind(
    lab: Any, options: dict[str, Any]
) -> None:
    gone: list[weakref.ref[Any]] = []

    async def one(n: int) -> None:
        if n % 2:
            async with lab.open(**options) as run:
                await run.finish()
        else:
            async with lab.open(inputs=many(), **options) as run:
                await _until(lambda: run.counters["first"].received > 0)
        gone.append(weakref.ref(run))
        lab.path.with_name("out.jsonl").unlink(missing_ok=True)

    for n in range(4):  # what is loaded and opened once
        await one(n)
    threads, files, modules = threading.active_count(), descriptors(), len(sys.modules)
    for n in range(50):
        await one(n)
    gc.collect()
    assert threading.active_count() <= threads
    assert descriptors() <= files
    assert len(sys.modules) == modules
    assert [ref for ref in gone if ref() is not None] == []


async def test_an_embedded_run_leaves_the_hosts_affairs_alone(
    lab: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def affairs() -> dict[str, Any]:
        root, ours = logging.getLogger(), logging.getLogger("engine")
        found: dict[str, Any] = {
            "signals": {n: signal.getsignal(n) for n in signal.valid_signals()},
            "wakeup": signal.set_wakeup_fd(-1),
            "logging": (root.level, [*root.handlers], ours.level, [*ours.handlers], ours.propagate),
            "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook),
            "generators": sys.get_asyncgen_hooks(),
            "streams": (sys.stdout, sys.stderr),
            "folder": Path.cwd(),
            "environment": dict(os.environ),
            "switch": sys.getswitchinterval(),
        }
        if found["wakeup"] != -1:
            signal.set_wakeup_fd(found["wakeup"], warn_on_full_buffer=False)
        with contextlib.suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            found["loop"] = (loop, loop.get_exception_handler(), loop.get_task_factory())
            found["policy"] = asyncio.get_event_loop_policy()
        return found

    before = affairs()
    async with lab.open(hang=2, store=tmp_path / "store"):
        await lab.hanging()
        assert affairs() == before
    assert affairs() == before
    assert capfd.readouterr() == ("", "")
