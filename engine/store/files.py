"""The store's files: who owns the folder, what is in the database, whether this engine reads it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
from pathlib import Path

import apsw

from engine.errors import StoreError, short_path
from engine.store.blobs import make_folder

__all__ = [
    "DATABASE",
    "Lock",
    "check_present",
    "close",
    "file_system",
    "open_damaged",
    "open_for_reading",
    "open_for_writing",
    "owner",
]

DATABASE = "store.sqlite"
OLDEST_SQLITE = (3, 51, 3)  # before it, resetting the WAL could corrupt a database
MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")  # a space in a mount's name is written \040
_REMOTE = {
    "9p", "acfs", "afs", "afpfs", "beegfs", "ceph", "cephfs", "cifs", "coda", "davfs", "glusterfs",
    "gfs2", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2",
    "smb3", "smbfs", "virtiofs", "wekafs",
}  # fmt: skip
_REMOTE_FUSE = {
    "beegfs", "ceph", "cephfs", "curlftpfs", "davfs", "davfs2", "gcsfuse", "glusterfs", "goofys",
    "juicefs", "lustre", "moosefs", "rclone", "s3fs", "seaweedfs", "sshfs",
}  # fmt: skip

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
_TABLES = {table.strip().encode() for table in _SCHEMA.split(";") if table.strip()}


class Lock:
    """The right to write to a store: a flock, which ends with the process that holds it."""

    def __init__(self, folder: Path) -> None:
        """Take it. Raises StoreError at once, naming the process, when another one has it."""
        place = short_path(str(folder))
        kind = file_system(folder)
        if kind in _REMOTE or kind.removeprefix("fuse.") in _REMOTE_FUSE:
            raise StoreError(
                f"the store {place} lies on a network file system ({kind}), where neither locks "
                "nor fsync can be relied on: put it on a local disk (make `.engine` a link to a "
                "local folder, or give `engine.open` a `store=`)"
            )
        try:
            make_folder(folder)
            self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"the store {place} cannot be opened: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()} {platform.node()}".encode(), 0)
        except BlockingIOError:
            held = os.pread(self._file, 300, 0).decode(errors="replace")
            os.close(self._file)
            pid, _, host = held.strip().partition(" ")
            by = f"process {pid} on {host}" if pid else "another process"
            do = "wait for it, or stop it"
            if (pid, host) == (str(os.getpid()), platform.node()):
                by += ", which is this one"
                do = "let the other run end first, or give each a store of its own (`store=`)"
            raise StoreError(f"the store {place} is in use by {by}: {do}") from None
        except OSError as error:
            os.close(self._file)
            raise StoreError(f"the store {place} cannot be locked: {error}") from error

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._file)


def owner(folder: Path) -> int | None:
    """Return the process that owns a store, if one does."""
    try:
        file = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pid = int(os.pread(file, 32, 0).partition(b" ")[0] or b"0")
        os.kill(pid, 0)  # first, so that a lock that is free is hardly ever taken for an instant
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return pid
    except PermissionError:  # it is there, and somebody else's
        return pid
    except (OSError, ValueError):
        return None
    finally:
        os.close(file)
    return None


def open_for_writing(path: Path | None) -> apsw.Connection:
    """Open the database, or make it; None is one in memory.

    Raises StoreError for a file that is no store, is damaged, or of another version, which is left
    as it was; and for an SQLite that is too old.
    """
    name = ":memory:" if path is None else str(path)
    if path is not None and path.with_name(f"{path.name}.new").exists():
        check_present(path)
    library = apsw.sqlite_lib_version()
    if tuple(map(int, library.split("."))) < OLDEST_SQLITE:
        raise StoreError(
            f"SQLite {library} can corrupt a database while it is written: install an apsw that "
            f"brings {'.'.join(map(str, OLDEST_SQLITE))} or newer"
        )
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
        _abandon(connection)
        raise _refusal(name, error) from error
    return connection


def check_present(path: Path) -> None:
    """Raise StoreError where there is no database, or a repair of it has not ended."""
    place = short_path(str(path.parent))
    if path.is_file():
        return
    if path.with_name(f"{path.name}.new").exists():
        raise StoreError(
            f"a repair of the store {place} was interrupted: run `engine store check --repair "
            f"{place}` again"
        )
    raise StoreError(f"there is no store at {place}: run the pipeline first")


def open_damaged(path: Path) -> apsw.Connection:
    """Open a database for reading what can be read of it. Raises StoreError if nothing can."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.execute("PRAGMA query_only=1; PRAGMA writable_schema=1")  # a wrong size is taken
        with contextlib.suppress(apsw.CorruptError):
            _check(connection, str(path))
    except (apsw.Error, StoreError) as error:
        connection.close()
        raise _refusal(str(path), error) from error
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
        _abandon(connection)
        raise _refusal(str(path), error) from error
    return connection


def _abandon(connection: apsw.Connection | None) -> None:
    if connection is not None:
        with contextlib.suppress(apsw.Error):  # the first error is the one to tell
            connection.close()


def close(connection: apsw.Connection) -> None:
    """Close a database. Raises StoreError where that fails; what was committed is durable."""
    try:
        connection.close()
    except apsw.Error as error:
        raise StoreError(
            f"the store could not be closed: {error}. All that it acknowledged is kept: once the "
            "disk is in order, run again"
        ) from error


def _check(connection: apsw.Connection, path: str) -> None:
    version = connection.execute("SELECT value FROM meta WHERE name='version'").get
    if version == VERSION:
        made = "SELECT CAST(sql AS BLOB) FROM sqlite_master WHERE type='table'"
        if {sql for (sql,) in connection.execute(made)} != _TABLES:
            raise apsw.CorruptError("its tables are not those of a store")
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
    name, folder = short_path(path), short_path(str(Path(path).parent))
    if isinstance(error, apsw.CorruptError):
        return StoreError(
            f"the database {name} is damaged ({error}): `engine store check --repair {folder}` "
            "saves what can be read"
        )
    if isinstance(error, (apsw.NotADBError, apsw.SQLError)):
        return StoreError(
            f"{name} is not a store of the engine, or its head is damaged ({error}), "
            f"which nothing can mend: move the folder {folder} away to begin anew"
        )
    return StoreError(f"the store {name} cannot be opened: {error}")


def file_system(path: Path) -> str:
    """Return the type of the file system that a path lies on, or "" where it cannot be told."""
    try:
        mounts = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return ""
    place, best, kind = path.resolve(), -1, ""
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        point = Path(_OCTAL.sub(lambda m: chr(int(m[1], 8)), before.split(" ")[4]))
        if place.is_relative_to(point) and len(point.parts) >= best:  # a later one hides it
            best, kind = len(point.parts), after.split(" ")[0]
    return kind
