"""`dataset.attach`: a file as a dataset that a row carries."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import orjson

from engine.datasets.packing import JSONL
from engine.rows import Artifact, Columns, Row
from engine.stages import Context, InputFile, fields_of, stage

__all__ = ["attach"]


class Attached(Row):
    """The file's rows as a dataset, and how many they are."""

    dataset: Artifact
    dataset_rows: int


@stage("dataset.attach")
async def attach(row: Row, *, path: InputFile, ctx: Context) -> Attached:
    """Give each row a file as a dataset: what `dataset.pack` would make of its rows.

    So a row that carries a model meets data of another file: preferences after examples, or what
    is held out (`give: {dataset: held_out, dataset_rows: held_out_rows}`).

    - `path`: a JSON Lines file, whose objects are the dataset's rows as they stand.
    """
    blobs = ctx.blobs

    def copy() -> Attached:
        count = sum(1 for _ in _objects(path))
        with blobs.new(JSONL) as writer:
            shutil.copyfile(path, writer.path)
        return Attached(writer.artifact, count)

    return await anyio.to_thread.run_sync(copy)


@fields_of(attach)
def attach_fields(upstream: Mapping[str, Any], *, path: Path) -> Mapping[str, Any]:
    """Return the dataset with its columns, which are the first row's. Raises ValueError as it."""
    first = next(_objects(path), {})
    return {"dataset": Annotated[Artifact, Columns(tuple(first))]} if first else {}


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file. Raises ValueError for a line that is none."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                found = orjson.loads(line)
            except orjson.JSONDecodeError:
                found = None
            if not isinstance(found, dict):
                raise ValueError(f"{path.name}:{number}: each line is to be a JSON object")
            yield found
