"""The store on SQLite, through apsw: WAL, synchronous=FULL, one writer, group commit."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import anyio

from engine.errors import StoreError
from engine.store.blobs import BlobFolder
from engine.store.calls import Calls
from engine.store.codec import decode, dump_json, encode
from engine.store.commits import Commits
from engine.store.files import (
    DATABASE,
    Lock,
    check_present,
    close,
    open_for_reading,
    open_for_writing,
)
from engine.store.protocol import Memo, RowRecord
from engine.store.reading import Reader, order_bytes
from engine.store.records import INLINE_BYTES, INSERT, LARGE, record_digest
from engine.store.rescue import RESERVE_BYTES, Rescue
from engine.text import Text, to_records

__all__ = ["ReadOnlyStore", "SqliteStore", "find_runs"]

KNOWN_TEXTS = 1 << 16
"""Dids of texts that are stored, remembered so that shared ancestry is not walked again."""


class SqliteStore(Reader):
    """A pipeline's store in a folder (`.engine/<name>/`), or in memory when `folder` is None.

    Reads see what has been committed. The one in memory commits on the event loop: no threads.
    """

    def __init__(self, folder: Path | None, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        super().__init__(folder)
        self.trouble: StoreError | None = None
        self.on_trouble: Callable[[StoreError], None] | None = None
        self._reserve_bytes = reserve_bytes
        self.calls = Calls(self)
        self._known: OrderedDict[bytes, None] = OrderedDict()

    # --- opening and closing ----------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the store, exclusively. Raises StoreError when another process owns it."""
        async with AsyncExitStack() as stack:
            if self.folder is None:
                self.root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="engine-")))
                self._connection = writer = open_for_writing(None)
                stack.callback(close, writer)
            else:
                self.root = self.folder
                stack.callback(Lock(self.root).release)
                writer = open_for_writing(self.root / DATABASE)
                stack.callback(close, writer)
                self._connection = open_for_reading(self.root / DATABASE)
                stack.callback(close, self._connection)
            self.blobs = BlobFolder(self.root / "blobs")
            self._work = self.root / "work"
            self._has_work = self._work.exists()
            rescue = Rescue(self.root, self._reserve_bytes) if self.folder is not None else None
            self._commits = Commits(
                writer, self._sealed, self._tell, rescue, threaded=rescue is not None
            )
            if rescue is not None:
                self._take_rescued(rescue)
                rescue.reserve()
                stack.callback(rescue.free)
                for left in self.blobs.temporary():
                    shutil.rmtree(left, ignore_errors=True)
            stack.push_async_callback(self._commits.close)
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            self._tasks.start_soon(self._commits.run)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit what is queued, and close. Raises StoreError if it cannot be committed."""
        self._tasks.cancel_scope.shield = True  # whatever happens around: a commit ends first
        self._commits.stop()
        await self._stack.aclose()

    def _take_rescued(self, rescue: Rescue) -> None:
        try:
            calls, whole = rescue.load()
            self._commits.now(INSERT["calls"], [self._sealed("calls", call) for call in calls])
            rescue.done(whole=whole)
        except OSError as error:
            raise StoreError(f"the rescued replies cannot be read: {error}") from error

    def _tell(self, trouble: StoreError) -> None:
        self.trouble = trouble
        if self.on_trouble is not None:
            self.on_trouble(trouble)

    # --- writing ----------------------------------------------------------------------------

    def write(self, sql: str, values: tuple[Any, ...]) -> None:
        """Queue one statement."""
        self._commits.write(sql, values)

    def put(self, table: str, values: tuple[Any, ...]) -> None:
        """Queue a record, to be stored with its digest."""
        self._commits.write(INSERT[table], values, table)

    def _sealed(self, table: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a record as it is stored: large values as blobs, its digest last."""
        if self.folder is not None:
            for i in LARGE[table]:
                if values[i] is not None and len(values[i]) > INLINE_BYTES:
                    values = (*values[:i], self.blobs.put(values[i]), *values[i + 1 :])
        return values if table == "texts" else (*values, record_digest(table, values))

    @property
    def backlog(self) -> int:
        """Bytes queued and not yet committed."""
        return self._commits.backlog

    async def flush(self, *, replies: bool = False) -> None:
        """Return once everything queued so far is durable. Raises StoreError if it cannot be.

        With `replies`, it suffices that the call records are, be it in the rescue file.
        """
        await self._commits.flush(replies=replies)

    def _encode(self, fields: Mapping[str, Any]) -> bytes:
        texts: list[Text] = []
        body = encode(fields, texts)
        for text in texts:
            for did, record in to_records(text, self._is_stored):
                self.put("texts", (did, record))
                self._known[did] = None
        while len(self._known) > KNOWN_TEXTS:
            self._known.popitem(last=False)
        return body

    def _is_stored(self, did: bytes) -> bool:
        return did in self._known or did in self._texts

    # --- runs and their rows ----------------------------------------------------------------

    def begin(
        self, *, pipeline: str, fresh: bool, stages: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Begin a run, in a new generation if `fresh`, else in the newest; durable on return."""
        last = self._newest()
        self.run = (last.id if last else 0) + 1
        self.generation = last.generation + bool(fresh) if last else 1
        values = (self.run, self.generation, time.time(), pipeline, dump_json(dict(stages)))
        begun = (*values, record_digest("runs", values), "running", None, b"{}")
        self._commits.now("INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?)", [begun])

    def note(self, summary: Mapping[str, Any]) -> None:
        """Queue what is to be known of the run if it is killed."""
        self.write("UPDATE runs SET summary=? WHERE id=?", (dump_json(summary), self.run))

    async def end(self, status: str, summary: Mapping[str, Any]) -> None:
        """Write how the run ended."""
        values = (status, time.time(), dump_json(summary), self.run)
        self.write("UPDATE runs SET status=?, ended=?, summary=? WHERE id=?", values)
        self.write("DELETE FROM spool", ())
        await self.flush()

    def put_row(self, record: RowRecord) -> None:
        """Queue a line of the run's manifest."""
        place, body = order_bytes(record.order), self._encode(record.fields)
        note = dump_json(record.note)
        self.put("rows", (self.run, record.fate, record.stage, record.row_id, place, body, note))

    def spool(self, place: str, row_id: bytes, fields: Mapping[str, Any]) -> None:
        """Queue a row that waits for its turn, so that it need not wait in memory."""
        self.put("spool", (place, row_id, self._encode(fields)))

    async def unspool(self, place: str, row_ids: Sequence[bytes]) -> list[dict[str, Any]]:
        """Return rows that were spooled, in the order asked for."""
        found = []
        for row_id in row_ids:
            body = self._spooled(place, row_id)
            if body is None:  # it may be queued still
                await self.flush()
                body = self._spooled(place, row_id)
            if body is None:
                raise StoreError(f"the row {row_id.hex()}, which waited for {place}, is missing")
            found.append(decode(body, self.text))
        return found

    def _spooled(self, place: str, row_id: bytes) -> bytes | None:
        found = self.read("SELECT * FROM spool WHERE place=? AND row=?", (place, row_id))
        if found is None:
            return None
        what = f"the row {row_id.hex()}, which waited for {place},"
        return self._whole(self._checked("spool", what, found)[2])

    # --- memo -------------------------------------------------------------------------------

    def put_memo(self, key: bytes, memo: Memo, ordinal: int = -1) -> None:
        """Queue a result."""
        own_key = None if memo.key is None else memo.key.encode("utf-8", "surrogatepass")
        body, note = self._encode(memo.fields), dump_json(memo.note)
        self.put(
            "memo",
            (self.generation, key, ordinal, memo.kind, body, note, memo.count, memo.row, own_key),
        )

    def forget_dead(self, keys: Iterable[bytes]) -> int:
        """Forget that these memo keys died, so that a run tries them again; durable on return."""
        dead = []
        for key in keys:
            memo = self.memo(key)
            if memo and (memo.kind == "dead" or memo.note.get("kind") == "dead"):
                dead.append((self.generation, key))
        self._commits.now("DELETE FROM memo WHERE generation=? AND key=? AND ordinal=-1", dead)
        return len(dead)

    # --- work folders -----------------------------------------------------------------------

    def workdir(self, key: bytes) -> Path:
        """Return (and make) the work folder of a memo key."""
        path = self._work / key.hex()
        path.mkdir(parents=True, exist_ok=True)
        self._has_work = True
        return path

    def drop_workdir(self, key: bytes) -> None:
        """Remove the work folder of a memo key once all that is queued so far is durable."""
        if self._has_work:
            path = self._work / key.hex()
            self._commits.after(lambda: shutil.rmtree(path, ignore_errors=True))


class ReadOnlyStore(Reader):
    """A store that somebody else may be writing; memo and calls are of its newest generation."""

    def __init__(self, folder: Path, *, generation: int | None = None) -> None:
        super().__init__(folder)
        self.blobs = BlobFolder(folder / "blobs")
        path = folder / DATABASE
        check_present(path)
        self._connection = open_for_reading(path)
        if generation is None:
            last = self._newest()
            generation = last.generation if last else 0
        self.generation = generation

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def find_runs(folder: Path) -> ReadOnlyStore:
    """Open a pipeline's store for reading. Raises StoreError where there is no good one."""
    return ReadOnlyStore(folder)
