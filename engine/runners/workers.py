"""Maps and expands: long-lived workers behind a channel, started as rows wait for them."""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import anyio.lowlevel

from engine.channels import Channel, Item, Target
from engine.errors import StageError, unwrap
from engine.execution import TELLING, Execution, Outcome, rejected
from engine.keys import child_id
from engine.rows import Reject
from engine.runners.base import FAIR, Control, Runner, incomplete
from engine.store.protocol import Memo

__all__ = ["Expand", "Map"]


class Workers(Runner, abc.ABC):
    """A stage of long-lived workers behind a Channel, started as rows wait for them."""

    def __init__(self, control: Control, execution: Execution, tasks: Any) -> None:
        super().__init__(control, execution, tasks)
        self.channel = Channel(self._grow, self._closed)
        self._workers = 0
        self._most = self.wired.model.concurrency

    def inlet(self, name: str) -> Target:
        return self.channel

    def _grow(self) -> bool:
        if self._workers >= self._most:
            return False
        self._workers += 1
        self.tasks.start_soon(self._live)
        return True

    def _closed(self) -> None:
        if not self._workers:
            self.done()

    async def _live(self) -> None:
        await self._work()
        self._workers -= 1
        if not self._workers and self.channel.closed and not self.channel.items:
            self.done()

    @abc.abstractmethod
    async def _work(self) -> None:
        """Take rows until the channel is closed and empty."""

    async def _rows(self) -> AsyncIterator[Item]:
        """Yield the rows of the channel; signals pass by."""
        channel, items = self.channel, self.channel.items
        while await channel.ready():
            while items:
                item = items.popleft()
                if channel.putters:
                    channel.drained()
                if item[0] is None or item[2] is None:
                    await self.emit(item)
                    continue
                if self.control.draining:
                    await anyio.sleep_forever()  # the run ends around it: this stage is not done
                self.counters.received += 1
                yield item
                await anyio.lowlevel.checkpoint()


class Map(Workers):
    """A map: one row in, one row out, or none."""

    async def _work(self) -> None:
        if self.execution.bare:
            await self._fast()
            return
        async with contextlib.aclosing(self._rows()) as rows:  # type: ignore[type-var]
            async for item in rows:
                await self.settle(item, await self._outcome(item))

    async def _outcome(self, item: Item) -> Outcome:
        execution, store = self.execution, self.store
        if not execution.recorded or store is None:
            return await execution.map(item)
        key, memo = execution.recall(item)
        if memo is not None:
            self.counters.reused += 1
            return self.remembered(memo, key)
        outcome = await execution.map(item)
        outcome = self.put_memo(store, key, outcome)
        if outcome.kind != "dead":  # which may be tried again, from where it stopped
            store.drop_workdir(key)
        return outcome

    async def _fast(self) -> None:
        """Move rows through a stage that needs neither memo, context, limit nor clock."""
        channel, items, counters = self.channel, self.channel.items, self.counters
        execution, control, putters = self.execution, self.control, self.channel.putters
        config, args = self.wired.config, execution.args
        func = functools.partial(execution.func, **config) if config else execution.func
        # `added` does what is more than taking the fields as they are.
        simple = not (execution.texts or execution.rename or self.store is not None)
        adds = execution.spec.adds if simple else None
        outlet = self.outlets[0] if len(self.outlets) == 1 else None
        # The next stage's queue is filled in place: a call a row costs as much as the hop itself.
        queue, room = (outlet.items, outlet.capacity) if isinstance(outlet, Channel) else (items, 0)
        turns = 0
        while await channel.ready():
            while items:
                item = items.popleft()
                row_id, order, fields = item
                if putters:
                    channel.drained()
                if row_id is None or fields is None:
                    await self.emit(item)
                    continue
                if control.draining:
                    await anyio.sleep_forever()  # the run ends around it: this stage is not done
                counters.received += 1
                try:
                    out = await func(*args(fields))
                    added: Mapping[str, Any]
                    if type(out) is adds:
                        added = out.__dict__
                    else:
                        added = execution.renamed(execution.added(out, fields, fields))
                except (Exception, KeyboardInterrupt, SystemExit) as error:
                    await self.settle(item, await self._again(item, error))
                    continue
                counters.out += 1
                item = (row_id, order, {**fields, **added})
                if 0 < len(queue) < room:
                    queue.append(item)  # not empty: a worker is on its way already
                elif outlet is None:
                    await self.emit(item)
                elif not outlet.try_put(item):
                    await outlet.put(item)
                turns += 1
                if turns == FAIR:
                    turns = 0
                    await anyio.lowlevel.checkpoint()

    async def _again(self, item: Item, error: BaseException) -> Outcome:
        await self.execution.not_cancelled()
        error = unwrap(error, *TELLING)
        if isinstance(error, Reject):
            return rejected(error)
        if isinstance(error, KeyboardInterrupt):
            raise StageError(self.key, (item[0] or b"").hex(), "interrupted") from error
        if not isinstance(error, Exception):  # SystemExit: a row's doing cannot end the host
            error = RuntimeError(f"the stage raised {error!r}")
        return await self.execution.map(item, failed=error)


class Expand(Workers):
    """An expand: children commit and flow one by one; a final record holds their count."""

    async def _work(self) -> None:
        async with contextlib.aclosing(self._rows()) as rows:  # type: ignore[type-var]
            async for item in rows:
                await self._expand(item)

    async def _expand(self, item: Item) -> None:
        execution, store = self.execution, self.store
        row_id = item[0]
        assert row_id is not None
        key = None
        if execution.recorded and store is not None:
            key, end = execution.recall(item)
            if end is not None:
                self.counters.reused += 1
                ctx = execution.context(row_id, 1, store.calls)
                for ordinal in range(end.count):
                    child = store.memo(key, ordinal)
                    if child is None:
                        raise incomplete(self.key, row_id.hex(), "child")
                    await self._child(item, ordinal, child, ctx)
                await self._parent(item, end.count, self._ending(end, key))
                return
        emitted = 0

        async def once(ctx: Any) -> Mapping[str, Any]:
            nonlocal emitted
            keywords = await execution.keywords(ctx)
            ordinal, keys = 0, set[str]()
            async with contextlib.aclosing(
                execution.func(*execution.args(item[2]), **keywords)
            ) as children:
                async for out in children:
                    own = getattr(out, "_key", None)
                    if own in keys:
                        raise ValueError(f"two children have the key {own!r}")
                    if own is not None:
                        keys.add(own)
                    if ordinal >= emitted:  # an earlier attempt may have got further
                        memo = self._child_memo(out, item)
                        if key is not None and store is not None:
                            store.put_memo(key, memo, ordinal)
                        await self._child(item, ordinal, memo, ctx)
                        emitted = ordinal + 1
                    ordinal += 1
            return {}

        outcome = await execution.attempts(row_id, once, key)
        failed = outcome.kind == "dead" and self.wired.model.on_error == "fail"
        if key is not None and store is not None and not failed:
            note = self.memo_of(outcome)
            store.put_memo(
                key, Memo("end", note={**note.note, "kind": outcome.kind}, count=emitted)
            )
            if outcome.kind != "dead":
                store.drop_workdir(key)
            outcome = replace(outcome, memo=key)
        await self._parent(item, emitted, outcome)

    def _ending(self, end: Memo, key: bytes) -> Outcome:
        kind = end.note["kind"]
        if kind == "row":
            return Outcome("row", {})
        return self.remembered(Memo(kind, note=end.note), key)

    def _child_memo(self, out: Any, parent: Item) -> Memo:
        if isinstance(out, Reject):
            return Memo(
                "reject",
                note={"reason": out.reason, "example": str(out.span or "")[:200], "attempts": 1},
            )
        fields = self.execution.added(out, parent[2], parent[2])
        return Memo("row", fields, key=getattr(out, "_key", None))

    async def _child(self, parent: Item, ordinal: int, memo: Memo, ctx: Any) -> None:
        row_id, order, fields = parent
        assert row_id is not None
        own = child_id(row_id, self.key, memo.key if memo.key is not None else ordinal)
        added = self.execution.renamed(memo.fields)
        item: Item = (own, (*order, ordinal), {**fields, **added})
        self.counters.yielded += 1
        if memo.kind == "reject":
            self.counters.rejected_children += 1
            self._verdict(item, self.remembered(memo))
            item = (own, item[1], None)
        else:
            self.counters.out += 1
        await self.emit_from(ctx, item)

    async def _parent(self, item: Item, count: int, outcome: Outcome) -> None:
        if outcome.kind == "row":
            self.counters.expanded += 1
        elif outcome.kind == "reject":
            self.reject(item, outcome)
        else:
            self.die(item, outcome)
        await self.emit((None, (*item[1], count), None))
