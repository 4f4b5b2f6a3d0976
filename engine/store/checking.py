"""Looking for damage in a store, and saving what has none: `engine store check`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from engine.errors import StoreError, short_path
from engine.store.blobs import BlobFolder, blob_digest, sync_folder
from engine.store.codec import load_json, references
from engine.store.files import (
    DATABASE,
    Lock,
    check_present,
    open_damaged,
    open_for_reading,
    open_for_writing,
)
from engine.store.records import BODY, COSTS, INSERT, LARGE, record_digest
from engine.text import TextError
from engine.text.loading import references as text_references

__all__ = ["Damage", "Report", "check", "repair"]

_ROWIDS = 1 << 62
_NAMES = {"memo": "result", "calls": "reply to call", "texts": "text", "rows": "row of run"}
_RECORDS = ("runs", "memo", "calls", "refusals", "rows")
_Values = list[Any]


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that cannot be used any more, and what its loss costs."""

    what: str
    costs: str


@dataclass(slots=True)
class Report:
    """What a check found: how many records of each kind are sound, and what is damaged."""

    records: Counter[str] = field(default_factory=Counter)
    blobs: int = 0
    damages: list[Damage] = field(default_factory=list)
    aside: Path | None = None
    """Where a repair put the database that was there."""


def check(folder: Path) -> Report:
    """Read all of a store and tell what is damaged. Somebody may be writing it.

    Raises StoreError where there is no store, or none that can be read at all.
    """
    check_present(folder / DATABASE)
    check = _Check(BlobFolder(folder / "blobs"))
    with ExitStack() as stack:
        try:
            connection = open_for_reading(folder / DATABASE)
        except StoreError as error:
            if not isinstance(error.__cause__, apsw.CorruptError):
                raise
            check.damaged("the database", str(error.__cause__), "what cannot be read of it")
            connection = open_damaged(folder / DATABASE)
        stack.callback(connection.close)
        connection.execute("BEGIN")  # one view of it
        check.integrity(connection)
        for _ in check.records(connection):
            pass
        for key in check.incomplete(connection):
            check.damaged(f"the sequence {key[1].hex()}", "it lacks entries", COSTS["memo"])
    return check.report


def repair(folder: Path) -> Report:
    """Put all that is sound into a new database, and the old one aside; return what is not.

    Raises StoreError where another process owns the store, and where there is nothing to save.
    """
    with ExitStack() as stack:
        stack.callback(Lock(folder).release)
        _take_back(folder)
        old, new = folder / DATABASE, folder / f"{DATABASE}.new"
        check_present(old)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{new}{suffix}").unlink(missing_ok=True)
        check = _Check(BlobFolder(folder / "blobs"))
        source = open_damaged(old)
        target = open_for_writing(new)
        try:
            check.integrity(source)
            with target:
                for table, values in check.records(source):
                    insert = INSERT.get(table, f"INSERT INTO {table} VALUES ({','.join('?' * 9)})")
                    target.execute(insert, values)
                for entry in check.incomplete(target):
                    target.execute(
                        "DELETE FROM memo WHERE generation=? AND key=? AND ordinal=-1", entry
                    )
                _keep_generation(target)
        finally:
            target.close()
            source.close()
        if not check.report.records:
            new.unlink()
            raise StoreError(f"nothing can be read in {short_path(str(old))}: move it away")
        check.report.aside = _put_aside(folder)
    return check.report


class _Check:
    """One pass over a database. A record is sound if what it refers to is there and sound."""

    def __init__(self, blobs: BlobFolder) -> None:
        self.report, self._blobs = Report(), blobs
        self._texts = set[bytes]()  # the sound ones
        self._checked = dict[str, bool]()  # blobs

    def damaged(self, what: str, how: str, costs: str) -> None:
        """Report something damaged."""
        self.report.damages.append(Damage(f"{what}: {how}", costs))

    def integrity(self, connection: apsw.Connection) -> None:
        """Ask SQLite whether pages and indexes are well."""
        try:
            found = [row for (row,) in connection.execute("PRAGMA integrity_check(10)")]
        except apsw.Error as error:
            found = [str(error)]
        for line in found if found != ["ok"] else ():
            self.damaged("the database", line.replace("\n", " "), "what cannot be found in it")

    def records(self, connection: apsw.Connection) -> Iterator[tuple[str, _Values]]:
        """Yield the sound records: (table, values)."""
        for values in self._sound_texts(connection):
            self.report.records["texts"] += 1
            yield "texts", values
        for table in _RECORDS:
            for values in self._scan(connection, table):
                if wrong := self._wrong(table, values):
                    key = values[1] if table in ("memo", "calls") else values[0]
                    name = key.hex() if isinstance(key, bytes) else str(key)
                    self.damaged(f"the {_NAMES.get(table, table)} {name}", wrong, COSTS[table])
                else:
                    self.report.records[table] += 1
                    yield table, values

    def incomplete(self, connection: apsw.Connection) -> list[tuple[int, bytes]]:
        """Return (generation, key) of the sequences whose entries are not all there."""
        found = []
        query = "SELECT generation, key, note, count FROM memo WHERE kind='end' AND count>0"
        try:
            for generation, key, note, count in connection.execute(query):
                told = load_json(note) if isinstance(note, bytes) else {}
                entries = bytes.fromhex(told["entries"]) if "entries" in told else key
                held = connection.execute(
                    "SELECT count(*) FROM memo"
                    " WHERE generation=? AND key=? AND ordinal>=0 AND ordinal<?",
                    (generation, entries, count),
                ).get
                if held < count:
                    found.append((generation, key))
        except (apsw.Error, StoreError, ValueError, TypeError):  # told already
            pass
        return found

    def _sound_texts(self, connection: apsw.Connection) -> Iterator[_Values]:
        """Yield texts that are what they were; note which have all that they are made of, too."""
        waiting = dict[bytes, list[bytes]]()
        for values in self._scan(connection, "texts"):
            did, record = values
            try:
                needed = text_references(did, self._whole(record))
            except (TextError, StoreError, TypeError, AttributeError) as error:
                self.damaged("a text", str(error), COSTS["texts"])
                continue
            yield values
            if self._texts.issuperset(needed):
                self._texts.add(did)
            else:  # inputs come before users, unless one was lost and stored again
                waiting[did] = needed
        while ready := [did for did, needed in waiting.items() if self._texts.issuperset(needed)]:
            self._texts.update(ready)
            for did in ready:
                del waiting[did]

    def _wrong(self, table: str, values: _Values) -> str:
        """Return what is wrong with a record, or nothing."""
        *held, digest = values[:6] if table == "runs" else values
        try:
            if record_digest(table, held) != digest:
                return "its digest differs"
            whole = {i: self._whole(held[i]) for i in LARGE.get(table, ()) if held[i] is not None}
        except StoreError as error:
            return str(error)
        texts, artifacts = references(whole[BODY[table]]) if table in BODY else ([], [])
        if lost := [text for text in texts if text not in self._texts]:
            return f"it holds the text {lost[0].hex()}, which is damaged or missing"
        if gone := [name for name in artifacts if not self._blob(name)]:
            return f"it refers to the blob {gone[0]}, which is damaged or missing"
        return ""

    def _whole(self, value: bytes | str) -> bytes:
        if isinstance(value, bytes):
            return value
        data = self._blobs.read(value)
        self.report.blobs += value not in self._checked
        self._checked[value] = True
        return data

    def _blob(self, name: str) -> bool:
        if name not in self._checked:
            path = self._blobs.place(name)
            self._checked[name] = path.exists() and blob_digest(path)[0] == name
            self.report.blobs += self._checked[name]
        return self._checked[name]

    def _scan(self, connection: apsw.Connection, table: str) -> Iterator[_Values]:
        def unreadable(error: str) -> None:
            self.damaged(f"a part of the table {table}", error, f"for each record: {COSTS[table]}")

        return scan(connection, table, unreadable)


def scan(
    connection: apsw.Connection, table: str, unreadable: Callable[[str], None]
) -> Iterator[_Values]:
    """Yield the records of a table, stepping over what cannot be read."""
    last = -1
    while True:
        query = f"SELECT rowid, * FROM {table} WHERE rowid > ? ORDER BY rowid"
        try:
            for rowid, *values in connection.execute(query, (last,)):
                last = rowid
                yield values
            return
        except apsw.Error as error:
            unreadable(str(error))
        beyond = _readable_after(connection, query, last)
        if beyond is None:
            return
        last = beyond


def _readable_after(connection: apsw.Connection, query: str, last: int) -> int | None:
    """Return the least row number after which reading goes on, or None if there is no such."""

    def reads(after: int) -> bool:
        try:
            connection.execute(f"{query} LIMIT 1", (after,)).fetchone()
        except apsw.Error:
            return False
        return True

    step = 1
    while not reads(last + step):
        step *= 2
        if step > _ROWIDS:
            return None
    bad, good = last + step // 2, last + step
    while good - bad > 1:
        middle = (bad + good) // 2
        bad, good = (bad, middle) if reads(middle) else (middle, good)
    return good


def _keep_generation(connection: apsw.Connection) -> None:
    """Stand in for the newest run if its record is lost, lest an older generation be resumed."""
    newest = connection.execute("SELECT coalesce(max(generation), 0) FROM runs").get
    query = "SELECT max(g) FROM (SELECT generation g FROM memo UNION SELECT generation FROM calls)"
    used = connection.execute(query).get
    if used is None or used <= newest:
        return
    query = "SELECT max(n) FROM (SELECT 0 n UNION SELECT id FROM runs UNION SELECT run FROM rows)"
    number = 1 + connection.execute(query).get
    values = (number, used, 0.0, "", b"{}")
    lost = (*values, record_digest("runs", values), "lost", None, b"{}")
    connection.execute("INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?)", lost)


def _put_aside(folder: Path) -> Path:
    """Put the new database in the place of the old one, whose WAL goes with it."""
    names = (folder / f"{DATABASE}.damaged-{number}" for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    for suffix in ("", "-wal"):  # until the new one has its name, opening is refused
        path = folder / f"{DATABASE}{suffix}"
        if path.exists():
            path.rename(f"{aside}{suffix}")
    (folder / f"{DATABASE}-shm").unlink(missing_ok=True)
    sync_folder(folder)
    (folder / f"{DATABASE}.new").rename(folder / DATABASE)
    sync_folder(folder)
    return aside


def _take_back(folder: Path) -> None:
    """Take back what a repair that was killed had put aside."""
    found = [p for p in folder.glob(f"{DATABASE}.damaged-*") if not p.name.endswith("-wal")]
    if (folder / DATABASE).exists() or not (folder / f"{DATABASE}.new").exists() or not found:
        return
    aside = max(found, key=lambda path: path.stat().st_ctime_ns)
    for suffix in ("-wal", ""):
        if Path(f"{aside}{suffix}").exists():
            Path(f"{aside}{suffix}").rename(folder / f"{DATABASE}{suffix}")
