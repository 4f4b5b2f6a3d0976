"""Runs: a pipeline in motion, for the command line, scripts and other async services."""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskStatus

from engine.accounting import Status, Summary, check_counts, check_manifest, set_earlier
from engine.channels import Channel
from engine.errors import first_error
from engine.events import RunEnded, RunStarted
from engine.executor import Executor
from engine.keeping import begin_run, check_keep
from engine.loader import Document
from engine.pipeline import Pipeline, read_pipeline
from engine.resources import Resource
from engine.rows import Row
from engine.runners.given import check_inputs
from engine.services import Counters
from engine.store.protocol import Store

__all__ = ["Run", "Summary", "open_run", "run", "store_folder"]


class Run:
    """One run: `async with engine.open(...) as run: async for row in run: ...`.

    Iterating gives finished rows as they finish. A `break`, an exception or an outer cancellation
    stops all stages, closes all resources and leaves no half-written file. A failing stage raises
    StageError from the iteration.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store | None,
        *,
        inputs: AsyncIterable[Any] | Iterable[Any] | None = None,
        into: str | None = None,
        limit: int | None = None,
        fresh: bool = False,
        keep: Sequence[str] = (),
        redrive: Sequence[bytes] = (),
    ) -> None:
        self.pipeline, self.store = pipeline, store
        self._begins = fresh, check_keep(pipeline, keep, fresh=fresh), redrive
        self._output = Channel(lambda: False, lambda: None)
        self._executor: Executor = Executor(
            pipeline, store, inputs=inputs, into=into, limit=limit, output=self._output
        )
        self._status: Status = "running"
        self._error: BaseException | None = None
        self._raised = False
        self._closing_error: BaseException | None = None
        self._task: int | None = None  # the one that entered
        self._started: float | None = None
        self._ended: float | None = None

    @property
    def counters(self) -> dict[str, Counters]:
        """The stages' counters, live: views pull from here."""
        return self._executor.counters

    @property
    def started(self) -> bool:
        """Whether its stages were started: the store could be opened."""
        return self._started is not None

    @property
    def finished(self) -> int:
        """How many rows have finished."""
        return self._executor.finished

    @property
    def summary(self) -> Summary:
        """How the run stands: a snapshot, which does not change with the run."""
        counters = copy.deepcopy(self.counters)
        ended = self._ended
        if ended is None and self._started is not None:
            ended = anyio.current_time()
        return Summary(
            pipeline=self.pipeline.name,
            status=self._status,
            finished=self.finished,
            rejected=sum(c.rejected + c.rejected_children for c in counters.values()),
            dead=sum(c.dead for c in counters.values()),
            seconds=0.0 if ended is None or self._started is None else ended - self._started,
            stages=counters,
            tally={name: dict(counts) for name, counts in self._executor.tally.items()},
            max_dead=self.pipeline.model.max_dead,
            error=str(self._error or self._closing_error or ""),
            error_code=getattr(self._error or self._closing_error, "exit_code", 1),
        )

    def _repr_html_(self) -> str:
        return self.summary._repr_html_()

    async def __aenter__(self) -> Self:
        """Open the store and start the stages.

        Raises RuntimeError when entered twice, StoreError when the store cannot be opened.
        """
        if self._task is not None:
            raise RuntimeError("a run is entered once: call engine.open again")
        self._task = anyio.get_current_task().id
        self._leaving, self._left = anyio.Event(), anyio.Event()
        self._scope = anyio.CancelScope()  # the stages' own: to stop them cancels no embedder
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        try:
            await self._tasks.start(self._live)
        except BaseException:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)
            self._task = None
            raise
        return self

    async def _live(self, *, task_status: TaskStatus[None]) -> None:
        """Be the task in which store, stages and resources live, so that one can be left behind.

        The store stays open while finished rows are read; what is cancelled around it, and how
        often, does not keep it from being closed.
        """
        started = False
        try:
            async with AsyncExitStack() as stack:
                if self.store is not None:
                    self.store.on_trouble = self._executor.fail
                    await stack.enter_async_context(self.store)
                    self._executor.accepted = begin_run(self.store, self.pipeline, *self._begins)
                    set_earlier(self.counters, self.store.runs(), self.store.run)
                self._started = anyio.current_time()
                self._executor.event(lambda name: RunStarted(name, self.pipeline.file))
                task_status.started()
                started = True
                try:
                    await self._execute()
                    await self._leaving.wait()
                finally:
                    with anyio.CancelScope(shield=True):
                        if self._status == "running":
                            self._status = "cancelled"
                        self._executor.event(
                            lambda name: RunEnded(name, self._status, self.counters)
                        )
                        if self.store is not None:
                            await self.store.end(self._status, self._record())
        except Exception as error:
            if not started:
                raise
            self._closing_error, self._status = first_error(error), "failed"
        finally:
            self._left.set()

    _done: Status = "done"
    """What a run that came to its end is."""

    def _check_counts(self) -> None:
        check_counts(self.pipeline, self.counters)

    def _record(self) -> Mapping[str, Any]:
        """Return what the store keeps of the run, as plain JSON."""
        return self.summary.as_dict()

    async def _execute(self) -> None:
        try:
            with self._scope:
                await self._executor.run()
                self._check_counts()
                if self.store is not None:
                    await self.store.flush()
                    check_manifest(self.summary, self.store)
                self._status = self._done
        except Exception as error:
            self._error = first_error(error)
            self._status = "failed"
        finally:
            if self._executor.failure is not None and self._error is None:
                self._error, self._status = self._executor.failure, "failed"  # and then stopped
            self._executor.ended = True
            self._ended = anyio.current_time()
            self._output.close()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop what still runs; close resources and store.

        Raises RuntimeError, once all is closed, in another task than the one that entered.
        """
        self._scope.cancel()
        self._leaving.set()
        if anyio.get_current_task().id != self._task:
            with anyio.CancelScope(shield=True):
                await self._left.wait()
            raise RuntimeError(
                "a run was left in another task than the one that entered it: it was entered in an "
                "async generator that nobody closed, or that another task closed. All of the run "
                "is closed; close such a generator with contextlib.aclosing, or give the run a "
                "task of its own (docs/embedding.md)"
            )
        await self._tasks.__aexit__(None, None, None)
        if exc is None:
            self._raise()
        if self._closing_error is not None and (exc is None or exc is not self._error):
            raise self._closing_error

    def __aiter__(self) -> Self:
        """Iterate finished rows."""
        return self

    async def __anext__(self) -> Row:
        """Return the next finished row. Raises StageError if a stage failed."""
        self._check_entered()
        if not await self._output.ready():
            self._raise()
            raise StopAsyncIteration
        row_id, order, fields = self._output.items.popleft()
        return Row.of(fields, row_id or b"", order)

    async def finish(self) -> Summary:
        """Run to the end without looking at the rows; return the summary. Raises StageError."""
        self._check_entered()
        output = self._output
        while await output.ready():
            output.items.clear()
        self._raise()
        return self.summary

    def _check_entered(self) -> None:
        if not self.started:
            raise RuntimeError("the run has not begun: write `async with engine.open(...) as run:`")

    def _raise(self) -> None:
        """Raise what ended the run, once; the summary keeps it."""
        if self._error is not None and not self._raised:
            self._raised = True
            raise self._error

    async def drain(self) -> None:
        """Take no more rows, let what is in flight end and be stored, then stop.

        The rows that have finished can still be iterated. What waits to be taken by a later stage
        is in the store, or lost where there is none.
        """
        self._check_entered()
        await self._executor.drained()
        if self.store is not None:
            await self.store.flush()
        self.stop()

    def stop(self) -> None:
        """Stop at once; what is queued for the store is still committed."""
        self._check_entered()
        if self._status == "running":
            self._status = "interrupted"
        self._scope.cancel()


def store_folder(pipeline: Pipeline) -> Path:
    """Return where a pipeline's store lies: `.engine/<name>/` beside the file."""
    return pipeline.document.folder / ".engine" / pipeline.name


def open_run(
    pipeline: str | os.PathLike[str] | Document | Pipeline,
    *,
    inputs: AsyncIterable[Any] | Iterable[Any] | None = None,
    into: str | None = None,
    store: Store | str | os.PathLike[str] | None = "beside",
    set: Sequence[str] = (),
    plugins: Sequence[object] = (),
    resources: Mapping[str, Resource] | None = None,
    limit: int | None = None,
    fresh: bool = False,
    keep: Sequence[str] = (),
    redrive: Sequence[bytes] = (),
) -> Run:
    """Read and check a pipeline, and return its Run, to be entered with `async with`.

    `inputs` (rows or mappings, sync or async) replace the output of the first stage, or of the
    stage `into`. `store` is a folder, `":memory:"`, None (nothing is kept), or left out:
    `.engine/<name>/` beside the file. `set` are `--set` assignments; `limit` takes the first N
    source rows; `fresh` starts a new generation. `keep` are stages (`stages.KEY`) whose older
    results are accepted, though the stage is not what it was; later runs of the same stage go on
    accepting them. `redrive` are memo keys of dead letters that are tried again.

    `plugins` are namespaces to load, stages and resource classes of your own, or modules and
    objects with hooks (an observer, say). `resources` take the place of those that the file
    declares, by key; they are open already and stay open, so that several runs share one client
    and its limits.

    Raises InputError before anything is written, and TypeError where a Pipeline that is already
    read is given options that belong to its reading.
    """
    if into is not None and inputs is None:
        raise TypeError("into= says where inputs= go: give inputs=, too")
    if isinstance(pipeline, Pipeline):
        if set or plugins or resources or into is not None:
            raise TypeError(
                "set=, plugins=, resources= and into= are for a pipeline yet to be read"
            )
    else:
        pipeline = read_pipeline(
            pipeline,
            overrides=set,
            plugins=plugins,
            resources=resources,
            replaced=into,
            replace_first=inputs is not None and into is None,
        )
    if inputs is not None:
        check_inputs(inputs)
        into = into or next(iter(pipeline.stages))
    return Run(
        pipeline,
        _store(store, pipeline),
        inputs=inputs,
        into=into,
        limit=limit,
        fresh=fresh,
        keep=keep,
        redrive=redrive,
    )


def _store(given: Store | str | os.PathLike[str] | None, pipeline: Pipeline) -> Store | None:
    if given is None:
        return None
    if not isinstance(given, (str, os.PathLike)):
        return given
    from engine.store import SqliteStore

    if given == ":memory:":
        return SqliteStore(None)
    return SqliteStore(store_folder(pipeline) if given == "beside" else Path(given))


async def run(pipeline: str | os.PathLike[str] | Document | Pipeline, **options: Any) -> Summary:
    """Run a pipeline to its end and return the summary; options as for `engine.open`."""
    async with open_run(pipeline, **options) as running:
        return await running.finish()
