"""`dataset.read`: rows out of files, folders and the Hugging Face Hub."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread
from pydantic import PositiveInt

from engine.datasets import autocrit, files, hub, transcripts
from engine.datasets.arrow import (
    arrow_records,
    count_rows,
    file_tables,
    schema_shapes,
    table_records,
)
from engine.datasets.formats import Records, text_records
from engine.datasets.shapes import Mismatch, Shape, peeked
from engine.errors import nearest, short_path
from engine.keys import canonical, digest
from engine.rows import RESERVED, Reject, Row, preceded
from engine.settings import InputData
from engine.stages import fields_of, stage
from engine.text import Text

__all__ = ["read"]

_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?", re.ASCII)
CHUNK = 512
"""Rows that are read at once, in a thread."""
CONVERSIONS = {
    "hh-rlhf": (transcripts.preference, transcripts.preference_fields),
    "autocrit": (autocrit.critique, autocrit.critique_fields),
}
"""What `convert` names: what it makes of a row's fields, and of their types."""


@stage("dataset.read")
async def read(
    *,
    path: InputData | tuple[InputData, ...] = (),
    hub: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    format: Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"] | None = None,
    convert: Literal["hh-rlhf", "autocrit"] | None = None,
    numbers: tuple[str, ...] = (),
    id_field: str | None = None,
    rows: str | None = None,
    peek: PositiveInt = 100,
) -> AsyncIterator[Row | Reject]:
    """Read rows from files, or from a dataset on the Hugging Face Hub.

    Strings become texts that know file, line and field. Fields have the types of the first rows; a
    later row with another type is rejected. See docs/datasets.md.

    - `path`: a file, a glob, a folder that `datasets` or `dataset.write` wrote, or a list of these.
    - `hub`: `org/name` on the Hub, in place of files.
    - `config`: the dataset's configuration on the Hub, where it has several.
    - `split`: the split of a folder or of a dataset on the Hub, where it has several.
    - `revision`: a branch, tag or commit on the Hub.
    - `streaming`: read from the Hub row by row, without downloading all of it first.
    - `format`: what the files are, whatever their suffixes say.
    - `convert`: `hh-rlhf` makes dialogues of the transcripts `chosen` and `rejected`; `autocrit` of
      transcripts with critiques and revisions.
    - `numbers`: the columns of a CSV file whose cells are numbers; all others are texts.
    - `id_field`: the field that a row's id is made from; left out, it is made from the content.
    - `rows`: which rows, as Python counts them: `"0:1700"` the first 1,700, `"-300:"` the last 300;
      ids stay what they are without it.
    - `peek`: how many rows of each file are looked at for fields and types.
    """
    parts = _parts(path, hub, config, split, revision, streaming, format, numbers)
    start, stop = await anyio.to_thread.run_sync(_range, rows, parts)
    shapes = await anyio.to_thread.run_sync(_peek, parts, peek) or {}
    with closing(_rows(parts, shapes, id_field, convert, start, stop)) as made:
        error: Exception | None = None
        while error is None:
            chunk, error = await anyio.to_thread.run_sync(_taken, made)
            for row in chunk:
                yield row
            if error is not None and not isinstance(error, StopIteration):
                raise error


@fields_of(read)
def read_fields(
    upstream: Mapping[str, Any],
    *,
    path: Path | tuple[Path, ...],
    hub: str | None,
    config: str | None,
    split: str | None,
    revision: str | None,
    streaming: bool,
    format: str | None,
    convert: str | None,
    numbers: tuple[str, ...],
    id_field: str | None,
    rows: str | None,
    peek: int,
) -> Mapping[str, Any]:
    """Return the fields that all of the first rows have, with types that hold for all of them."""
    parts = _parts(path, hub, config, split, revision, streaming, format, numbers)
    bounds = _bounds(rows)
    if streaming and any(bound is not None and bound < 0 for bound in bounds):
        raise ValueError(
            f"rows: {rows!r} counts from the end, which is not known with `streaming`: leave "
            "`streaming` out"
        )
    shapes = _peek(parts, peek)
    where = ", ".join(part.place for part in parts[:3])
    if shapes is None:
        raise ValueError(f"path: {where} has no rows")
    if id_field is not None and id_field not in shapes:
        raise ValueError(
            f"id_field: not every row of {where} has a field {id_field!r}"
            + nearest(id_field, shapes, say="; did you mean {!r}?")
        )
    fields = {name: shape.hint for name, shape in shapes.items()}
    return CONVERSIONS[convert][1](fields) if convert else fields


@dataclass(frozen=True)
class _Part:
    """A file, or a split on the Hub."""

    place: str
    """How errors name it."""
    origin: str
    """How texts name it."""
    unit: Literal["line", "row"]
    records: Callable[[], Records]
    seeds: Callable[[], Mapping[str, Shape] | None]
    """What its schema says, if it has one."""
    count: Callable[[], int]
    """How many rows it has."""


def _parts(
    path: Path | tuple[Path, ...],
    name: str | None,
    config: str | None,
    split: str | None,
    revision: str | None,
    streaming: bool,
    format: Any,
    numbers: Sequence[str],
) -> list[_Part]:
    paths = [path] if isinstance(path, Path) else list(path)
    if bool(paths) == (name is not None):
        raise ValueError("give either `path:` (files) or `hub:` (org/name on the Hub)")
    if name is not None:
        if format or numbers:
            raise ValueError("`format` and `numbers` are for files: leave them out with `hub:`")
        return [_hub_part(name, config, split, revision, streaming)]
    if config or revision or streaming:
        raise ValueError("`config`, `revision` and `streaming` are for `hub:`: leave them out")
    found = files.find(paths, format, split)
    if numbers and (other := [f for f in found if f.format not in ("csv", "tsv")]):
        raise ValueError(
            f"numbers: {other[0].name} is no CSV file: it says itself what a number is"
        )
    return [_file_part(file, numbers) for file in found]


def _file_part(file: files.DataFile, numbers: Sequence[str]) -> _Part:
    place = short_path(str(file.path))
    if file.format in ("parquet", "arrow"):
        return _Part(
            place,
            file.name,
            "row",
            lambda: arrow_records(file),
            lambda: schema_shapes(file_tables(file)[0], place),
            lambda: count_rows(file),
        )

    def records() -> Records:
        return text_records(file, numbers)

    return _Part(place, file.name, "line", records, lambda: None, lambda: sum(1 for _ in records()))


def _hub_part(
    name: str, config: str | None, split: str | None, revision: str | None, streaming: bool
) -> _Part:
    hub.check_repo(name)
    files.needs("datasets", "hub", "hub: a dataset on the Hub")
    loaded = functools.cache(lambda: hub.load(name, config, split, revision, streaming))

    def seeds() -> Mapping[str, Shape] | None:
        features = loaded().features
        return None if features is None else schema_shapes(features.arrow_schema, name)

    origin = "/".join(filter(None, (name, config, split))) + (f"@{revision}" if revision else "")
    return _Part(
        name,
        origin,
        "row",
        lambda: table_records(hub.tables(name, loaded())),
        seeds,
        lambda: int(loaded().num_rows),
    )


def _bounds(rows: str | None) -> tuple[int | None, int | None]:
    """Return start and stop of a slice as it is written. Raises ValueError for what is none."""
    match = _SLICE.fullmatch(":" if rows is None else rows)
    if match is None:
        raise ValueError(
            f'rows: {rows!r} is no slice: write "START:STOP", as Python does: "0:1700" for the '
            'first 1,700 rows, "-300:" for the last 300'
        )
    start, stop = (int(bound) if bound else None for bound in match.groups())
    return start, stop


def _range(rows: str | None, parts: Sequence[_Part]) -> tuple[int, int | None]:
    """Return the first row of a slice and the one after the last; None is the end."""
    start, stop = _bounds(rows)
    if (start or 0) < 0 or (stop or 0) < 0:
        start, stop, _ = slice(start, stop).indices(sum(part.count() for part in parts))
    return start or 0, stop


def _peek(parts: Sequence[_Part], count: int) -> dict[str, Shape] | None:
    """Return the shapes of the fields that the first rows of all parts have; None for no rows."""
    shapes: dict[str, Shape] | None = None
    for part in parts:
        seeds = part.seeds()
        with closing(part.records()) as records:
            here = peeked((record for _, record in itertools.islice(records, count)), seeds)
        if here is None:  # an empty shard is no fault
            continue
        if shapes is None:
            shapes = here
        shapes = {name: shape for name, shape in shapes.items() if name in here}
        for name, shape in shapes.items():
            if shape is not here[name]:
                shape.absorb(here[name])
    return shapes


def _rows(
    parts: Sequence[_Part],
    shapes: Mapping[str, Shape],
    id_field: str | None,
    convert: str | None,
    start: int,
    stop: int | None,
) -> Generator[Row | Reject, None, None]:
    """Yield the rows from `start` to `stop`, numbered from 0 over all parts.

    Raises ValueError, with its place, for a row that cannot be used.
    """
    position = 0
    skipped: Counter[bytes] = Counter()
    for part in parts:
        with closing(part.records()) as records:
            left = None if stop is None else max(0, stop - position)
            for number, record in itertools.islice(records, left):
                position += 1
                early = position <= start
                if early and id_field is not None:
                    continue
                row = _row(part, number, record, shapes, id_field, convert)
                if id_field is None and start and not isinstance(row, Reject):
                    content = digest(canonical(row.fields))  # of which its id is made
                    if early:
                        skipped[content] += 1
                    row = preceded(row, skipped[content])
                if not early:
                    yield row


def _row(
    part: _Part,
    number: int,
    record: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    id_field: str | None,
    convert: str | None,
) -> Row | Reject:
    """Return a record as a row. Raises ValueError, with its place, if it cannot be used."""
    place = f"{part.place}:{number}" if part.unit == "line" else f"{part.place}, row {number}"
    operation, free = f"source:{part.origin}", Shape()

    def leaf(value: str, at: str) -> Text:
        return Text.leaf(value, operation, params={part.unit: number, "field": at})

    try:
        fields = {
            name: shapes.get(name, free).make(value, name, leaf) for name, value in record.items()
        }
    except Mismatch as error:
        return Reject(str(error), span=place)
    except RecursionError:
        raise ValueError(f"{place}: a value is nested too deeply") from None
    if odd := next((n for n in fields if n in RESERVED and n not in shapes), None):
        raise ValueError(f"{place}: no field can be named {odd!r}: rename it")
    key = None if id_field is None else _key(record, id_field, place)
    if convert is not None:
        converted = CONVERSIONS[convert][0](fields, place)
        if isinstance(converted, Reject):
            return converted
        fields = converted
    row = Row.of(fields)
    return row if key is None else Row.keyed(row, key)


def _key(record: Mapping[str, Any], id_field: str, place: str) -> str:
    key = record.get(id_field)
    if id_field not in record:
        raise ValueError(f"{place}: no field {id_field!r} for the id")
    if type(key) not in (str, int):
        raise ValueError(f"{place}: {id_field!r} is no id: it is neither text nor an integer")
    return str(key)


def _taken(rows: Iterator[Row | Reject]) -> tuple[list[Row | Reject], Exception | None]:
    """Return the next rows, and what ended them: rows before a bad one are not lost."""
    taken: list[Row | Reject] = []
    try:
        while len(taken) < CHUNK:
            taken.append(next(rows))
    except Exception as error:
        return taken, error
    return taken, None
