"""`dataset.write`: a sink for JSON Lines, Parquet and dataset folders, whole or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread

from engine.datasets import hub as the_hub
from engine.datasets.card import card
from engine.datasets.files import PACKED, needs
from engine.datasets.places import whole_file, whole_folder
from engine.datasets.schema import holds_bytes, shown
from engine.datasets.writers import GROUP, FolderWriter, JsonlWriter, ParquetWriter, Writer
from engine.errors import nearest
from engine.rows import Row, plain
from engine.services import Counters
from engine.stages import Context, OutputPath, fields_of, stage

__all__ = ["record", "write"]

Format = Literal["jsonl", "parquet", "datasets"]
_SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@stage("dataset.write")
async def write(
    rows: AsyncIterable[Row],
    *,
    path: OutputPath,
    format: Format | None = None,
    fields: tuple[str, ...] = (),
    hub: str | None = None,
    private: bool = True,
    license: str | None = None,
    tags: tuple[str, ...] = (),
    ctx: Context,
) -> None:
    """Write all rows, in order, to a file or a folder, and from there to the Hugging Face Hub.

    It appears when it is complete, and is left alone if it holds these bytes already. Lone
    surrogates become U+FFFD and are counted. See docs/datasets.md.

    - `path`: the file (`.jsonl`, packed or not, or `.parquet`) or folder.
    - `format`: what to write, whatever the suffix says; `datasets` is a folder with a card.
    - `fields`: the columns, in order (`row_id` is the row's id); left out, every field.
    - `hub`: push the folder to `org/name` on the Hub; the token is `$HF_TOKEN`.
    - `private`: whether the dataset on the Hub is private.
    - `license`: the licence that the card names, as the Hub spells it: `mit`, `cc-by-4.0`.
    - `tags`: the card's tags.
    """
    kind = _kind(path, format)
    names = list(fields) or list(ctx.fields)
    columns = {n: str if n == "row_id" else ctx.fields.get(n, Any) for n in names}
    place: AbstractContextManager[Path] = (
        whole_folder(path, _is_ours) if kind == "datasets" else whole_file(path)
    )
    with place as temporary:
        writer: Writer
        match kind:
            case "jsonl":
                writer = JsonlWriter(temporary)
            case "parquet":
                writer = ParquetWriter(temporary, columns)
            case "datasets":
                writer = FolderWriter(temporary, columns)
        count = 0
        try:
            group: list[dict[str, Any]] = []
            async for row in rows:
                if kind != "jsonl" and not fields:
                    _check_columns(row, columns)
                every = fields or dict.fromkeys([*names, *row])
                group.append(record(row, every, ctx.counters))
                count += 1
                if len(group) == GROUP:
                    await anyio.to_thread.run_sync(writer.write, group)
                    group = []
            await anyio.to_thread.run_sync(writer.write, group)
        finally:
            writer.close()
        if kind == "datasets":
            text = card(ctx, columns, count, license=license, tags=tags)
            (temporary / "README.md").write_text(text, "utf-8")
    if hub is not None:
        message = f"{ctx.pipeline}: {count:,} rows"
        await anyio.to_thread.run_sync(
            lambda: the_hub.push(path, hub, private=private, message=message)
        )


@fields_of(write)
def write_fields(
    upstream: Mapping[str, Any],
    *,
    path: Path,
    format: Format | None,
    fields: tuple[str, ...],
    hub: str | None,
    private: bool,
    license: str | None,
    tags: tuple[str, ...],
) -> Mapping[str, Any]:
    """Return nothing: a sink passes nothing on. Raises ValueError for what cannot be written."""
    kind = _kind(path, format)
    for i, name in enumerate(fields):
        if name in fields[:i]:
            raise ValueError(f"fields: {name!r} is named twice")
        if upstream and name != "row_id" and name not in upstream:
            near = nearest(name, upstream, say="; did you mean {!r}?")
            raise ValueError(
                f"fields: no row has {name!r}{near} (rows have: {', '.join(upstream)})"
            )
    written = {n: hint for n, hint in upstream.items() if not fields or n in fields}
    if kind == "jsonl":
        for name, hint in written.items():
            if holds_bytes(hint):
                raise ValueError(
                    f"fields: {name!r} is {shown(hint)}, which JSON has not: "
                    "leave it out of `fields:`, or write Parquet"
                )
        if path.suffix == ".zst":
            needs("zstandard", "zstd", "path: .zst")
    else:
        needs("pyarrow", "parquet", "format: Parquet")
        if not fields and not upstream:
            raise ValueError(
                "fields: the rows declare no fields, of which Parquet makes its columns: "
                "name them in `fields:`"
            )
    if kind != "datasets" and (hub or license or tags or not private):
        raise ValueError("`hub`, `private`, `license` and `tags` are for `format: datasets`")
    if hub is not None:
        the_hub.check_push(hub)
    return {}


def _kind(path: Path, format: Format | None) -> Format:
    """Return the format that a path's suffix says, unless it is given."""
    packed = path.suffix in PACKED
    if format is not None:
        if packed and format != "jsonl":
            raise ValueError(f"path: only JSON Lines are packed: leave {path.suffix} out")
        return format
    suffix = path.with_suffix("").suffix if packed else path.suffix
    kind = _SUFFIXES.get(suffix)
    if kind is None or (packed and kind != "jsonl"):
        raise ValueError(
            f"path: {path.name!r} does not say in which format to write: end it in .jsonl "
            f"(packed: {', '.join(f'.jsonl{end}' for end in PACKED)}) or .parquet, or give "
            "`format: datasets` for a folder"
        )
    return kind


def _is_ours(name: str) -> bool:
    """Return whether a file in a dataset folder is one that this stage writes."""
    return name == "README.md" or (name.startswith("data/train-") and name.endswith(".parquet"))


def _check_columns(row: Row, columns: Mapping[str, Any]) -> None:
    """Raise ValueError for a field that would be lost, as no column stands for it."""
    for name in row:
        if name not in columns:
            raise ValueError(
                f"row {row.row_id} has the field {name!r}, which is no column, as other rows lack "
                "it: name the columns in `fields:`, or write JSON Lines"
            )


def record(row: Row, names: Iterable[str], counters: Counters) -> dict[str, Any]:
    """Return a row as it is written: those of the fields that it has, as plain values.

    Lone surrogates become U+FFFD, and are counted.
    """
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
