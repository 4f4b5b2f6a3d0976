"""Content-addressed blobs: written in place (temp, fsync, rename), never copied."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import orjson

from engine.errors import StoreError
from engine.rows import Artifact

__all__ = ["BlobFolder", "make_folder"]


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
        """Return where an Artifact's bytes lie. Raises StoreError if they are gone."""
        path = self._place(artifact.digest)
        if not path.exists():
            raise StoreError(f"the blob {artifact.digest} is missing from {self.root}")
        return path

    def put(self, data: bytes) -> str:
        """Keep bytes; return their name. Durable on return."""
        with self.new("") as writer:
            writer.path.write_bytes(data)
        return writer.artifact.digest

    def read(self, digest: str) -> bytes:
        """Return the bytes of this name. Raises StoreError if they are gone or changed."""
        try:
            data = self._place(digest).read_bytes()
        except OSError as error:
            raise StoreError(f"the blob {digest} cannot be read: {error}") from error
        if blake2b(data, digest_size=16).hexdigest() != digest:
            raise StoreError(f"the blob {digest} in {self.root} is damaged: its digest differs")
        return data

    @contextmanager
    def new(self, media_type: str, *, folder: bool = False) -> Iterator[_Writer]:
        """Open a new blob; nothing is left behind if the block raises."""
        self._make(self.root)
        temporary = Path(tempfile.mkdtemp(prefix="new-", dir=self.root))
        try:
            writer = _Writer(temporary / "blob")
            if folder:
                writer.path.mkdir()
            yield writer
            writer.artifact = self._keep(writer.path, media_type, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _keep(self, path: Path, media_type: str, folder: bool) -> Artifact:
        if folder:
            manifest, size = [], 0
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                digest, length = _digest(file)
                manifest.append([file.relative_to(path).as_posix(), digest, length])
                size += length
            for inner in (path, *[p for p in path.rglob("*") if p.is_dir()]):
                _sync_folder(inner)
            name = blake2b(orjson.dumps(manifest), digest_size=16).hexdigest()
        else:
            name, size = _digest(path)
        target = self._place(name)
        self._make(target.parent)
        if not target.exists():
            try:
                path.rename(target)
            except OSError:
                if not target.exists():  # another writer of the same bytes may have been first
                    raise
            _sync_folder(target.parent)
        return Artifact(name, media_type, size, folder)

    def _make(self, folder: Path) -> None:
        with self._making:  # who finds a folder made must find it durable
            make_folder(folder)

    def _place(self, digest: str) -> Path:
        return self.root / digest[:2] / digest


def _digest(file: Path) -> tuple[str, int]:
    """Return (BLAKE2b-128, size) of a file, and make its bytes durable."""
    h, size = blake2b(digest_size=16), 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            h.update(chunk)
            size += len(chunk)
        os.fsync(stream.fileno())
    return h.hexdigest(), size


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are not there; durable on return."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
