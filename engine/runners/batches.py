"""Batches: consecutive rows in order, halved down to the guilty row when the stage raises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel

from engine.arguments import row_maker
from engine.channels import Inbox, Item, Target
from engine.errors import StageError
from engine.execution import Execution, Outcome, rejected
from engine.keys import digest
from engine.rows import Reject
from engine.runners.base import Control, Runner
from engine.services import CallRecords

__all__ = ["Batch"]


class Batch(Runner):
    """A batch: consecutive rows in order; halved down to the guilty row when it raises."""

    def __init__(self, control: Control, execution: Execution, tasks: Any) -> None:
        super().__init__(control, execution, tasks)
        self.inbox = Inbox(self.key, self.store)
        self._turn = anyio.Lock()
        self._workers = self.wired.model.concurrency
        (cls,) = self.wired.spec.row_parameters.values()
        self._make = row_maker(self.wired, cls)
        self._pass: list[Item] = []

    def inlet(self, name: str) -> Target:
        return Signals(self.inbox, self._pass)

    def start(self) -> None:
        for _ in range(self._workers):
            self.tasks.start_soon(self._live)

    async def _live(self) -> None:
        await self._work()
        self._workers -= 1
        if not self._workers:
            for item in self._pass:
                await self.emit(item)
            self._pass.clear()
            self.done()

    async def _work(self) -> None:
        size = self.wired.model.batch
        while True:
            async with self._turn:  # batches are cut in order, one after the other
                items = await self.inbox.take(size, least=size)
                if self.control.draining:
                    await anyio.sleep_forever()
                passing, self._pass[:] = list(self._pass), []
            for signal in passing:
                await self.emit(signal)
            if not items:
                return
            self.counters.received += len(items)
            outcomes = await self._outcomes(items)
            pairs = zip(items, outcomes, strict=True)
            for passed in [self.settled(item, outcome) for item, outcome in pairs]:
                await self.emit(passed)
            await anyio.lowlevel.checkpoint()

    async def _outcomes(self, items: list[Item]) -> list[Outcome]:
        execution, store = self.execution, self.store
        if not execution.recorded or store is None:
            return await self._halved(items, len(items))
        found = [execution.recall(item) for item in items]
        if all(memo is not None for _, memo in found):
            self.counters.reused += len(items)
            return [self.remembered(memo, key) for key, memo in found if memo is not None]
        # A dead letter stays dead while its key is unchanged, and the rest runs again whole.
        dead = {
            i: (memo, key) for i, (key, memo) in enumerate(found) if memo and memo.kind == "dead"
        }
        alive = [i for i in range(len(items)) if i not in dead]
        outcomes = await self._halved([items[i] for i in alive], len(items)) if alive else []
        keys = [execution.row_key(items[i]) for i in alive]
        made = [self.put_memo(store, key, out) for key, out in zip(keys, outcomes, strict=True)]
        ran = dict(zip(alive, made, strict=True))
        for folder in _finished(keys, made):
            store.drop_workdir(folder)
        return [self.remembered(*dead[i]) if i in dead else ran[i] for i in range(len(items))]

    async def _halved(
        self, items: list[Item], waiting: int, calls: CallRecords | None = None
    ) -> list[Outcome]:
        """Run the stage on the rows, or on ever smaller parts; `waiting` rows wait for the end."""
        execution = self.execution
        calls = execution.calls() if calls is None else calls
        outs: list[Any] = []

        async def once(ctx: Any) -> Mapping[str, Any]:
            rows = [self._make(fields, row_id or b"", order) for row_id, order, fields in items]
            outs[:] = await execution.func(rows, **await execution.keywords(ctx))
            if len(outs) != len(items):
                raise StageError(
                    self.key, "", f"it returned {len(outs)} results for {len(items)} rows"
                )
            return {}

        first = items[0][0] or b""
        key = None
        if execution.recorded:
            key = _folder([execution.row_key(item) for item in items])
        outcome = await execution.attempts(first, once, key, rows=waiting, calls=calls)
        if outcome.kind != "row":
            if len(items) == 1:
                return [outcome]
            middle = len(items) // 2
            halves = items[:middle], items[middle:]
            return [o for half in halves for o in await self._halved(half, waiting, calls)]
        return [self._one(out, item) for out, item in zip(outs, items, strict=True)]

    def _one(self, out: Any, item: Item) -> Outcome:
        if isinstance(out, Reject):
            return rejected(out)
        try:
            return Outcome("row", self.execution.added(out, item[2], item[2]))
        except StageError as error:
            return Outcome("dead", {}, error=error)


def _folder(keys: Sequence[bytes]) -> bytes:
    """Return the key of the work folder of a batch, or of a part of one."""
    return digest("batch", *keys)


def _finished(keys: Sequence[bytes], outcomes: Sequence[Outcome]) -> Iterator[bytes]:
    """Yield the work folders of a batch and its parts that nobody will ask for: no row died."""
    if not any(outcome.kind == "dead" for outcome in outcomes):
        yield _folder(keys)
    if len(keys) > 1:
        middle = len(keys) // 2
        yield from _finished(keys[:middle], outcomes[:middle])
        yield from _finished(keys[middle:], outcomes[middle:])


class Signals:
    """An inlet that lets signals overtake: the inbox behind needs them to order its rows."""

    def __init__(self, inbox: Inbox, passing: list[Item]) -> None:
        self._inbox, self._passing = inbox, passing

    def try_put(self, item: Item) -> bool:
        if not self._inbox.try_put(item):
            return False
        self._note(item)
        return True

    async def put(self, item: Item) -> None:
        await self._inbox.put(item)
        self._note(item)

    def push(self, item: Item) -> None:
        self._inbox.push(item)
        self._note(item)

    def _note(self, item: Item) -> None:
        if item[0] is None or item[2] is None:
            self._passing.append(item)

    def close(self) -> None:
        self._inbox.close()
