"""`dataset.pack`: the rows of a group as one row that carries them as a dataset."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread

from engine.datasets.grouping import check_new, check_read, group_key, lacking
from engine.datasets.schema import dumps, holds_bytes, shown
from engine.datasets.writers import GROUP
from engine.datasets.writing import record
from engine.rows import Artifact, Columns, Reject, Row, plain
from engine.services import Blobs, BlobWriter
from engine.stages import Context, fields_of, stage

__all__ = ["JSONL", "pack"]

JSONL = "application/jsonl"
"""The media type of a packed dataset."""


class Packed(Row):
    """A group: the fields of `by`, its datasets, and how many rows each has."""


@stage("dataset.pack")
async def pack(
    rows: AsyncIterable[Row],
    *,
    by: tuple[str, ...] = (),
    fields: tuple[str, ...] = (),
    split: str | None = None,
    splits: dict[str, str] | None = None,
    ctx: Context,
) -> AsyncIterator[Packed | Reject]:
    """Put the rows of a group into one row that carries them as a dataset, a JSON Lines Artifact.

    The row has the fields of `by`, `dataset` and `dataset_rows` (how many). Its id depends on the
    values of `by` alone. Groups come in the order of their first rows. Values are written as
    `dataset.write` writes them: lone surrogates become U+FFFD and are counted.

    - `by`: the fields that the rows of a group share, which stay; Artifacts are equal by digest.
      Left out, all rows are one group, and one row comes out even of none.
    - `fields`: the columns, in order (`row_id` is the row's id); left out, all fields but those of
      `by`.
    - `split`: the field that says which of several datasets a row belongs to.
    - `splits`: the value of that field -> the name of the dataset, a field as `dataset` is:
      `{train: dataset, test: held_out}`. A row with another value is rejected.
    """
    names = list(fields) or [name for name in ctx.fields if name not in by]
    into = dict.fromkeys((splits or {"": "dataset"}).values())
    groups: dict[str, _Group] = {}
    waiting: list[tuple[Path, dict[str, Any]]] = []
    with ExitStack() as stack:
        if not by:
            groups[group_key({})] = stack.enter_context(_Group({}, into, ctx.blobs))
        async for row in rows:
            needed = by if split is None else (*by, split)
            if (name := lacking(row, needed)) is not None:
                yield row.reject(f"no field {name!r}")
                continue
            value = "" if split is None else _word(row[split])
            place = (splits or {"": "dataset"}).get(value)
            if place is None:
                yield row.reject(f"{split}: no dataset for {value[:60]!r}")
                continue
            shared = {name: row[name] for name in by}
            key = group_key(shared)
            if key not in groups:
                groups[key] = stack.enter_context(_Group(shared, into, ctx.blobs))
            every = fields or [n for n in dict.fromkeys([*names, *row]) if n not in by]
            waiting.append((groups[key].count(place), record(row, every, ctx.counters)))
            if len(waiting) == GROUP:
                await anyio.to_thread.run_sync(_append, waiting)
                waiting = []
        await anyio.to_thread.run_sync(_append, waiting)
        for key, group in groups.items():
            await anyio.to_thread.run_sync(group.close)
            yield Packed.of(group.fields).keyed(key)


@fields_of(pack)
def pack_fields(
    upstream: Mapping[str, Any],
    *,
    by: tuple[str, ...],
    fields: tuple[str, ...],
    split: str | None,
    splits: dict[str, str] | None,
) -> Mapping[str, Any]:
    """Return the fields of a group. Raises ValueError for what cannot be packed."""
    check_read({"by": by}, upstream)
    check_read({"fields": [name for name in fields if name != "row_id"]}, upstream)
    if (split is None) != (not splits):
        lack, is_there = ("split", "splits") if split is None else ("splits", "split")
        raise ValueError(f"{lack}: it goes with `{is_there}`: give both, or none")
    if split is not None:
        check_read({"split": [split]}, upstream)
    for name, hint in upstream.items():
        if (name in fields if fields else name not in by) and holds_bytes(hint):
            raise ValueError(
                f"fields: {name!r} is {shown(hint)}, which JSON has not: leave it out of `fields`"
            )
    into = dict.fromkeys((splits or {"": "dataset"}).values())
    check_new("splits" if splits else "by", [*into, *map(_rows, into)], by)
    if splits and (twice := next((name for name in into if _rows(name) in into), None)):
        raise ValueError(f"splits: {_rows(twice)!r} says how many rows {twice!r} has: rename it")
    kept = {name: upstream.get(name, Any) for name in by}
    columns = fields or tuple(name for name in upstream if name not in by)
    dataset = Annotated[Artifact, Columns(columns)] if columns else Artifact
    return kept | dict.fromkeys(into, dataset) | dict.fromkeys(map(_rows, into), int)


class _Group:
    """The datasets of a group, being written: temporary files of the store, none held open."""

    def __init__(self, shared: Mapping[str, Any], into: Iterable[str], blobs: Blobs) -> None:
        self._shared, self._blobs = shared, blobs
        self._counts = dict.fromkeys(into, 0)
        self._writers: dict[str, BlobWriter] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Group:
        with ExitStack() as stack:
            for name in self._counts:
                self._writers[name] = stack.enter_context(self._blobs.new(JSONL))
                self._writers[name].path.touch()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def count(self, name: str) -> Path:
        """Count a row of a dataset; return the file that it goes to."""
        self._counts[name] += 1
        return self._writers[name].path

    def close(self) -> None:
        """Make the files Artifacts."""
        self._stack.close()

    @property
    def fields(self) -> dict[str, Any]:
        """The group's fields, once it is closed."""
        made = {name: writer.artifact for name, writer in self._writers.items()}
        counts = {_rows(name): count for name, count in self._counts.items()}
        return {**self._shared, **made, **counts}


def _append(records: Iterable[tuple[Path, Mapping[str, Any]]]) -> None:
    """Write records to the ends of their files. Raises ValueError for what JSON has not."""
    lines: dict[Path, list[bytes]] = {}
    try:
        for path, values in records:
            lines.setdefault(path, []).append(dumps(values) + b"\n")
    except TypeError as error:
        raise ValueError(str(error)) from None
    for path, parts in lines.items():
        with path.open("ab") as file:
            file.writelines(parts)


def _rows(name: str) -> str:
    return f"{name}_rows"


def _word(value: Any) -> str:
    """Return a value as a key of `splits` names it: a text, or as YAML writes it."""
    return str(value) if isinstance(value, str) else dumps(plain(value)).decode()
