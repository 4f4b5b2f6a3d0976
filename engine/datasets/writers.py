"""How rows become files: JSON Lines, Parquet, and the folder that `datasets` and the Hub read."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from engine.datasets.schema import Table, dumps

__all__ = ["GROUP", "SHARD", "FolderWriter", "JsonlWriter", "ParquetWriter", "Writer"]

GROUP = 1024
"""Rows a Parquet row group: fixed, so that equal rows give equal bytes."""
SHARD = 100 * GROUP
"""Rows a file of a folder."""

Records = Sequence[Mapping[str, Any]]


class Writer(Protocol):
    """What writes plain records, at most GROUP at once."""

    def write(self, records: Records) -> None:
        """Write some. Raises ValueError for a value that the format cannot hold."""

    def close(self) -> None:
        """Write what is left."""


class JsonlWriter:
    """JSON Lines, packed as the suffix says; equal rows give equal bytes."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("wb")
        self._file = _packed(self._raw, path.suffix)

    def write(self, records: Records) -> None:
        """Write a line a record."""
        try:
            self._file.write(b"".join(dumps(record) + b"\n" for record in records))
        except TypeError as error:
            raise ValueError(str(error)) from None

    def close(self) -> None:
        """Close the file."""
        if self._file is not self._raw:
            self._file.close()
        self._raw.close()


def _packed(file: BinaryIO, suffix: str) -> Any:
    match suffix:
        case ".gz":  # neither name nor time in the header
            return gzip.GzipFile("", "wb", 6, file, mtime=0)
        case ".bz2":
            return bz2.BZ2File(file, "wb")
        case ".xz":
            return lzma.LZMAFile(file, "wb")
        case ".zst":
            import zstandard

            return zstandard.ZstdCompressor().stream_writer(file, closefd=False)
    return file


class ParquetWriter:
    """Parquet with a schema of the fields' types, zstd, and row groups of GROUP rows."""

    def __init__(self, path: Path, fields: Mapping[str, Any]) -> None:
        import pyarrow.parquet as parquet

        self._table = Table(fields)
        self._file = parquet.ParquetWriter(path, self._table.schema, compression="zstd")

    def write(self, records: Records) -> None:
        """Write a row group."""
        if records:
            self._file.write_table(self._table.of(records), row_group_size=GROUP)

    def close(self) -> None:
        """Write the footer."""
        self._file.close()


class FolderWriter:
    """Parquet files `data/train-00000-of-00001.parquet`, SHARD rows each."""

    def __init__(self, path: Path, fields: Mapping[str, Any]) -> None:
        self._folder, self._fields = path / "data", fields
        self._folder.mkdir()
        self._shards = 0
        self._next()

    def _next(self) -> None:
        self._shards, self._rows = self._shards + 1, 0
        self._open = ParquetWriter(self._folder / f"{self._shards:05}", self._fields)

    def write(self, records: Records) -> None:
        """Write a row group, into the next file where this one is full."""
        if records and self._rows == SHARD:
            self._open.close()
            self._next()
        self._open.write(records)
        self._rows += len(records)

    def close(self) -> None:
        """Close the last file, and give all their names: only now their number is known."""
        self._open.close()
        for i, file in enumerate(sorted(self._folder.iterdir())):
            file.rename(self._folder / f"train-{i:05}-of-{self._shards:05}.parquet")
