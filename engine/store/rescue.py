"""What a store falls back on when its disk is full or fails: a reserve, and a rescue file."""

from __future__ import annotations

import base64
import errno
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apsw
import orjson

from engine.store.blobs import sync_folder
from engine.store.records import record_digest

__all__ = ["RESERVE_BYTES", "Rescue", "is_full"]

RESERVE_BYTES = 64 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Rescue:
    """A file that only takes room, to be given back when the disk is full; and one for replies.

    A reply is paid for. What the database does not take any more is appended to `rescue.jsonl`;
    the next opening puts it into the database.
    """

    def __init__(self, folder: Path, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._folder, self._size = folder, reserve_bytes
        self._reserve, self.path = folder / "reserve", folder / "rescue.jsonl"

    def reserve(self) -> None:
        """Take the room; where the disk has none, say what that means."""
        if not self._size:
            return
        try:
            descriptor = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.free()
            logging.getLogger("engine").warning(
                "no room is reserved for replies in flight (%s: %d MiB): should the disk fill up, "
                "they are lost, and paid for again",
                error.strerror,
                self._size >> 20,
            )

    def free(self) -> bool:
        """Give the room back; return whether there was some."""
        try:
            self._reserve.unlink()
            sync_folder(self._folder)  # only now can it be had
        except OSError:
            return False
        return True

    def save(self, calls: Iterable[Sequence[Any]]) -> None:
        """Append call records, durably. Raises OSError if they cannot be."""
        lines = b"".join([_line(*call) for call in calls])
        if not lines:
            return
        self.free()
        new = not self.path.exists()
        with self.path.open("ab", buffering=0) as file:
            left = memoryview(lines)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        if new:
            sync_folder(self._folder)

    def load(self) -> tuple[list[tuple[int, bytes, int, bytes]], bool]:
        """Return the call records of the file, and whether all of it could be read.

        A last line without an end was not acknowledged to anybody. Raises OSError.
        """
        if not self.path.exists():
            return [], True
        lines, found = self.path.read_bytes().splitlines(keepends=True), []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        for line in lines:
            try:
                held = orjson.loads(line)
                call = (
                    held["generation"],
                    bytes.fromhex(held["key"]),
                    held["sample"],
                    base64.b64decode(held["reply"]),
                )
                if record_digest("calls", call).hex() == held["digest"]:
                    found.append(call)
            except (ValueError, LookupError, TypeError):
                continue
        return found, len(found) == len(lines)

    def done(self, *, whole: bool) -> None:
        """Remove the file, or put it aside when not all of it could be read. Raises OSError."""
        if not self.path.exists():
            return
        if whole:
            self.path.unlink()
        else:
            self.path.replace(self._folder / "rescue-damaged.jsonl")
        sync_folder(self._folder)


def is_full(error: BaseException | None, connection: apsw.Connection) -> bool:
    """Whether an error says that there is no room, at a write. (An fsync is never tried twice.)"""
    if isinstance(error, apsw.FullError):
        return True
    if isinstance(error, apsw.IOError):
        grows = (apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_SHMSIZE)
        return connection.system_errno in _FULL and getattr(error, "extendedresult", 0) in grows
    if isinstance(error, OSError):
        return error.errno in _FULL
    return error is not None and is_full(error.__cause__, connection)


def _line(generation: int, key: bytes, sample: int, reply: bytes) -> bytes:
    held = {
        "generation": generation,
        "key": key.hex(),
        "sample": sample,
        "reply": base64.b64encode(reply).decode(),
        "digest": record_digest("calls", (generation, key, sample, reply)).hex(),
    }
    return orjson.dumps(held) + b"\n"
