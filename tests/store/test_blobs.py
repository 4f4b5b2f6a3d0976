"""Blobs are named by their bytes, kept once, and leave nothing behind when their block raises."""

from pathlib import Path

import pytest

from engine.errors import StoreError
from engine.rows import Artifact
from engine.store.blobs import BlobFolder


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_file(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path / "blobs")
    for _ in range(2):
        with blobs.new("text/plain") as writer:
            with writer.open() as stream:
                stream.write(b"hello")
    assert (writer.artifact.media_type, writer.artifact.size) == ("text/plain", 5)
    assert blobs.path(writer.artifact).read_bytes() == b"hello"
    assert len(files(tmp_path)) == 1
    assert not [p for p in (tmp_path / "blobs").iterdir() if p.name.startswith("new-")]


def test_a_folder_is_named_by_names_and_bytes(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path)

    def write(names: dict[str, bytes]) -> Artifact:
        with blobs.new("application/x", folder=True) as writer:
            for name, data in names.items():
                file = writer.path / name
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(data)
                file.chmod(0o444)  # as a copy out of a cache may be
        return writer.artifact

    one = write({"a": b"1", "in/b": b"22"})
    assert one == write({"in/b": b"22", "a": b"1"})
    assert len({one, write({"a": b"1", "in/c": b"22"}), write({"a": b"1", "in/b": b"23"})}) == 3
    assert (one.size, one.folder) == (3, True)
    assert (blobs.path(one) / "in" / "b").read_bytes() == b"22"


@pytest.mark.parametrize("folder", [False, True])
def test_an_exception_leaves_nothing(tmp_path: Path, folder: bool) -> None:
    blobs = BlobFolder(tmp_path)

    def write() -> None:
        with blobs.new("x", folder=folder) as writer:
            (writer.path / "half" if folder else writer.path).write_bytes(b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_blob_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the blob 00ff is missing"):
        BlobFolder(tmp_path).path(Artifact("00ff", "x", 1))
