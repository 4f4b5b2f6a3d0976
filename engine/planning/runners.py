"""The runners of a run that is only planned: they reuse, try, or let be."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from engine.channels import Item, Order
from engine.execution import Outcome
from engine.planning.dry import missed_here, tried
from engine.planning.plans import StagePlan
from engine.runners import Runner
from engine.runners.base import excerpt
from engine.runners.batches import Batch
from engine.runners.sources import Source
from engine.runners.streams import Stream
from engine.runners.workers import Expand, Map
from engine.store.protocol import Memo

__all__ = ["PLANNED"]

_UNKNOWN = Outcome("dead", {}, "not known")


class _Planned(Runner):
    """What the planned kinds share."""

    control: Any
    """The _Planner."""

    @property
    def plan(self) -> StagePlan:
        plan: StagePlan = self.control.plans[self.key]
        return plan

    def settled(self, item: Item, outcome: Outcome) -> Item:
        if outcome is not _UNKNOWN:
            return super().settled(item, outcome)
        self.stopped(item)
        return (item[0], item[1], None)

    def stopped(self, item: Item) -> None:
        """Count a row that nothing more can be known of."""
        self.control.unknown.add(item[0])
        self.plan.work += 1
        self.plan.why[self.control.why(self.wired, item)] += 1

    def die(self, item: Item, outcome: Outcome) -> None:
        """Count a dead row; in a run it may end all, which is nothing to fail for here."""
        error = outcome.error
        text = f"{type(error).__name__}: {error}" if error is not None else outcome.reason
        self.counters.dead += 1
        self.counters.reject(f"dead: {text[:400]}", excerpt(item[2]))

    def recalled(self, key: bytes, item: Item) -> None:
        """Count a row whose result the store has, under this key."""
        self.counters.reused += 1
        self.plan.kept += key != self.execution.row_key(item)

    def computed(self, item: Item) -> None:
        """Count a row that is computed again with no call that is not in the store."""
        self.plan.again += 1
        self.plan.why[self.control.why(self.wired, item)] += 1


class _Map(_Planned, Map):
    async def _outcome(self, item: Item) -> Outcome:
        execution = self.execution
        if execution.recorded:
            key, memo = execution.recall(item)
            if memo is not None:
                self.recalled(key, item)
                return self.remembered(memo)
            if not self.control.is_tried(self.wired):
                return _UNKNOWN
        outcome = _UNKNOWN
        with tried() as missed:
            outcome = await execution.map(item)
        if missed:
            return _UNKNOWN
        if execution.recorded:
            self.computed(item)
        return outcome


class _Expand(_Planned, Expand):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._emitted: dict[Order, int] = {}

    async def _expand(self, item: Item) -> None:
        execution = self.execution
        key, end = execution.recall(item) if execution.recorded else (b"", None)
        if end is not None:
            await super()._expand(item)
            self.plan.kept += key != execution.row_key(item)
            return
        missed = [None]
        if self.control.is_tried(self.wired):
            with tried() as missed:
                await super()._expand(item)
        emitted = self._emitted.pop(item[1], 0)
        if not missed:
            self.computed(item)
            return
        self.stopped(item)  # its children so far are what they would be
        await self.emit((None, (*item[1], emitted), None))

    async def _child(self, parent: Item, ordinal: int, memo: Memo, ctx: Any) -> None:
        self._emitted[parent[1]] = ordinal + 1
        await super()._child(parent, ordinal, memo, ctx)

    async def _parent(self, item: Item, count: int, outcome: Outcome) -> None:
        if not missed_here.get([]):  # else it failed for want of a call
            await super()._parent(item, count, outcome)


class _Batch(_Planned, Batch):
    async def _work(self) -> None:
        async with self._turn:  # an inbox has one who waits
            await self.inbox.ended()
        if not self.control.incomplete(self.key):
            await super()._work()
            return
        while items := await self.inbox.take(256):
            self.counters.received += len(items)
            self.plan.waiting += len(items)  # batches are cut once all rows are there
            for row_id, order, _ in items:
                self.control.unknown.add(row_id)
                await self.emit((row_id, order, None))

    async def _outcomes(self, items: list[Item]) -> list[Outcome]:
        execution = self.execution
        if not execution.recorded:
            return await super()._outcomes(items)
        found = [execution.recall(item) for item in items]
        if all(memo is not None for _, memo in found):
            for (key, _), item in zip(found, items, strict=True):
                self.recalled(key, item)
            return [self.remembered(memo) for _, memo in found if memo is not None]
        dead = {i: memo for i, (_, memo) in enumerate(found) if memo and memo.kind == "dead"}
        alive = [item for i, item in enumerate(items) if i not in dead]
        outcomes = [_UNKNOWN] * len(alive)
        missed = [None]
        if self.control.is_tried(self.wired):
            with tried() as missed:
                outcomes = await self._halved(alive, len(items))
        if missed:
            outcomes = [_UNKNOWN] * len(alive)
        else:
            for item in alive:
                self.computed(item)
        ran = iter(outcomes)
        return [self.remembered(dead[i]) if i in dead else next(ran) for i in range(len(items))]


class _Stream(_Planned, Stream):
    async def _run(self) -> None:
        for inbox in self._inboxes.values():
            await inbox.ended()
        if self.wired.spec.is_sink:
            await self._count()
        elif self.control.incomplete(self.key):
            await self._count()
            self.plan.waiting = self.counters.received
            await self._stop()
        else:
            await self._known()
        self.done()

    async def _count(self) -> None:
        for name in self._inboxes:
            async for _ in self._rows(name):
                pass

    async def _known(self) -> None:
        for fingerprint in self.execution.fingerprints:
            end = self.store.memo(self._memo_key(fingerprint)) if self.store else None
            if end is not None:
                await self._replay(self.store, bytes.fromhex(end.note["entries"]), end.count)  # type: ignore[arg-type]
                if fingerprint != self.wired.fingerprint:
                    self.plan.kept += self.counters.reused
                return
        received = sum(inbox.count for inbox in self._inboxes.values())
        missed = [None]
        if self.control.is_tried(self.wired):
            with tried() as missed:
                await self._fresh(None, b"")
        why = self.control.why(self.wired, None)
        self.plan.why[why] += received
        if missed:
            await self._count()
            self.plan.work += received
            await self._stop()
        else:
            self.plan.again += received

    async def _stop(self) -> None:
        self.plan.open = True
        await self.emit((None, (self.counters.out,), None))


class _Source(_Planned, Source):
    async def _made(self) -> AsyncIterator[Any]:
        missed = [None]
        if self.control.is_tried(self.wired) or not self.wired.resources:
            with tried() as missed:
                async with contextlib.aclosing(super()._made()) as rows:  # type: ignore[type-var]
                    async for row in rows:
                        if missed:
                            break
                        yield row
        if missed:
            self.plan.open = True
            self.plan.why["; ".join(self.plan.changes) or "calls that the store does not hold"] = 0


PLANNED: dict[str, type[Runner]] = {
    "map": _Map,
    "expand": _Expand,
    "batch": _Batch,
    "stream": _Stream,
    "source": _Source,
}
