"""Content-addressed blobs: written in place (temp, fsync, rename), never copied."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import orjson

from engine.errors import StoreError, short_path
from engine.rows import Artifact

__all__ = ["DISK_ERRORS", "BlobFolder", "blob_digest", "make_folder", "sync_folder"]

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE}
"""What a disk or a limit of the system does, and no row: it must not end as a dead letter."""
_TEMPORARY = "new-"
_NAME = re.compile("[0-9a-f]{32}")


class _Writer:
    """One blob being written."""

    artifact: Artifact

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> BinaryIO:
        """Open the temporary file for writing."""
        return self.path.open("wb")


class BlobFolder:
    """A folder of blobs named by digest; a folder blob's digest is that of its manifest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._making = threading.Lock()

    def path(self, artifact: Artifact) -> Path:
        """Return where an Artifact's bytes lie. Raises StoreError if they are gone or cut short."""
        path = self.place(artifact.digest)
        if not path.exists():
            raise StoreError(f"the blob {artifact.digest} is missing from {self.root}")
        size = _size(path)
        if size != artifact.size:
            raise StoreError(
                f"the blob {artifact.digest} in {self.root} is damaged: it has {size:,} bytes, and "
                f"had {artifact.size:,}; remove it, and run again with --fresh"
            )
        return path

    def place(self, digest: str) -> Path:
        """Return where the blob of this name lies, or would lie."""
        return self.root / digest[:2] / digest

    def put(self, data: bytes) -> str:
        """Keep bytes; return their name. Durable on return. Raises as `new` does."""
        with self.new("") as writer:
            writer.path.write_bytes(data)
        return writer.artifact.digest

    def read(self, digest: str) -> bytes:
        """Return the bytes of this name. Raises StoreError if they are gone or changed."""
        if not _NAME.fullmatch(digest):
            raise StoreError(f"{digest[:40]!r} is no name of a blob")
        try:
            data = self.place(digest).read_bytes()
        except OSError as error:
            raise StoreError(f"the blob {digest} cannot be read: {error}") from error
        if blake2b(data, digest_size=16).hexdigest() != digest:
            raise StoreError(f"the blob {digest} in {self.root} is damaged: its digest differs")
        return data

    @contextmanager
    def new(self, media_type: str, *, folder: bool = False) -> Iterator[_Writer]:
        """Open a new blob; nothing is left behind if the block raises.

        Raises StoreError when the disk is full or fails, or too many files are open.
        """
        try:
            self._make(self.root)
            temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self.root))
            try:
                writer = _Writer(temporary / "blob")
                if folder:
                    writer.path.mkdir()
                yield writer
                writer.artifact = self._keep(writer.path, media_type, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            place = short_path(str(self.root))
            raise StoreError(f"a blob cannot be written to {place}: {error.strerror}") from error

    def temporary(self) -> list[Path]:
        """Return what killed writers left behind; others may be at work still."""
        return sorted(self.root.glob(f"{_TEMPORARY}*"))

    def names(self) -> Iterator[str]:
        """Yield the names of all blobs."""
        for path in self.root.glob("??/*"):
            yield path.name

    def _keep(self, path: Path, media_type: str, folder: bool) -> Artifact:
        if folder:
            for inner in (path, *[p for p in path.rglob("*") if p.is_dir()]):
                sync_folder(inner)
        name, size = blob_digest(path, sync=True)
        target = self.place(name)
        self._make(target.parent)
        if target.exists() and _size(target) != size:  # damaged: these bytes mend it
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        try:
            if not target.exists():
                path.rename(target)
        except OSError:
            if not target.exists():  # another writer of the same bytes may have been first
                raise
        sync_folder(target.parent)  # whoever made the entry: who finds it must find it durable
        return Artifact(name, media_type, size, folder)

    def _make(self, folder: Path) -> None:
        with self._making:  # who finds a folder made must find it durable
            make_folder(folder)


def blob_digest(path: Path, *, sync: bool = False) -> tuple[str, int]:
    """Return (name, bytes) of a file or folder as a blob; with `sync`, make the files durable."""
    if not path.is_dir():
        return _file_digest(path, sync)
    manifest, size = [], 0
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest, length = _file_digest(file, sync)
        manifest.append([file.relative_to(path).as_posix(), digest, length])
        size += length
    return blake2b(orjson.dumps(manifest), digest_size=16).hexdigest(), size


def _file_digest(file: Path, sync: bool) -> tuple[str, int]:
    h, size = blake2b(digest_size=16), 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            h.update(chunk)
            size += len(chunk)
        if sync:
            os.fsync(stream.fileno())
    return h.hexdigest(), size


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are not there; durable on return."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
