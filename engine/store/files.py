"""The store's files: who owns the folder, what is in the database, whether this engine reads it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import apsw

from engine.errors import StoreError, short_path
from engine.store.blobs import make_folder

__all__ = ["Lock", "open_for_reading", "open_for_writing"]

VERSION = 3
# Tables with row numbers, so that what comes is appended: its random key stands in an index alone.
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY);
CREATE TABLE runs (id INTEGER PRIMARY KEY, generation INT, started REAL, pipeline TEXT, stages BLOB,
    digest BLOB, status TEXT, ended REAL, summary BLOB);
CREATE TABLE memo (generation INT, key BLOB, ordinal INT, kind TEXT, body BLOB, note BLOB,
    count INT, row BLOB, own_key BLOB, digest BLOB, PRIMARY KEY (key, ordinal, generation));
CREATE TABLE calls (generation INT, key BLOB, sample INT, reply BLOB, digest BLOB,
    PRIMARY KEY (key, sample, generation));
CREATE TABLE refusals (generation INT, key BLOB, fingerprint BLOB, sample INT, note BLOB,
    digest BLOB, PRIMARY KEY (key, fingerprint, sample, generation));
CREATE TABLE texts (did BLOB PRIMARY KEY, record BLOB);
CREATE TABLE rows (run INT, fate TEXT, stage TEXT, row BLOB, place BLOB, body BLOB, note BLOB,
    digest BLOB, PRIMARY KEY (run, fate, stage, row));
CREATE TABLE spool (place TEXT, row BLOB, body BLOB, digest BLOB, PRIMARY KEY (place, row));
"""


class Lock:
    """The right to write to a store: a flock, which ends with the process that holds it."""

    def __init__(self, folder: Path) -> None:
        """Take it. Raises StoreError at once, naming the process, when another one has it."""
        place = short_path(str(folder))
        try:
            make_folder(folder)
            self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"the store {place} cannot be opened: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(self._file, 0)
            os.pwrite(self._file, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            owner = os.pread(self._file, 32, 0).decode(errors="replace").strip()
            os.close(self._file)
            by, do = f"process {owner}" if owner else "another process", "wait for it, or stop it"
            if owner == str(os.getpid()):
                by += ", which is this one"
                do = "let the other run end first, or give each a store of its own (`store=`)"
            raise StoreError(f"the store {place} is in use by {by}: {do}") from None
        except OSError as error:
            os.close(self._file)
            raise StoreError(f"the store {place} cannot be locked: {error}") from error

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._file)


def open_for_writing(path: Path | None) -> apsw.Connection:
    """Open the database, or make it; None is one in memory.

    Raises StoreError for a file that is no store, or one of a newer engine; it is left as it was.
    """
    name = ":memory:" if path is None else str(path)
    connection: apsw.Connection | None = None
    try:
        connection = apsw.Connection(name)
        connection.set_busy_timeout(5000)
        if connection.execute("SELECT count(*) FROM sqlite_master").get == 0:
            connection.execute("PRAGMA page_size=8192; PRAGMA journal_mode=WAL")
            with connection:
                connection.execute(_SCHEMA)
                connection.execute("INSERT INTO meta VALUES ('version', ?)", (VERSION,))
        _check(connection, name)
        connection.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
        with connection:
            connection.execute("DELETE FROM spool")
            connection.execute("UPDATE runs SET status='interrupted' WHERE status='running'")
    except (apsw.Error, StoreError) as error:
        if connection is not None:
            connection.close()
        raise _refusal(name, error) from error
    return connection


def open_for_reading(path: Path) -> apsw.Connection:
    """Open a database that somebody else may be writing. Raises StoreError as above."""
    connection: apsw.Connection | None = None
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(5000)
        connection.execute("PRAGMA query_only=1")
        _check(connection, str(path))
    except (apsw.Error, StoreError) as error:
        if connection is not None:
            connection.close()
        raise _refusal(str(path), error) from error
    return connection


def _check(connection: apsw.Connection, path: str) -> None:
    version = connection.execute("SELECT value FROM meta WHERE name='version'").get
    if version == VERSION:
        return
    newer = isinstance(version, int) and version > VERSION
    found = "was written by a newer engine" if newer else "is older than the first release"
    do = "upgrade the engine, or move the folder away" if newer else "move the folder away"
    raise StoreError(
        f"the store {short_path(path)} {found} (its version is {version}; this engine reads "
        f"{VERSION}): {do}"
    )


def _refusal(path: str, error: Exception) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, (apsw.NotADBError, apsw.SQLError)):
        return StoreError(f"{short_path(path)} is not a store of the engine: {error}")
    return StoreError(f"the store {short_path(path)} cannot be opened: {error}")
