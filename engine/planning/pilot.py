"""A small run, from which the whole one is estimated.

Each stage waits for all that reaches it in the pilot, works on an even part of it, and passes that
on: so every stage is measured on rows from all over its input, and few are paid for. Results and
replies go to the pipeline's own store under the keys that a run looks for, so that nothing is paid
twice. Sources run whole, streams get all that comes, sinks write nothing.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import anyio

from engine.channels import Item, Order, Target
from engine.errors import StageError
from engine.execution import Execution, Outcome
from engine.executor import Executor
from engine.pipeline import Pipeline, WiredStage
from engine.planning.kept import Kept
from engine.planning.metering import Meter, Metered, Working, timed
from engine.planning.sampling import Sieve, evenly
from engine.runners import Runner
from engine.runners.batches import Batch
from engine.runners.sources import Source
from engine.runners.streams import Stream
from engine.runners.workers import Expand, Map
from engine.runs import Run, store_folder
from engine.store.protocol import Memo, Store
from engine.store.sqlite import SqliteStore
from engine.wiring import needed

__all__ = ["PilotRun", "open_pilot"]

CHILDREN = 5
"""An expand is measured on so many times fewer rows, for each brings several."""

MOST = 20
"""A source that calls is stopped at so many times the pilot's rows."""


def open_pilot(
    pipeline: Pipeline,
    rows: int,
    *,
    store: Store | None = None,
    limit: int | None = None,
    keep: Sequence[str] = (),
) -> PilotRun:
    """Return a pilot of about `rows` rows a stage, in the pipeline's own store by default."""
    return PilotRun(
        pipeline, store or SqliteStore(store_folder(pipeline)), rows=rows, limit=limit, keep=keep
    )


class PilotRun(Run):
    """A run of a sample; the store keeps it with the status `pilot`."""

    _done = "pilot"

    def __init__(self, pipeline: Pipeline, store: Store, *, rows: int, **options: Any) -> None:
        super().__init__(pipeline, store, **options)
        self.pilot = Pilot(pipeline, store, rows, self._executor)
        self._executor = self.pilot

    def _check_counts(self) -> None:
        for key, counted in self.counters.items():
            source = self.pipeline.stages[key].source
            wrong = counted.unaccounted()
            if not wrong and source is not None and source.form != "all":
                passed = sum(self.counters[name].out for name in source.stages)
                if passed != self.pilot.reached(key):
                    wrong = f"{passed} were passed on to it, {self.pilot.reached(key)} arrived"
            if wrong:
                raise StageError(key, "", f"rows are unaccounted for: {wrong}")

    def _record(self) -> Mapping[str, Any]:
        return {**super()._record(), "pilot": self.pilot.as_dict()}


class Pilot(Executor):
    """An executor whose stages work on a part of what reaches them."""

    def __init__(self, pipeline: Pipeline, store: Store, rows: int, run: Executor) -> None:
        super().__init__(pipeline, store, limit=run.limit, output=run._output)
        self.rows = rows
        self.runners, self.execution = _PILOTED, self._metered
        self.meters: dict[str, Meter] = {}
        self.sieves: dict[str, list[Sieve]] = {}
        self.children: dict[str, Counter[Order]] = defaultdict(Counter)
        """Of an expand: each row's order key -> the children that it passed on."""
        self.stopped: set[str] = set()
        """Sources that were stopped before their end."""
        self.kept = Kept(pipeline)
        self.before: list[Any] = []
        """The runs of this generation that were before."""

    async def run(self) -> None:
        """Run the pilot to its end."""
        assert self.store is not None
        runs = [record for record in self.store.runs() if record.id != self.store.run]
        generation = self.store.runs()[-1].generation
        self.before = [record for record in runs if record.generation == generation]
        for key in self.pipeline.stages:
            found: dict[str, Any] = {}
            for record in self.before:
                found |= record.summary.get("pilot", {}).get(key, {})
            self.meters[key] = Meter(found)
        with timed(self.pipeline.resources):
            await super().run()

    async def finish(self, stage: str, item: Item) -> None:
        """Book a finished row, and see what of it was generated."""
        self.kept.add(stage, item[2])
        await super().finish(stage, item)

    def reached(self, key: str) -> int:
        """Return how many rows reached a stage, those included that were held back."""
        return self.counters[key].received + sum(sieve.held for sieve in self.sieves.get(key, ()))

    def sampled(self, key: str) -> bool:
        """Return whether a stage gets a part of what a run would give it."""
        leading = needed(self.pipeline.stages, self.pipeline.stages[key].upstream)
        return any(
            name in self.stopped or any(sieve.held for sieve in self.sieves.get(name, ()))
            for name in leading
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what each row of each stage has taken, as plain JSON."""
        return {key: meter.as_dict() for key, meter in self.meters.items()}

    def choose(self, wired: WiredStage, total: int) -> set[int]:
        """Return which rows that reach a stage it works on; readers of one stage choose alike."""
        most = self.rows if wired.kind != "expand" else max(1, self.rows // CHILDREN)
        alike = [w for w in self.pipeline.stages.values() if w.source == wired.source]
        block = max((w.model.batch for w in alike if w.kind == "batch"), default=1)
        return evenly(total, most, block if wired.kind != "expand" else 1)

    def _metered(self, wired: WiredStage, *arguments: Any) -> Execution:
        execution = Metered(wired, *arguments)
        execution.meter = self.meters[wired.key]
        return execution


class _Piloted(Runner):
    """What the kinds of a pilot share."""

    control: Any
    """The Pilot."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sieves: dict[str, Sieve] = {}

    def inlet(self, name: str) -> Target:
        if name not in self._sieves:
            place = f"{self.key}/{name}/pilot"
            inner = super().inlet(name)
            self._sieves[name] = Sieve(
                inner, self.store, place, self.tasks, lambda n: self.control.choose(self.wired, n)
            )
            self.control.sieves.setdefault(self.key, []).append(self._sieves[name])
        return self._sieves[name]


class _Map(_Piloted, Map):
    async def _work(self) -> None:
        async with contextlib.aclosing(self._rows()) as rows:  # type: ignore[type-var]
            async for item in rows:
                taken = self.control.meters[self.key].row((item[0] or b"").hex(), 1)
                await self.settle(item, await Working(self._outcome(item), taken))


class _Expand(_Piloted, Expand):
    async def _expand(self, item: Item) -> None:
        taken = self.control.meters[self.key].row((item[0] or b"").hex(), 1)
        await Working(super()._expand(item), taken)

    async def _child(self, parent: Item, ordinal: int, memo: Memo, ctx: Any) -> None:
        self.control.children[self.key][parent[1]] += memo.kind != "reject"
        await super()._child(parent, ordinal, memo, ctx)

    async def _parent(self, item: Item, count: int, outcome: Outcome) -> None:
        self.control.children[self.key][item[1]] += 0
        await super()._parent(item, count, outcome)


class _Batch(_Piloted, Batch):
    async def _outcomes(self, items: list[Item]) -> list[Outcome]:
        taken = self.control.meters[self.key].row((items[0][0] or b"").hex(), len(items))
        return await Working(super()._outcomes(items), taken)


class _Stream(Stream):
    control: Any

    async def _run(self) -> None:
        for inbox in self._inboxes.values():
            await inbox.ended()
        if self.wired.spec.is_sink:
            for name in self._inboxes:
                async for _ in self._rows(name):
                    pass
            self.counters.consumed = self.counters.received
        elif self.control.sampled(self.key):  # its memo would have a run wait for the whole input
            await Working(self._fresh(None, b""), self.control.meters[self.key].row("", 0))
        else:
            await Working(super()._run(), self.control.meters[self.key].row("", 0))
            return
        self.done()


class _Source(Source):
    control: Any

    async def _made(self) -> AsyncIterator[Any]:
        most = MOST * self.control.rows if self.wired.resources else None
        taken = self.control.meters[self.key].row("", 0)
        made, began = 0, anyio.current_time()
        async with contextlib.aclosing(super()._made()) as rows:  # type: ignore[type-var]
            async for row in rows:
                taken.seconds += anyio.current_time() - began
                if made == most:
                    self.control.stopped.add(self.key)
                    return
                made += 1
                yield row
                began = anyio.current_time()
        taken.seconds += anyio.current_time() - began


_PILOTED: dict[str, type[Runner]] = {
    "map": _Map,
    "expand": _Expand,
    "batch": _Batch,
    "stream": _Stream,
    "source": _Source,
}
