"""What takes room in a store, and what can go: `engine store du` and `engine store gc`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from engine.errors import StoreError, short_path
from engine.store.blobs import BlobFolder
from engine.store.codec import load_json, references
from engine.store.files import DATABASE, Lock, check_present, open_for_reading, open_for_writing
from engine.store.records import BODY, LARGE
from engine.text import TextError
from engine.text.loading import references as text_references

__all__ = ["Room", "collect", "usage"]

_TABLES = {
    "memo": ("generation", "body, note"),
    "calls": ("generation", "reply"),
    "refusals": ("generation", "note"),
    "rows": ("run", "body, note"),
    "texts": ("''", "record"),
}
"""Of each table: what its records belong to, and what takes their room."""
KEYS = 100
"""Bytes that a record takes, about, beside its values: keys, digest, indexes."""


@dataclass(frozen=True, slots=True)
class Room:
    """What takes room: so many things of a kind, of a generation or run, and their bytes."""

    what: str
    of: str
    count: int
    bytes: int


def usage(folder: Path) -> list[Room]:
    """Return what takes room in a store. Somebody may be writing it.

    Records are reckoned by their values; `database` is the size of the file that holds them.
    Raises StoreError where there is no store to read.
    """
    check_present(folder / DATABASE)
    connection = open_for_reading(folder / DATABASE)
    try:
        found = [*_records(connection)]
    except apsw.Error as error:
        raise _unreadable(folder, error) from error
    finally:
        connection.close()
    blobs = BlobFolder(folder / "blobs")
    sizes = [_bytes(blobs.place(name)) for name in blobs.names()]
    found.append(Room("blobs", "", len(sizes), sum(sizes)))
    for what, paths in {
        "work folders": [*(folder / "work").glob("*")],
        "temporary": blobs.temporary(),
        "database": [*folder.glob(DATABASE), *folder.glob(f"{DATABASE}-*")],
        "set aside": [*folder.glob(f"{DATABASE}.*"), *folder.glob("rescue*")],
        "reserve": [*folder.glob("reserve")],
    }.items():
        found.append(Room(what, "", len(paths), sum(map(_bytes, paths))))
    return [room for room in found if room.count]


def collect(folder: Path, *, runs: int | None = None, dry_run: bool = False) -> list[Room]:
    """Remove what nothing needs any more; return what it was.

    That is: generations older than the newest, with their runs; all but the newest `runs` runs;
    texts and blobs that nothing refers to; what killed writers left; work folders of finished
    rows. Raises StoreError where another process owns the store, or it is damaged: then nothing is
    removed.
    """
    check_present(folder / DATABASE)
    blobs = BlobFolder(folder / "blobs")
    with ExitStack() as stack:
        stack.callback(Lock(folder).release)
        connection = open_for_writing(folder / DATABASE)
        stack.callback(connection.close)
        try:
            before = [*_records(connection)]
            connection.execute("BEGIN IMMEDIATE")
            used = _drop_records(connection, blobs, runs)
            freed = _difference(before, [*_records(connection)])
            finished = _finished(connection, blobs, folder / "work")
            connection.execute("ROLLBACK" if dry_run else "COMMIT")
        except (apsw.Error, TextError) as error:
            raise _unreadable(folder, error) from error
        for what, paths in {
            "blobs": [blobs.place(name) for name in blobs.names() if name not in used],
            "work folders": finished,
            "temporary": blobs.temporary(),
        }.items():
            freed.append(Room(what, "", len(paths), sum(map(_bytes, paths))))
            for path in paths if not dry_run else ():
                _remove(path)
        if not dry_run:
            _compact(connection, folder)
    return [room for room in freed if room.count]


def _drop_records(connection: apsw.Connection, blobs: BlobFolder, runs: int | None) -> set[str]:
    """Remove the records that can go; return the blobs that those that stay refer to."""
    newest = connection.execute("SELECT coalesce(max(generation), 0) FROM runs").get
    for table in ("memo", "calls", "refusals"):
        connection.execute(f"DELETE FROM {table} WHERE generation<?", (newest,))
    keep = connection.execute(
        "SELECT coalesce(min(id), 0) FROM (SELECT id FROM runs WHERE generation=?"
        " ORDER BY id DESC LIMIT ?)",
        (newest, -1 if runs is None else max(runs, 1)),
    ).get
    connection.execute("DELETE FROM rows WHERE run<?", (keep,))
    connection.execute("DELETE FROM runs WHERE id<?", (keep,))
    texts, used = set[bytes](), set[str]()
    for table, body in BODY.items():
        for values in connection.execute(f"SELECT * FROM {table}"):
            used.update([values[i] for i in LARGE[table] if isinstance(values[i], str)])
            dids, artifacts = references(_whole(values[body], blobs))
            texts.update(dids)
            used.update(artifacts)
    for table, columns in {"calls": "reply", "refusals": "note"}.items():
        query = f"SELECT {columns} FROM {table} WHERE typeof({columns})='text'"
        used.update([name for (name,) in connection.execute(query)])
    used |= _drop_texts(connection, blobs, texts)
    return used


def _drop_texts(connection: apsw.Connection, blobs: BlobFolder, needed: set[bytes]) -> set[str]:
    """Remove the texts that none of these is made of; return the blobs of those that stay."""
    used, todo = set[str](), list(needed)
    while todo:
        did = todo.pop()
        record = connection.execute("SELECT record FROM texts WHERE did=?", (did,)).get
        if record is None:
            raise TextError(f"the text {did.hex()} is missing")
        if isinstance(record, str):
            used.add(record)
        more = set(text_references(did, _whole(record, blobs))) - needed
        needed |= more
        todo += more
    every = [did for (did,) in connection.execute("SELECT did FROM texts")]
    gone = [(did,) for did in every if did not in needed]
    connection.executemany("DELETE FROM texts WHERE did=?", gone)
    return used


def _finished(connection: apsw.Connection, blobs: BlobFolder, work: Path) -> list[Path]:
    """Return the work folders that nobody will ask for: the result is there, or is not wanted.

    Those of dead rows stay as long as a run tells of the row: `redrive` tries it again.
    """
    dead = {
        load_json(_whole(note, blobs)).get("memo")
        for (note,) in connection.execute("SELECT note FROM rows WHERE fate='dead'")
    }
    ended = "SELECT 1 FROM memo WHERE key=? AND ordinal=-1"
    return [
        path
        for path in sorted(work.glob("*"))
        if path.name not in dead and connection.execute(ended, (_key(path),)).get
    ]


def _compact(connection: apsw.Connection, folder: Path) -> None:
    """Give the room of removed records back to the disk."""
    try:
        connection.execute("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
    except apsw.Error as error:
        raise StoreError(
            f"what could go has been removed, but the database in {short_path(str(folder))} cannot "
            f"be made smaller ({error}): that takes as much room as it has; make some, and run "
            "`engine store gc` again"
        ) from error


def _records(connection: apsw.Connection) -> Iterator[Room]:
    for table, (owner, columns) in _TABLES.items():
        lengths = "+".join(f"coalesce(length({column}), 0)" for column in columns.split(", "))
        query = f"SELECT {owner}, count(*), sum({lengths}) FROM {table} GROUP BY 1"
        for of, count, size in connection.execute(query):
            yield Room(table, f"{owner} {of}" if of else "", count, size + KEYS * count)
    runs: Any = connection.execute("SELECT count(*) FROM runs").get
    yield Room("runs", "", runs, KEYS * runs)


def _difference(before: list[Room], after: list[Room]) -> list[Room]:
    left = {(room.what, room.of): room for room in after}
    found = []
    for room in before:
        stays = left.get((room.what, room.of), Room(room.what, room.of, 0, 0))
        count, size = room.count - stays.count, room.bytes - stays.bytes
        found.append(Room(room.what, room.of, count, size))
    return found


def _whole(value: bytes | str, blobs: BlobFolder) -> bytes:
    return value if isinstance(value, bytes) else blobs.read(value)


def _key(folder: Path) -> bytes:
    try:
        return bytes.fromhex(folder.name)
    except ValueError:
        return b""


def _bytes(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(_bytes(inner) for inner in path.iterdir())
        return path.stat().st_size
    except FileNotFoundError:  # its writer has just ended
        return 0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _unreadable(folder: Path, error: Exception) -> StoreError:
    place = short_path(str(folder))
    return StoreError(
        f"the store {place} is damaged ({error}): `engine store check {place}` says what is, and "
        "`--repair` drops it to be done again"
    )
