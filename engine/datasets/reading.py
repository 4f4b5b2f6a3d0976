"""`dataset.read`: rows out of JSON Lines files."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio.lowlevel

from engine.errors import short_path
from engine.rows import Row
from engine.stages import InputFile, fields_of, stage
from engine.text import Text

__all__ = ["read"]

PEEK = 100
"""How many rows are looked at to find the fields and their types."""


@stage("dataset.read")
async def read(*, path: InputFile, id_field: str | None = None) -> AsyncIterator[Row]:
    """Read one row a line of a JSON Lines file (`.jsonl`, or gzipped as `.jsonl.gz`).

    Strings become texts that know file, line and field. `id_field` names a field whose value is
    the row's own id; without it, the id is made from the row's content.
    """
    for number, record in _records(path):
        row = Row.of(
            {
                name: Text.leaf(
                    value, f"source:{path.name}", params={"line": number, "field": name}
                )
                if isinstance(value, str)
                else value
                for name, value in record.items()
            }
        )
        if id_field is not None:
            if id_field not in record:
                raise ValueError(
                    f"{short_path(str(path))}:{number}: no field {id_field!r} for the id"
                )
            row = row.keyed(str(record[id_field]))
        yield row
        if number % 256 == 0:
            await anyio.lowlevel.checkpoint()


@fields_of(read)
def read_fields(
    upstream: Mapping[str, Any], *, path: Path, id_field: str | None
) -> Mapping[str, Any]:
    """Return the fields that all of the first rows have, with types that hold for all of them."""
    found: dict[str, set[Any]] = {}
    count = 0
    for _, record in _records(path):
        count += 1
        names = record.keys() if count == 1 else found.keys() & record.keys()
        found = {
            n: found.get(n, set()) | {Text if isinstance(record[n], str) else type(record[n])}
            for n in record
            if n in names
        }
        if count == PEEK:
            break
    if not count:
        raise ValueError(f"path: {short_path(str(path))} has no rows")
    if id_field is not None and id_field not in found:
        raise ValueError(
            f"id_field: not every row of {short_path(str(path))} has a field {id_field!r}"
        )
    return {name: types.pop() if len(types) == 1 else Any for name, types in found.items()}


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object). Raises ValueError with file and line.

    json and not orjson: integers of any size and lone surrogates are valid, and keys told twice
    are seen.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(
                    line.decode("utf-8-sig" if number == 1 else "utf-8"),
                    object_pairs_hook=_object,
                    parse_constant=_refuse_constant,
                )
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{short_path(str(path))}:{number}: not JSON: {error}") from None
            if not isinstance(record, dict):
                raise ValueError(
                    f"{short_path(str(path))}:{number}: a row is an object, "
                    f"not {type(record).__name__}"
                )
            yield number, record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"the key {twice!r} stands there twice")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
