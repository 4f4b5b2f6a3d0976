"""`dataset.write`: a sink that writes JSON Lines or Parquet, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Protocol

import anyio.to_thread
import orjson

from engine.datasets.schema import arrow_schema, arrow_value
from engine.errors import nearest
from engine.rows import Row, plain
from engine.services import Counters
from engine.stages import Context, OutputPath, fields_of, stage

__all__ = ["write"]

GROUP = 1024
"""Rows a Parquet row group: fixed, so that equal rows give equal bytes."""


@stage("dataset.write")
async def write(
    rows: AsyncIterable[Row],
    *,
    path: OutputPath,
    format: Literal["jsonl", "parquet"] | None = None,
    fields: tuple[str, ...] = (),
    ctx: Context,
) -> None:
    """Write all rows, in order, to `path`; the format follows the suffix unless it is given.

    `fields` names the columns (`row_id` is the row's id); left out, every field is written. The
    file appears when it is complete: it is written beside its place, synced and renamed, and left
    alone if it holds these bytes already. Lone surrogates become U+FFFD and are counted.
    """
    kind = format or ("parquet" if path.suffix == ".parquet" else "jsonl")
    names = list(fields) or list(ctx.fields)
    with _complete(path) as temporary:
        writer: _Writer
        if kind == "parquet":
            writer = _Parquet(
                temporary, {n: str if n == "row_id" else ctx.fields.get(n, Any) for n in names}
            )
        else:
            writer = _Jsonl(temporary)
        try:
            group: list[dict[str, Any]] = []
            async for row in rows:
                group.append(_record(row, names or list(row), ctx.counters))
                if len(group) == GROUP:
                    await anyio.to_thread.run_sync(writer.write, group)
                    group = []
            await anyio.to_thread.run_sync(writer.write, group)
        finally:
            writer.close()


@fields_of(write)
def write_fields(
    upstream: Mapping[str, Any], *, fields: tuple[str, ...], **config: Any
) -> Mapping[str, Any]:
    """Return nothing: a sink passes nothing on. Raises ValueError for a column that no row has."""
    for name in fields:
        if upstream and name != "row_id" and name not in upstream:
            near = nearest(name, upstream, say="; did you mean {!r}?")
            raise ValueError(
                f"fields: no row has {name!r}{near} (rows have: {', '.join(upstream)})"
            )
    return {}


class _Writer(Protocol):
    def write(self, records: Sequence[Mapping[str, Any]]) -> None: ...
    def close(self) -> None: ...


class _Jsonl:
    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        for record in records:
            self._file.write(orjson.dumps(record) + b"\n")

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path, fields: Mapping[str, Any]) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise RuntimeError("Parquet needs pyarrow: pip install 'st-engine[parquet]'") from None
        self._fields = fields
        self._schema = arrow_schema(fields)
        self._file = parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow

        columns = {
            name: [arrow_value(record.get(name), hint) for record in records]
            for name, hint in self._fields.items()
        }
        self._file.write_table(pyarrow.table(columns, schema=self._schema), row_group_size=GROUP)

    def close(self) -> None:
        self._file.close()


def _record(row: Row, names: Sequence[str], counters: Counters) -> dict[str, Any]:
    return {
        name: row.row_id if name == "row_id" else _utf8(plain(row[name]), name, counters)
        for name in names
        if name == "row_id" or name in row
    }


def _utf8(value: Any, name: str, counters: Counters) -> Any:
    """Return the value with lone surrogates replaced, counting them for the field."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            counters.sanitised[name] += sum(0xD800 <= ord(c) <= 0xDFFF for c in value)
            return "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF else c for c in value)
    elif isinstance(value, list):
        return [_utf8(item, name, counters) for item in value]
    elif isinstance(value, dict):
        return {_utf8(k, name, counters): _utf8(v, name, counters) for k, v in value.items()}
    return value


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; put it in place, durable, if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if path.exists() and _digest(path) == _digest(temporary):
            return
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _digest(path: Path) -> bytes:
    h = blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            h.update(chunk)
    return h.digest()
