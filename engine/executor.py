"""Connects the runners of a pipeline, and hears from them.

Each stage is a *runner* with an inlet (a Channel for maps and expands, an Inbox for batches and
streams, nothing for a source) and outlets: the inlets of its readers, or the run itself.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import anyio
from anyio.abc import TaskGroup

from engine.accounting import paid_note
from engine.channels import Item, Target
from engine.errors import CostError, first_error
from engine.execution import Execution, Outcome
from engine.merges import Concat, Union
from engine.pipeline import Pipeline, WiredStage
from engine.pool import ResourcePool
from engine.runners import RUNNERS, Runner
from engine.runners.given import Given
from engine.services import Counters, Gate
from engine.store.protocol import RowRecord, Store

__all__ = ["Executor"]

POLL_SECONDS = 0.02
NOTE_SECONDS = 10.0
"""Between two notes of what was paid: more than that nobody misses of a run that was killed."""


class Executor:
    """One run of a pipeline's stages. Rows that finish go to `finished`."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store | None,
        *,
        inputs: AsyncIterable[Any] | Iterable[Any] | None = None,
        into: str | None = None,
        limit: int | None = None,
        output: Target | None = None,
        accepted: Mapping[str, tuple[bytes, ...]] = MappingProxyType({}),
    ) -> None:
        self.pipeline, self.store, self.limit = pipeline, store, limit
        self.accepted = accepted
        self.runners: Mapping[str, type[Runner]] = RUNNERS
        self.execution: Callable[..., Execution] = Execution
        self.opened = pipeline.given
        self.inputs, self.into = inputs, into
        self.counters = {
            key: Counters(kind=_kind(wired, inputs, into)) for key, wired in pipeline.stages.items()
        }
        self.finished = 0
        self.tally: dict[str, Counter[str]] = {name: Counter() for name in pipeline.model.count_by}
        self.draining = False
        self.ended = False
        self.gate = Gate(self._spent)
        self._noted = -math.inf
        self._failed = anyio.Event()
        self.failure: BaseException | None = None
        self._output = output
        self._events = pipeline.plugins.manager.hook.engine_event

    async def run(self) -> None:
        """Run to the end.

        Raises what `fail` was told, StageError, ResourceError or StoreError, once the calls in
        flight have ended.
        """
        limits = {
            name: anyio.CapacityLimiter(size)
            for name, size in self.pipeline.model.limits.named.items()
        }
        async with ResourcePool(self.pipeline.resources, self.opened) as pool:
            async with anyio.create_task_group() as watched:
                watched.start_soon(self._end_by_failure, watched.cancel_scope)
                async with anyio.create_task_group() as group:
                    tasks = _Tasks(group, self.fail)
                    runners: dict[str, Runner] = {}
                    for key, wired in self.pipeline.stages.items():
                        execution = self.execution(
                            wired,
                            self.pipeline,
                            pool,
                            self.store,
                            limits,
                            self.counters,
                            self.gate,
                            self.accepted.get(key, ()),
                        )
                        kind = _kind(wired, self.inputs, self.into)
                        runners[key] = self.runners[kind](self, execution, tasks)
                    self._connect(runners)
                    for runner in runners.values():
                        runner.start()
                watched.cancel_scope.cancel()
            if self.failure is not None:
                raise self.failure

    def fail(self, error: BaseException) -> None:
        """End the run by this error, once the calls in flight have ended: they are paid."""
        error = first_error(error)
        if self.failure is None:
            self.failure = error
        elif str(error) != str(self.failure):
            self.failure.add_note(f"also: {type(error).__name__}: {error}")
        self.draining = True
        self.gate.close()
        self._failed.set()

    async def _end_by_failure(self, scope: anyio.CancelScope) -> None:
        await self._failed.wait()
        while self.gate.sending:  # noqa: ASYNC110 - only a number
            await anyio.sleep(POLL_SECONDS)
        scope.cancel()

    def _spent(self, cost: float) -> None:
        now = anyio.current_time()
        if self.store is not None and now >= self._noted + NOTE_SECONDS:
            self._noted = now
            self.store.note(paid_note(self.counters))
        most = self.pipeline.model.max_cost
        if most is not None and cost >= most and not self.gate.closed:
            self.fail(
                CostError(
                    f"the calls of this run have cost {cost:g}, and `max_cost` is {most:g}: "
                    "nothing is lost, and a run with a higher one goes on from here"
                )
            )

    def _connect(self, runners: Mapping[str, Runner]) -> None:
        """Give each stage its outlets, and each finishing point its way to the run."""
        reported: set[tuple[str, ...]] = set()
        for runner in runners.values():
            source = runner.wired.source
            if source is None:
                continue
            if runner.wired.spec.is_sink and source.stages not in reported:
                reported.add(source.stages)
                runner.reports = True
            if source.form == "concat":
                fields, done = frozenset(runner.wired.inputs[""]), list[int]()
                for i, name in enumerate(source.stages):
                    port = Concat(runner.inlet(""), i, len(source.stages), name, fields, done)
                    runners[name].outlets.append(port)
            elif source.form == "all":
                union = self._union(runner, source.stages)
                for i, name in enumerate(source.stages):
                    runners[name].outlets.append(union.port(i))
            else:
                for name, parameter in zip(source.stages, source.names or ("",), strict=True):
                    runners[name].outlets.append(runner.inlet(parameter))
        for key, runner in runners.items():
            if not runner.outlets and not runner.wired.spec.is_sink:
                runner.outlets.append(_Finish(self, key))

    def _union(self, runner: Runner, branches: tuple[str, ...]) -> Union:
        ups = [self.pipeline.stages[name] for name in branches]
        owners = {}
        for name in runner.wired.inputs[""]:  # which branch has the newest version of a field
            holders = [i for i, up in enumerate(ups) if name in up.fields]
            newest = [i for i in holders if ups[i].writers[name] == runner.wired.writers.get(name)]
            owners[name] = (newest or holders)[0]
        fields = tuple(frozenset(n for n, o in owners.items() if o == i) for i in range(len(ups)))

        def reject(item: Item, reason: str) -> None:
            self.lacking(runner, item, reason)

        return Union(runner.inlet(""), branches, fields, reject)

    def lacking(self, runner: Runner, item: Item, reason: str) -> None:
        """Reject a row that a branch lacks."""
        runner.counters.received += 1
        runner.reject(item, Outcome("reject", {}, reason))

    # --- what runners ask and tell the run ----------------------------------------------------

    def given(self, key: str) -> Given | None:
        """Return the rows that an embedder gave in place of a stage's output, if any."""
        if self.inputs is None or key != self.into:
            return None
        return Given(self.inputs, self.pipeline.stages[key], self.pipeline.stages)

    async def finish(self, stage: str, item: Item) -> None:
        """Book a finished row, and hand it to whoever iterates the run."""
        row_id, order, fields = item
        assert row_id is not None
        self.finished += 1
        for name, counts in self.tally.items():
            counts[str(fields.get(name))] += 1
        if self.store is not None:
            self.store.put_row(RowRecord(stage, row_id, order, "finished", fields, {}))
        if self._output is not None and not self._output.try_put(item):
            try:
                await self._output.put(item)
            except BaseException:  # it has finished, so it can still be iterated
                self._output.push(item)
                raise

    def event(self, make: Callable[[str], Any]) -> None:
        """Tell observers; one that fails is logged, and changes nothing."""
        try:
            self._events(event=make(self.pipeline.name))
        except Exception:
            logging.getLogger("engine").exception("an observer of engine_event failed")

    async def drained(self) -> None:
        """Let no row be taken and no call be sent; return once what is under way has ended.

        A row that waits for others (to make a call, say) is left as it is: what it has paid for is
        stored, and the next run takes it up.
        """
        self.draining = True
        self.gate.close()
        counters = self.counters.values()
        while not self.ended and (self.gate.sending or any(c.busy for c in counters)):  # noqa: ASYNC110 - only numbers
            await anyio.sleep(POLL_SECONDS)


class _Tasks:
    """The tasks of the runners: one that fails ends the run, and waits for it."""

    def __init__(self, group: TaskGroup, fail: Callable[[BaseException], None]) -> None:
        self._group, self._fail = group, fail

    def start_soon(self, work: Callable[[], Awaitable[None]]) -> None:
        self._group.start_soon(self._live, work)

    async def _live(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            if anyio.current_effective_deadline() == -math.inf:
                raise  # the run is being stopped already
            self._fail(error)
            await anyio.sleep_forever()


class _Finish:
    """The outlet of a stage that nothing reads."""

    def __init__(self, executor: Executor, key: str) -> None:
        self._executor, self._key = executor, key

    def try_put(self, item: Item) -> bool:
        executor = self._executor
        if item[0] is None or item[2] is None:
            return True
        if executor.store is not None or executor.tally:
            return False
        if executor._output is not None and not executor._output.try_put(item):
            return False
        executor.finished += 1
        return True

    async def put(self, item: Item) -> None:
        await self._executor.finish(self._key, item)

    def close(self) -> None:
        pass


def _kind(wired: WiredStage, inputs: Any, into: str | None) -> str:
    return "source" if inputs is not None and wired.key == into else wired.kind
