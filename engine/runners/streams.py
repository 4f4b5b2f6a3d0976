"""Streams, joins and sinks: one task each; rows that wait long wait in the store."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio
import anyio.lowlevel

from engine.arguments import row_maker
from engine.channels import Inbox, Item, Target
from engine.errors import ResourceError, StageError, StoreError, unwrap
from engine.execution import TELLING, Execution, Outcome
from engine.keys import digest
from engine.rows import Added, Reject, Row
from engine.runners.base import Control, Runner, incomplete
from engine.stages import row_fields
from engine.store.blobs import DISK_ERRORS
from engine.store.protocol import Memo, Store

__all__ = ["Stream"]


class Stream(Runner):
    """A stream: one task; its rows come in order, from the store where they wait long."""

    def __init__(self, control: Control, execution: Execution, tasks: Any) -> None:
        super().__init__(control, execution, tasks)
        spec = self.wired.spec
        self._join = len(spec.row_parameters) == 2
        self._inboxes: dict[str, Inbox] = {}
        self._makers = {}
        for parameter, cls in spec.row_parameters.items():
            name = parameter if self._join else ""
            self._makers[name] = row_maker(self.wired, cls)
            reads = self._reads_of(cls) if execution.recorded else None
            self._inboxes[name] = Inbox(f"{self.key}/{name}", self.store, reads=reads)
        self._open: dict[bytes, Item] = {}  # rows handed out, whose fate the stream has not told
        self._gone: set[bytes] = set()  # rows that it rejected

    def _reads_of(self, cls: type[Row]) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        if cls is Row:
            return lambda fields: fields
        names = {r.name: self.wired.taken(r.name) for r in row_fields(cls)}
        return lambda fields: {own: fields[n] for own, n in names.items() if n in fields}

    def inlet(self, name: str) -> Target:
        return self._inboxes[name]

    def start(self) -> None:
        self.tasks.start_soon(self._run)

    async def _run(self) -> None:
        if self.execution.recorded and self.store is not None:
            await self._recorded(self.store)
        else:
            await self._fresh(None, b"")
            if self.store is not None:
                self.store.drop_workdir(self.wired.fingerprint)
        self.done()

    async def _recorded(self, store: Store) -> None:
        """Reuse the recorded output if the input is the same; else run, and record."""
        hint = digest("stream", self.wired.fingerprint)
        for fingerprint in self.execution.fingerprints:
            if store.memo(digest("stream", fingerprint)) is None:
                continue
            for inbox in self._inboxes.values():
                await inbox.ended()
            end = store.memo(self._memo_key(fingerprint))
            if end is not None:
                await self._replay(store, bytes.fromhex(end.note["entries"]), end.count)
                return
        entries = digest("entries", hint, str(store.run))
        count = await self._fresh(store, entries)
        note = {"entries": entries.hex()}
        key = self._memo_key(self.wired.fingerprint)
        store.put_memo(key, Memo("end", note=note, count=count))
        store.put_memo(hint, Memo("end"))
        store.drop_workdir(self.wired.fingerprint)

    def _memo_key(self, fingerprint: bytes) -> bytes:
        return digest("stream", fingerprint, *(i.digest for i in self._inboxes.values()))

    async def _rows(self, name: str, ctx: Any = None) -> AsyncIterator[Row]:
        """Yield the input's rows, in order, to the stage."""
        inbox, make = self._inboxes[name], self._makers[name]
        while items := await self._taken(inbox, ctx):
            for item in items:
                if self.control.draining:
                    await anyio.sleep_forever()  # nothing is finished early: the run ends around it
                self.counters.received += 1
                if self.reports:
                    await self.control.finish(self.wired.source.stages[0], item)  # type: ignore[union-attr]
                row_id, order, fields = item
                if self.wired.spec.yields in ("rows", "added"):
                    self._open[row_id] = item  # type: ignore[index]
                yield make(fields, row_id or b"", order)
            await anyio.lowlevel.checkpoint()

    async def _taken(self, inbox: Inbox, ctx: Any) -> list[Item]:
        if ctx is None or inbox.ready or inbox.closed:
            return await inbox.take(256)
        async with self.execution.apart(ctx):
            return await inbox.take(256)

    async def _fresh(self, store: Store | None, entries: bytes) -> int:
        execution, count = self.execution, 0
        ctx = execution.context(b"", 1, execution.calls())
        if self.store is not None:
            held = self.store
            ctx.make_workdir = lambda: held.workdir(self.wired.fingerprint)
        try:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(execution.guarded(ctx))
                inputs = [
                    await stack.enter_async_context(contextlib.aclosing(self._rows(name, ctx)))  # type: ignore[type-var]
                    for name in self._inboxes
                ]
                running = execution.func(*inputs, **await execution.keywords(ctx))
                if self.wired.spec.is_sink:
                    await running
                else:
                    outputs = await stack.enter_async_context(contextlib.aclosing(running))
                    async for out in outputs:
                        memo = self._told(out, count)
                        if store is not None:
                            store.put_memo(entries, memo, count)
                        count += 1
                        await self._apply(memo, ctx)
                for rows in inputs:
                    async for _ in rows:  # a stream may stop early: the rest is consumed
                        pass
        except Exception as raised:
            error = unwrap(raised, *TELLING)
            if isinstance(error, (ResourceError, StageError, StoreError)):
                raise error from None
            if self.wired.spec.is_sink and getattr(error, "errno", None) in DISK_ERRORS:
                raise StoreError(
                    f"stage {self.key} cannot write: {error}. What was there is left as it was; "
                    "once the disk is in order, run again"
                ) from error
            raise StageError(self.key, "", f"{type(error).__name__}: {error}") from error
        finally:
            self.counters.sayings.clear()
        await self._end()
        return count

    async def _replay(self, store: Store, entries: bytes, count: int) -> None:
        """Give the recorded output again; the inputs are read for their fields and counts."""
        self.counters.reused += sum(inbox.count for inbox in self._inboxes.values())
        async with contextlib.AsyncExitStack() as stack:
            for name in self._inboxes:
                rows = await stack.enter_async_context(contextlib.aclosing(self._rows(name)))  # type: ignore[type-var]
                async for _ in rows:
                    pass
        for ordinal in range(count):
            memo = store.memo(entries, ordinal)
            if memo is None:
                raise incomplete(self.key, "", "output")
            await self._apply(memo)
        await self._end()

    def _told(self, out: Any, ordinal: int) -> Memo:
        """Turn what a stream yielded into an entry. Raises StageError if it must not."""
        yields = self.wired.spec.yields
        if isinstance(out, Reject) and out.row is not None and self._handed_out(out.row._id):
            note = {"reason": out.reason, "example": str(out.span or "")[:200], "attempts": 1}
            return Memo("gone", row=out.row._id, note=note)
        if yields == "rows" and isinstance(out, Row) and getattr(out, "_id", b"") in self._open:
            return Memo("keep", row=out._id)
        if yields == "added" and isinstance(out, Added) and out.row._id in self._open:
            fields = self._open[out.row._id][2]
            return Memo("keep", self.execution.added(out.added, fields, fields), row=out.row._id)
        if (
            yields == "fresh"
            and isinstance(out, self.wired.spec.adds or Row)
            and not getattr(out, "_id", b"")
        ):
            return Memo("row", self.execution.added(out, {}, {}), key=getattr(out, "_key", None))
        wanted = {
            "rows": "a row that it received (each once)",
            "added": "`row.add(S(...))` of a row that it received (each once)",
            "fresh": f"a new {self.wired.spec.adds.__name__ if self.wired.spec.adds else 'row'}",
            "nothing": "nothing",
        }[yields]
        raise StageError(
            self.key,
            "",
            f"it yielded {type(out).__name__} ({ordinal}), where it may yield {wanted}, "
            "or `row.reject(...)`",
        )

    def _handed_out(self, row_id: bytes) -> bool:
        """Whether this is a row of the input that has not been told of yet."""
        if self.wired.spec.yields in ("rows", "added"):
            return row_id in self._open
        return bool(row_id) and row_id not in self._gone

    async def _pass(self, ctx: Any, item: Item) -> None:
        await (self.emit(item) if ctx is None else self.emit_from(ctx, item))

    async def _apply(self, memo: Memo, ctx: Any = None) -> None:
        order = (self.counters.out,)
        if memo.kind == "gone":
            item = self._open.pop(memo.row, (memo.row, (), {}))
            self._gone.add(memo.row)
            example = memo.note.get("example", "")  # streams have not always recorded one
            self.reject(item, Outcome("reject", {}, memo.note["reason"], example))
            return
        if memo.kind == "keep":
            row_id, _, fields = self._open.pop(memo.row)
            self.counters.kept += 1
            self.counters.out += 1
            added = self.execution.renamed(memo.fields)
            await self._pass(ctx, (row_id, order, {**fields, **added}))
            return
        key = f"#{self.counters.out}" if memo.key is None else f"={memo.key}"
        self.counters.out += 1
        fields = self.execution.renamed(memo.fields)
        await self._pass(ctx, (digest("fresh", self.key, key), order, fields))

    async def _end(self) -> None:
        self.counters.consumed = (
            self.counters.received - self.counters.kept - self.counters.rejected
        )
        self._open.clear()
        await self.emit((None, (self.counters.out,), None))
