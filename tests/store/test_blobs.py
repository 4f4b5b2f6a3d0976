"""Blobs are named by their bytes, kept once, and leave nothing behind when their block raises."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
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


def test_threads_may_write_at_once_and_the_same(tmp_path: Path) -> None:
    blobs, together = BlobFolder(tmp_path / "blobs"), threading.Barrier(8)

    def write(number: int) -> list[Artifact]:
        made = []
        for turn in range(20):
            together.wait()
            with blobs.new("x", folder=number % 2 == 0) as writer:
                file = writer.path / "a" if number % 2 == 0 else writer.path
                file.write_bytes(b"%d" % (turn if number < 6 else turn + 100 * number))
            made.append(writer.artifact)
            blobs.path(writer.artifact)
        return made

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(write, range(8)))
    assert made[0] == made[2] == made[4]
    assert made[1] == made[3] == made[5]
    assert len({artifact.digest for one in made for artifact in one}) == 4 * 20
    assert blobs.temporary() == []


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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_a_disk_that_is_full_or_fails_is_no_fault_of_the_row(tmp_path: Path, number: int) -> None:
    blobs = BlobFolder(tmp_path)

    def write() -> None:
        with blobs.new("x") as writer:
            writer.path.write_bytes(b"half")
            raise OSError(number, os.strerror(number))

    with pytest.raises(StoreError, match=f"a blob cannot be written to .*{os.strerror(number)}"):
        write()
    assert list(tmp_path.iterdir()) == []

    def missing() -> None:
        with blobs.new("x"):
            (tmp_path / "none").read_bytes()

    with pytest.raises(FileNotFoundError):
        missing()


@pytest.mark.parametrize("folder", [False, True])
def test_a_blob_that_was_cut_short_is_noticed_and_mended_by_the_same_bytes(
    tmp_path: Path, folder: bool
) -> None:
    blobs = BlobFolder(tmp_path)

    def write() -> Artifact:
        with blobs.new("x", folder=folder) as writer:
            (writer.path / "file" if folder else writer.path).write_bytes(b"12345")
        return writer.artifact

    artifact = write()
    path = blobs.path(artifact)
    (path / "file" if folder else path).write_bytes(b"123")
    with pytest.raises(StoreError, match="is damaged: it has 3 bytes, and had 5"):
        blobs.path(artifact)
    assert write() == artifact
    assert (path / "file" if folder else path).read_bytes() == b"12345"


def test_bytes_come_back_or_are_said_to_be_damaged(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path)
    name = blobs.put(b"large")
    assert blobs.read(name) == b"large"
    assert list(blobs.names()) == [name]
    blobs.place(name).write_bytes(b"lArge")
    with pytest.raises(StoreError, match="is damaged: its digest differs"):
        blobs.read(name)
    blobs.place(name).unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        blobs.read(name)
