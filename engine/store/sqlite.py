"""The store on SQLite, through apsw: WAL, synchronous=FULL, one writer, group commit.

Writes are queued on the event loop and committed by a worker thread, 20 ms' worth at a time; reads
use a connection of their own. One process owns a store (flock); readers may look at any time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
import apsw
import orjson

from engine.errors import StoreError, short_path
from engine.store.blobs import BlobFolder
from engine.store.codec import decode, encode
from engine.store.protocol import Fate, Memo, RowRecord, RunRecord
from engine.text import Text, TextError, from_records, to_records

__all__ = ["SqliteStore", "find_runs"]

VERSION = 1
GROUP_SECONDS = 0.02
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY) WITHOUT ROWID;
CREATE TABLE runs (id INTEGER PRIMARY KEY, generation INT, started REAL, status TEXT, pipeline TEXT, summary BLOB);
CREATE TABLE memo (generation INT, key BLOB, ordinal INT, kind TEXT, body BLOB, note BLOB, count INT, row BLOB,
    own_key TEXT, PRIMARY KEY (generation, key, ordinal)) WITHOUT ROWID;
CREATE TABLE calls (generation INT, key BLOB, sample INT, reply BLOB,
    PRIMARY KEY (generation, key, sample)) WITHOUT ROWID;
CREATE TABLE refusals (generation INT, key BLOB, fingerprint BLOB, sample INT, reason TEXT,
    PRIMARY KEY (generation, key, fingerprint, sample)) WITHOUT ROWID;
CREATE TABLE texts (did BLOB PRIMARY KEY, record BLOB) WITHOUT ROWID;
CREATE TABLE rows (run INT, fate TEXT, stage TEXT, row BLOB, place BLOB, body BLOB, note BLOB,
    PRIMARY KEY (run, fate, stage, row)) WITHOUT ROWID;
CREATE TABLE spool (place TEXT, row BLOB, body BLOB, PRIMARY KEY (place, row)) WITHOUT ROWID;
"""
_TEXT = "INSERT OR IGNORE INTO texts VALUES (?,?)"
_REMEMBERED = (
    1 << 16
)  # dids of texts known to be stored, so that shared ancestry is not walked again


class _Calls:
    """The call records of one generation."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._refused: dict[tuple[bytes, bytes], set[int]] = {}

    def replay(self, key: bytes, sample: int) -> bytes | None:
        found = self._store.read(
            "SELECT reply FROM calls WHERE generation=? AND key=? AND sample=?",
            (self._store.generation, key, sample),
        )
        return found[0] if found else None

    async def record(self, key: bytes, sample: int, reply: bytes) -> None:
        self._store.write(
            "INSERT OR IGNORE INTO calls VALUES (?,?,?,?)",
            (self._store.generation, key, sample, reply),
        )
        await self._store.flush()

    def refusals(self, key: bytes, fingerprint: bytes) -> Collection[int]:
        known = self._refused.get((key, fingerprint))
        if known is None:
            rows = self._store.read_all(
                "SELECT sample FROM refusals WHERE generation=? AND key=? AND fingerprint=?",
                (self._store.generation, key, fingerprint),
            )
            known = {sample for (sample,) in rows}
            if known:
                self._refused[key, fingerprint] = known
        return known

    def refuse(self, key: bytes, sample: int, fingerprint: bytes, reason: str) -> None:
        # Kept in memory too: the next attempt asks before the group is committed.
        self._refused.setdefault((key, fingerprint), set()).add(sample)
        self._store.write(
            "INSERT OR IGNORE INTO refusals VALUES (?,?,?,?,?)",
            (self._store.generation, key, fingerprint, sample, _utf8(reason)),
        )


class SqliteStore:
    """A pipeline's store in a folder (`.engine/<name>/`), or in memory when `folder` is None."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.run = 0
        self.generation = 0
        self.calls = _Calls(self)
        self._queue: list[tuple[str, tuple[Any, ...]]] = []
        self._backlog = 0
        self._committed = self._committing = anyio.Event()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._cache: OrderedDict[bytes, Text] = OrderedDict()
        self._lock: int | None = None
        self._failed: Exception | None = None

    # --- opening and closing ----------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the store, exclusively. Raises StoreError when another process owns it."""
        self._temporary = None if self.folder else tempfile.TemporaryDirectory(prefix="engine-")
        root = self.folder or Path(self._temporary.name)  # type: ignore[union-attr]
        self.root = root
        self.blobs = BlobFolder(root / "blobs")
        if self.folder is not None:
            try:
                root.mkdir(parents=True, exist_ok=True)
                self._own(root / "lock")
            except OSError as error:
                raise StoreError(
                    f"the store {short_path(str(root))} cannot be opened: {error}"
                ) from error
        try:
            self._open(":memory:" if self.folder is None else str(root / "store.sqlite"))
        except BaseException:
            self._release()
            raise
        self._thread = anyio.CapacityLimiter(1)
        self._wake = anyio.Event()
        # Shielded: whatever is cancelled around the store, what is queued is committed until close.
        self._writing = anyio.CancelScope(shield=True)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._write_groups)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit what is queued, and close."""
        self._tasks.cancel_scope.shield = True
        self._writing.cancel()
        await self._tasks.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            try:
                if self._queue and self._failed is None:
                    await self._commit_queue()
            finally:
                self._reader.close()
                if self._writer is not self._reader:
                    self._writer.close()
                self._release()

    def _own(self, path: Path) -> None:
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            self._lock = None
            raise StoreError(
                f"the store {short_path(str(path.parent))} is in use by process {owner}: "
                "wait for it, or stop it"
            ) from None
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)  # closing drops the flock
            self._lock = None
        if self._temporary is not None:
            self._temporary.cleanup()

    def _open(self, path: str) -> None:
        try:
            self._writer = apsw.Connection(path)
            self._writer.set_busy_timeout(5000)
            if path != ":memory:":
                self._writer.execute(
                    "PRAGMA page_size=8192; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL"
                )
            if self._writer.execute("SELECT count(*) FROM sqlite_master").get == 0:
                with self._writer:
                    self._writer.execute(_SCHEMA)
                    self._writer.execute("INSERT INTO meta VALUES ('version', ?)", (VERSION,))
            _check_version(self._writer, path)
            with self._writer:
                self._writer.execute("DELETE FROM spool")
            self._reader = self._writer if path == ":memory:" else _read_only(path)
        except apsw.Error as error:
            raise StoreError(f"the store {short_path(path)} cannot be opened: {error}") from error

    # --- queued writes ----------------------------------------------------------------------

    def write(self, sql: str, values: tuple[Any, ...]) -> None:
        """Queue one statement; the group commit does the rest."""
        if self._failed is not None:
            raise StoreError(
                f"the store failed and takes no more: {self._failed}"
            ) from self._failed
        self._queue.append((sql, values))
        self._backlog += sum(len(v) for v in values if isinstance(v, (bytes, str))) + 64
        self._wake.set()

    @property
    def backlog(self) -> int:
        """Bytes queued and not yet committed."""
        return self._backlog

    async def flush(self) -> None:
        """Return once everything queued so far is durable. Raises StoreError if it cannot be."""
        if self._failed is None and self._queue:
            await self._committed.wait()
        elif self._backlog:
            await self._committing.wait()
        if self._failed is not None:
            raise StoreError(f"the store failed: {self._failed}") from self._failed

    async def _write_groups(self) -> None:
        with self._writing:
            while True:
                await self._wake.wait()
                await anyio.sleep(GROUP_SECONDS)
                await self._commit_queue()

    async def _commit_queue(self) -> None:
        self._wake = anyio.Event()
        group, self._queue = self._queue, []
        size, self._committing = self._backlog, self._committed
        self._committed = anyio.Event()
        try:
            if self._writer is self._reader:  # in memory: one connection, which one thread may use
                self._commit(group)
            else:
                await anyio.to_thread.run_sync(self._commit, group, limiter=self._thread)
        except apsw.Error as error:  # never retried: what a failed fsync left behind is unknown
            self._failed = error
            self._committed.set()
        finally:
            self._backlog -= size
            self._committing.set()

    def _commit(self, group: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        with self._writer:
            execute = self._writer.execute
            for sql, values in group:
                execute(sql, values)

    # --- reads ------------------------------------------------------------------------------

    def read(self, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """Return the first row of a query."""
        return self._reader.execute(sql, values).fetchone()

    def read_all(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query."""
        return iter(self._reader.execute(sql, values))

    # --- values and texts -------------------------------------------------------------------

    def _encode(self, fields: Mapping[str, Any]) -> bytes:
        texts: list[Text] = []
        body = encode(fields, texts)
        for text in texts:
            for did, record in to_records(text, self._known.__contains__):
                self.write(_TEXT, (did, record))
                self._known[did] = None
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return body

    def text(self, did: bytes) -> Text:
        """Return a stored text with its graph. Raises StoreError if it is missing or was changed."""
        known = self._cache.get(did)
        if known is not None:
            self._cache.move_to_end(did)
            return known
        try:
            text = from_records(did, self._record, self._cache)
        except TextError as error:
            raise StoreError(f"a text is damaged: {error}; see `engine store check`") from error
        while len(self._cache) > 4096:
            self._cache.popitem(last=False)
        return text

    def _record(self, did: bytes) -> bytes:
        found = self.read("SELECT record FROM texts WHERE did=?", (did,))
        if found is None:
            raise StoreError(f"the text {did.hex()} is missing from the store")
        return found[0]  # type: ignore[no-any-return]

    # --- memo -------------------------------------------------------------------------------

    def memo(self, key: bytes, ordinal: int = -1) -> Memo | None:
        """Return a recorded result of this generation, or one entry of a sequence."""
        found = self.read(
            "SELECT kind, body, note, count, row, own_key FROM memo WHERE generation=? AND key=? AND ordinal=?",
            (self.generation, key, ordinal),
        )
        if found is None:
            return None
        kind, body, note, count, row, own_key = found
        return Memo(kind, decode(body, self.text), orjson.loads(note), count, row, own_key)

    def put_memo(self, key: bytes, memo: Memo, ordinal: int = -1) -> None:
        """Queue a result."""
        self.write(
            "INSERT OR REPLACE INTO memo VALUES (?,?,?,?,?,?,?,?,?)",
            (
                self.generation,
                key,
                ordinal,
                memo.kind,
                self._encode(memo.fields),
                _json(memo.note),
                memo.count,
                memo.row,
                memo.key,
            ),
        )

    # --- runs and their rows ----------------------------------------------------------------

    def begin(self, *, pipeline: str, fresh: bool) -> None:
        """Begin a run, in a new generation if `fresh`, else in the newest."""
        found = self._writer.execute(
            "SELECT coalesce(max(id), 0), coalesce(max(generation), 0) FROM runs"
        )
        last, generation = found.fetchone()
        self.run = last + 1
        self.generation = max(1, generation + bool(fresh))
        with self._writer:
            self._writer.execute(
                "INSERT INTO runs VALUES (?,?,?,?,?,?)",
                (self.run, self.generation, time.time(), "running", _utf8(pipeline), b"{}"),
            )

    async def end(self, status: str, summary: Mapping[str, Any]) -> None:
        """Write how the run ended."""
        self.write(
            "UPDATE runs SET status=?, summary=? WHERE id=?", (status, _json(summary), self.run)
        )
        self.write("DELETE FROM spool", ())
        await self.flush()

    def put_row(self, record: RowRecord) -> None:
        """Queue a line of the run's manifest."""
        self.write(
            "INSERT OR REPLACE INTO rows VALUES (?,?,?,?,?,?,?)",
            (
                self.run,
                record.fate,
                record.stage,
                record.row_id,
                _order_bytes(record.order),
                self._encode(record.fields),
                _json(record.note),
            ),
        )

    def rows(self, *, fate: Fate | None = None, run: int | None = None) -> Iterator[RowRecord]:
        """Yield the manifest of a run in order."""
        where = "run=?" + (" AND fate=?" if fate else "")
        values = (run or self.run, fate) if fate else (run or self.run,)
        query = f"SELECT stage, row, place, fate, body, note FROM rows WHERE {where} ORDER BY place, stage"
        for stage, row, place, found, body, note in self.read_all(query, values):
            fields = decode(body, self.text)
            yield RowRecord(stage, row, _order_of(place), found, fields, orjson.loads(note))

    def spool(self, place: str, row_id: bytes, fields: Mapping[str, Any]) -> None:
        """Queue a row that waits for its turn, so that it need not wait in memory."""
        self.write(
            "INSERT OR REPLACE INTO spool VALUES (?,?,?)", (place, row_id, self._encode(fields))
        )

    async def unspool(self, place: str, row_ids: Sequence[bytes]) -> list[dict[str, Any]]:
        """Return rows that were spooled, in the order asked for."""
        await self.flush()
        found = []
        for row_id in row_ids:
            body = self.read("SELECT body FROM spool WHERE place=? AND row=?", (place, row_id))
            if body is None:
                raise StoreError(f"the spooled row {row_id.hex()} is missing")
            found.append(decode(body[0], self.text))
        return found

    def runs(self) -> list[RunRecord]:
        """Return the runs of this store, oldest first."""
        query = "SELECT id, generation, started, status, summary FROM runs ORDER BY id"
        return [
            RunRecord(i, g, t, s, orjson.loads(body)) for i, g, t, s, body in self.read_all(query)
        ]

    def workdir(self, key: bytes) -> Path:
        """Return (and make) the work folder of a memo key."""
        path = self.root / "work" / key.hex()
        path.mkdir(parents=True, exist_ok=True)
        return path

    def drop_workdir(self, key: bytes) -> None:
        """Remove the work folder of a memo key, if there is one."""
        shutil.rmtree(self.root / "work" / key.hex(), ignore_errors=True)


class ReadOnlyStore(SqliteStore):
    """A store that somebody else may be writing: `engine trace` looks through this."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        path = folder / "store.sqlite"
        if not path.is_file():
            raise StoreError(
                f"there is no store at {short_path(str(folder))}: run the pipeline first"
            )
        self.root, self._temporary = folder, None
        try:
            self._reader = _read_only(str(path))
            _check_version(self._reader, str(path))
        except apsw.Error as error:
            raise StoreError(
                f"the store {short_path(str(path))} cannot be read: {error}"
            ) from error

    def close(self) -> None:
        """Close it."""
        self._reader.close()


def find_runs(folder: Path) -> ReadOnlyStore:
    """Open a pipeline's store for reading. Raises StoreError when there is none, or it is damaged."""
    return ReadOnlyStore(folder)


def _read_only(path: str) -> apsw.Connection:
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(5000)
    connection.execute("PRAGMA query_only=1")
    return connection


def _check_version(connection: apsw.Connection, path: str) -> None:
    try:
        version = connection.execute("SELECT value FROM meta WHERE name='version'").get
    except apsw.SQLError as error:
        raise StoreError(f"{short_path(path)} is not a store of the engine: {error}") from error
    if version != VERSION:
        raise StoreError(
            f"the store {short_path(path)} has version {version}, and this engine reads {VERSION}: "
            "use the engine that wrote it, or move the folder away"
        )


def _order_bytes(order: tuple[int, ...]) -> bytes:
    """Return an order key as bytes that sort as the tuple does."""
    return b"".join(part.to_bytes(6, "big") for part in order)


def _order_of(data: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(data[i : i + 6], "big") for i in range(0, len(data), 6))


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _json(value: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # lone surrogates of a hostile model
        return orjson.dumps({n: _utf8(v) if isinstance(v, str) else v for n, v in value.items()})
