"""Bytes in a test's rows, Artifacts to the stage; and the bytes of those that the stage made."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.rows import Artifact
from engine.services import Blobs

__all__ = ["Blob", "Kept", "holds_blob", "stored"]


class Blob:
    """A file or folder for the rows of `run_stage`: its store makes an Artifact of it.

    `content` is the file's bytes or text, or a mapping from names in a folder (`inner/file.txt`)
    to these.
    """

    def __init__(
        self,
        content: bytes | str | Mapping[str, bytes | str],
        media_type: str = "application/octet-stream",
    ) -> None:
        self.content, self.media_type = content, media_type

    def put(self, blobs: Blobs) -> Artifact:
        """Write it to a store."""
        content = self.content
        with blobs.new(self.media_type, folder=isinstance(content, Mapping)) as writer:
            if isinstance(content, Mapping):
                for name, data in content.items():
                    file = writer.path / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(_bytes(data))
            else:
                writer.path.write_bytes(_bytes(content))
        return writer.artifact


class Kept:
    """The files and folders of Artifacts, copied out of a store that ends with its run."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        self._folder: Path | None = None

    def keep(self, value: Any, blobs: Blobs) -> None:
        """Copy what a value's Artifacts stand for, into a folder that goes with this object."""
        for artifact in _artifacts(value):
            if artifact.digest in self._paths:
                continue
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="engine-test-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            target = self._folder / artifact.digest
            copy: Any = shutil.copytree if artifact.folder else shutil.copyfile
            copy(blobs.path(artifact), target)
            self._paths[artifact.digest] = target

    def path(self, artifact: Artifact) -> Path:
        """Return where an Artifact's file or folder lies. Raises KeyError for one unknown."""
        return self._paths[artifact.digest]


def holds_blob(value: Any) -> bool:
    """Return whether a value is a Blob, or holds one."""
    if isinstance(value, (list, tuple)):
        return any(map(holds_blob, value))
    if isinstance(value, Mapping):
        return any(map(holds_blob, value.values()))
    return isinstance(value, Blob)


def stored(value: Any, blobs: Blobs) -> Any:
    """Return a value with an Artifact in the place of each Blob."""
    if not holds_blob(value):
        return value
    if isinstance(value, Blob):
        return value.put(blobs)
    if isinstance(value, Mapping):
        return {name: stored(item, blobs) for name, item in value.items()}
    return type(value)(stored(item, blobs) for item in value)


def _artifacts(value: Any) -> Iterator[Artifact]:
    if isinstance(value, Artifact):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _artifacts(item)
    elif isinstance(value, Mapping):
        yield from _artifacts([*value.values()])


def _bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data
