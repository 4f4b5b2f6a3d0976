"""The files of a dataset: which they are, of which format, and how they are opened."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from engine.errors import nearest, short_path

__all__ = ["PACKED", "SUFFIXES", "DataFile", "blamed", "find", "needs", "open_packed", "split_of"]

Format = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"]
SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
PACKED = (".gz", ".bz2", ".xz", ".zst")
_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}\.parquet")


class DataFile(NamedTuple):
    """One file: where it is, how rows name it, and its format."""

    path: Path
    name: str
    format: Format


def find(paths: Sequence[Path], format: str | None, split: str | None) -> list[DataFile]:
    """Return the files that paths, globs and folders stand for, in order.

    Raises ValueError for what is not there, with near misses, for a format that nothing says, and
    for a file named twice.
    """
    found: list[tuple[Path, Format]] = []
    for path in paths:
        if path.is_dir():
            found += _folder(path, split)
            continue
        if split is not None:
            raise ValueError(f"split: {_shown(path)} is no folder with splits: leave `split` out")
        files = [path] if path.exists() else _globbed(path)
        found += [(file, _format(file, format)) for file in files]
    once: set[Path] = set()
    for file, kind in found:
        if file in once:
            raise ValueError(f"path: {_shown(file)} is named twice")
        once.add(file)
        if kind == "arrow" or kind == "parquet":
            needs("pyarrow", "parquet", f"{_shown(file)} is {kind.capitalize()}")
            if file.suffix in PACKED:
                raise ValueError(f"path: {_shown(file)}: {kind} in {file.suffix}: unpack it")
        elif file.suffix == ".zst":
            needs("zstandard", "zstd", f"{_shown(file)} is compressed by zstd")
    base = os.path.commonpath([file.parent for file, _ in found])
    return [DataFile(file, file.relative_to(base).as_posix(), kind) for file, kind in found]


def needs(module: str, extra: str, why: str) -> None:
    """Raise ValueError, naming the extra, where a library is not installed."""
    if find_spec(module) is None:
        raise ValueError(f"{why}, which needs {module}: pip install 'st-engine[{extra}]'")


def _globbed(path: Path) -> list[Path]:
    if not glob.has_magic(str(path)):
        raise ValueError(f"path: there is no file {_shown(path)}{_near(path)}")
    top = next(folder for folder in path.parents if not glob.has_magic(str(folder)))
    matched = [p.relative_to(top) for p in top.glob(str(path.relative_to(top))) if p.is_file()]
    hidden = (any(part.startswith(".") for part in p.parts) for p in matched)
    files = sorted(top / p for p, skipped in zip(matched, hidden, strict=True) if not skipped)
    if not files:
        raise ValueError(f"path: no file matches {_shown(path)}{_near(path)}")
    return files


def _near(path: Path) -> str:
    """Say what is there instead, in the deepest folder of the path that exists."""
    folder = next(p for p in path.parents if p.is_dir())
    wanted = path.relative_to(folder).parts[0]
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    hint = nearest(wanted, names, say="; did you mean {!r}?")
    if not hint and names:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        hint = f" ({_shown(folder)} has: {listed})"
    return hint or f" ({_shown(folder)} is empty)"


def _format(file: Path, given: str | None) -> Any:
    if given is not None:
        return given
    suffix = file.with_suffix("").suffix if file.suffix in PACKED else file.suffix
    if suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"path: the name {file.name!r} does not tell its format: give `format:`, "
            f"or one of the suffixes {', '.join(SUFFIXES)}, packed as {', '.join(PACKED)} or not"
        )
    return SUFFIXES[suffix.lower()]


def _folder(folder: Path, split: str | None) -> list[tuple[Path, Format]]:
    """Return the files of one split of a folder that `datasets` or `dataset.write` wrote."""
    if (folder / "dataset_dict.json").is_file():
        names = _described(folder / "dataset_dict.json")["splits"]
        return _folder(folder / split_of(names, split, _shown(folder)), None)
    if (folder / "state.json").is_file():
        if split is not None:
            raise ValueError(f"split: {_shown(folder)} holds one split: leave `split` out")
        files = _described(folder / "state.json")["_data_files"]
        return [(folder / Path(entry["filename"]).name, "arrow") for entry in files]
    shards: dict[str, list[Path]] = {}
    for file in sorted((folder / "data").glob("*.parquet")):
        if match := _SHARD.fullmatch(file.name):
            shards.setdefault(match["split"], []).append(file)
    if not shards:
        raise ValueError(
            f"path: {_shown(folder)} is a folder that neither `save_to_disk` nor dataset.write "
            f"wrote: name its files, such as {folder.name}/*.jsonl"
        )
    name = split_of(shards, split, _shown(folder))
    total = int(shards[name][0].stem[-5:])
    if len(shards[name]) != total:
        raise ValueError(
            f"path: {_shown(folder)} has {len(shards[name])} of the {total} files of {name!r}"
        )
    return [(file, "parquet") for file in shards[name]]


def split_of(names: Any, split: str | None, where: str) -> str:
    """Return the split that is meant. Raises ValueError where that is not clear."""
    names = list(names)
    if split is None and len(names) == 1:
        return str(names[0])
    if split is None or split not in names:
        what = f"has no split {split!r}" if split else "has several splits"
        raise ValueError(f"split: {where} {what}: name one of {', '.join(names)}")
    return split


def _described(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{_shown(file)}: not JSON: {error}") from None


@contextmanager
def blamed(path: Path, line: Callable[[], int]) -> Iterator[None]:
    """Say file and line of what goes wrong while a file is read."""
    broken: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, lzma.LZMAError)
    try:
        yield
    except broken as error:
        what = "it is cut short" if isinstance(error, EOFError) else "it cannot be read"
        raise ValueError(f"{_shown(path)}:{line()}: {what}: {error}") from None


def open_packed(path: Path) -> BinaryIO:
    """Open a file to read what it holds, unpacked as its suffix says."""
    match path.suffix:
        case ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]
        case ".bz2":
            return bz2.open(path, "rb")  # type: ignore[return-value]
        case ".xz":
            return lzma.open(path, "rb")  # type: ignore[return-value]
        case ".zst":
            return io.BufferedReader(_Zstd(path), 1 << 17)
    return path.open("rb")


class _Zstd(io.RawIOBase):
    """Unpacks zstd, frame by frame; zstandard's own reader is silent when a file is cut short."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._file, self._zstd = path.open("rb"), zstandard
        self._frame: Any = None
        self._packed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._packed = self._packed or self._file.read(1 << 17)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the last zstd frame has no end")
                return 0
            self._frame = self._frame or self._zstd.ZstdDecompressor().decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(self._packed))
            except self._zstd.ZstdError as error:
                raise OSError(str(error)) from None
            self._packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _shown(path: Path) -> str:
    return short_path(str(path))
