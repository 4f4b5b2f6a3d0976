"""`train.workers`: the child processes that train."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import orjson
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from pydantic import PositiveInt

from engine import Context, Resource, resource
from engine_train.errors import TrainingError
from engine_train.worker import ENGINE, STOP

__all__ = ["Trainer"]

LINE = 1 << 26
"""The most bytes that an answer may have."""


@resource("train.workers")
class Trainer(Resource):
    """Worker processes that train, side by side, each one training after the other.

    `workers` is how many there are at most; `threads` how many each computes with: left out,
    $OMP_NUM_THREADS, else the cores are shared among them (on a busy machine, fewer are faster). A
    worker is started when it is needed, has torch loaded for the next training, and ends with the
    run, whatever ends that.

    `launch` is a configuration file of `accelerate launch` (`accelerate config` writes one): the
    trainings then run on all its devices, one training at a time. On one GPU leave it out.
    """

    def __init__(
        self,
        *,
        workers: PositiveInt = 1,
        threads: PositiveInt | None = None,
        launch: Path | None = None,
    ) -> None:
        if launch is not None:
            from engine_train.arguments import check_launch

            check_launch(launch)
        self._launch = launch
        self._threads = threads or _said() or max(1, (os.cpu_count() or 1) // workers)
        self._room = anyio.Semaphore(1 if launch else workers)
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []

    @property
    def identity(self) -> str:
        """Only that it trains: how many processes and threads do it is no part of a result."""
        return "train.workers"

    async def __aenter__(self) -> Self:
        """Do nothing: workers start when they are needed."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the workers."""
        with anyio.CancelScope(shield=True):
            for worker in self._all:
                await worker.end()
        self._all, self._idle = [], []

    async def call(
        self,
        function: str,
        payload: Mapping[str, Any],
        workdir: Path,
        ctx: Context,
        *,
        reuse: bool = True,
    ) -> Any:
        """Run `module:function` of `payload` in a worker; return its answer.

        What it says on the way is the stage's saying, and its output is in `workdir/log.txt`. When
        the run drains it is asked, by the file `workdir/stop`, to come to an end. `reuse` says
        whether the worker is fit for another order after this one.

        Raises TrainingError for what the function raises as such, and RuntimeError for all else,
        a worker's death included.
        """
        (workdir / STOP).unlink(missing_ok=True)
        order = {"function": function, "payload": payload, "log": str(workdir / "log.txt")}
        with ctx.waiting():
            await self._room.acquire()
        try:
            worker = await self._take(order, workdir)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_pass_on, ctx, workdir)
                    tasks.start_soon(worker.bury)
                    answer = await worker.answer(ctx)
                    tasks.cancel_scope.cancel()
            except BaseException:
                await self._drop(worker)
                raise
            if self._launch or not reuse or "died" in answer:
                await self._drop(worker)
            else:
                self._idle.append(worker)
        finally:
            self._room.release()
        if "done" in answer:
            return answer["done"]
        if "died" in answer:
            raise RuntimeError(
                f"the worker died ({answer['died']}); what it printed is in {order['log']}. Run "
                "again: it goes on from its last checkpoint"
            )
        failed = answer["failed"]
        if failed["training"]:
            raise TrainingError(failed["message"])
        raise RuntimeError(f"{failed['message']}; all it printed is in {order['log']}")

    async def _drop(self, worker: _Worker) -> None:
        with anyio.CancelScope(shield=True):
            await worker.end()
        self._all.remove(worker)

    async def _take(self, order: Mapping[str, Any], workdir: Path) -> _Worker:
        """Return a worker that has the order."""
        data = orjson.dumps(order)
        if self._launch:
            (workdir / "order.json").write_bytes(data)
            launcher = ["-m", "accelerate.commands.launch", "--config_file", str(self._launch)]
            command = [*launcher, "-m", "engine_train.worker", "--order", workdir / "order.json"]
            worker = await _Worker.start(self._threads, [*map(str, command)], workdir / "log.txt")
            self._all.append(worker)
            return worker
        if not self._idle:
            worker = await _Worker.start(self._threads, ["-m", "engine_train.worker"])
            self._all.append(worker)
            self._idle.append(worker)
        worker = self._idle.pop()
        await worker.send(data)
        return worker


class _Worker:
    """One child process."""

    def __init__(self, process: Process, launched: bool) -> None:
        assert process.stdout is not None
        self._process, self._launched, self._answered = process, launched, False
        self._answers = BufferedByteReceiveStream(process.stdout)

    @classmethod
    async def start(cls, threads: int, command: list[str], log: Path | None = None) -> Self:
        """Start Python with these arguments; a launcher writes to `log` what it has to say."""
        count = str(threads)
        environment = os.environ | {
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "PYTHONHASHSEED": "0",
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
            ENGINE: str(os.getpid()),
        }
        with contextlib.ExitStack() as stack:
            errors = None if log is None else stack.enter_context(log.open("ab"))
            # A session of its own: the terminal's signals are the engine's to heed.
            process = await anyio.open_process(
                [sys.executable, *command], env=environment, stderr=errors, start_new_session=True
            )
        return cls(process, launched=log is not None)

    async def send(self, order: bytes) -> None:
        """Hand over an order. Raises RuntimeError if the worker has died."""
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send(order + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise RuntimeError("the worker has died; it is started anew") from error

    async def answer(self, ctx: Context) -> dict[str, Any]:
        """Return the last word on the order in hand, and show those before it."""
        while True:
            try:
                line = await self._answers.receive_until(b"\n", LINE)
            except (anyio.EndOfStream, anyio.IncompleteRead):
                return {"died": _how(await self._process.wait())}
            try:
                answer: Any = orjson.loads(line)
            except orjson.JSONDecodeError:  # a launcher's own words
                continue
            if "say" in answer:
                ctx.say(answer["say"])
            else:
                self._answered = True
                return dict(answer)

    async def bury(self) -> None:
        """Once the process has died, end those that it forked: they hold its pipe open."""
        await self._process.wait()
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """End the process and those that it forked, whatever they do."""
        if self._process.returncode is None and self._launched:  # it ends those that it started
            if not self._answered:
                self._process.terminate()
            with anyio.move_on_after(10):
                await self._process.wait()
        self._kill()
        await self._process.aclose()


async def _pass_on(ctx: Context, workdir: Path) -> None:
    """Ask the training to end once the run drains."""
    await ctx.gate.wait_closed()
    (workdir / STOP).touch()


def _said() -> int:
    """Return what $OMP_NUM_THREADS says of the outermost level, 0 if it says no number."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _how(code: int) -> str:
    if code == -9:
        return "killed by signal 9, as the system does when memory runs out"
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
