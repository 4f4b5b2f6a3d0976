"""Files and folders that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from engine.errors import short_path

__all__ = ["whole_file", "whole_folder"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`; put it in place, durable, if the block ends well.

    What is there already is left alone if it holds these bytes. Raises ValueError where a folder
    is.
    """
    if path.is_dir():
        raise ValueError(f"{short_path(str(path))} is a folder: name a file in it")
    with _beside(path) as temporary:
        new = temporary / path.name
        yield new
        _sync(new)
        if not path.exists() or _digest(path) != _digest(new):
            new.replace(path)
            _sync(path.parent)


@contextmanager
def whole_folder(path: Path, ours: Callable[[str], bool] = lambda name: False) -> Iterator[Path]:
    """Give a temporary folder beside `path`; put it in place of what is there, as one.

    What is there already is left alone if it holds these files. No other's file is ever removed:
    raises ValueError where the folder holds one that the new one has not, but for names that are
    `ours` (relative, with `/`).
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{short_path(str(path))} is a file: move it away, or name a folder")
    with _beside(path) as temporary:
        new, old = temporary / path.name, temporary / "old"
        new.mkdir()
        yield new
        files = _files(new)
        for folder in {new, *(file.parent for file in files.values())}:
            _sync(folder)
        for file in files.values():
            _sync(file)
        if path.exists():
            there = _files(path)
            if set(there) == set(files) and all(
                _digest(there[name]) == _digest(files[name]) for name in files
            ):
                return
            if strange := sorted(name for name in there if name not in files and not ours(name)):
                raise ValueError(
                    f"{short_path(str(path))} holds {strange[0]!r}, which would be lost: move it "
                    "away, or name another folder"
                )
            path.rename(old)  # from here to the next line there is no folder: POSIX swaps none
        new.rename(path)
        _sync(path.parent)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a folder of our own beside a path, and remove it, and those that killed runs left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    held = os.open(temporary, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: nobody clears it up
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(held)


def _clear(path: Path) -> None:
    """Remove what processes that were killed left beside a path: what nobody holds a lock on."""
    left = re.compile(rf"\.{re.escape(path.name)}\.\w{{8}}\.part")
    for folder in [p for p in path.parent.iterdir() if left.fullmatch(p.name)]:
        try:
            held = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder / "old").is_dir() and not path.exists():
                (folder / "old").rename(path)  # killed between the two renames of a folder
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # somebody is writing there
            pass
        finally:
            os.close(held)


def _files(folder: Path) -> dict[str, Path]:
    """Return what is in a folder that is no folder itself, by relative name."""
    return {
        file.relative_to(folder).as_posix(): file
        for file in folder.rglob("*")
        if file.is_symlink() or not file.is_dir()
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> bytes:
    h = blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            h.update(chunk)
    return h.digest()
