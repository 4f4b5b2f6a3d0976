"""`train.report`: a sink that makes one page of trainings and of how good the models are."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread

from engine import Artifact, Context, OutputPath, Row, fields_of, stage
from engine.rows import plain, strip_annotated
from engine_train.judging import Measured
from engine_train.pages import Training, page

__all__ = ["report"]

RECORD = "training.json"
LONGEST = 40  # characters of a value that can tell rows apart


class Judged(Row):
    """A row with trained models; `accuracy` is what `train.evaluate` found, by set of pairs."""

    accuracy: Mapping[str, Any] | None = None


@stage("train.report", version="1")
async def report(
    rows: AsyncIterable[Judged], *, path: OutputPath, title: str = "", ctx: Context
) -> None:
    """Write one HTML page on the models of all rows: curves, accuracy, settings, alarms, data.

    Every field that holds a model of `train.sft`, `train.reward`, `train.dpo` or `train.grpo`
    counts, and `accuracy` as `train.evaluate` gives it. The page fetches nothing, so it can be sent
    as it is.

    - `path`: the page, an `.html` file; it appears when it is complete.
    - `title`: its heading; left out, the pipeline's name.
    """
    taken: list[tuple[Row, dict[str, dict[str, Any]]]] = []
    every: list[Row] = []
    records: dict[str, dict[str, Any]] = {}
    async for row in rows:
        found = await anyio.to_thread.run_sync(_records, row, records, ctx)
        every.append(row)
        taken.append((row, found))
    names = _names(every)
    trainings = _trainings(taken, names)
    measured = [
        Measured(name, str(of), numbers)
        for row, name in zip(every, names, strict=True)
        for of, numbers in _accuracy(row).items()
    ]
    if not trainings and not measured:
        fields = ", ".join(dict.fromkeys(name for row in every for name in row)) or "none"
        raise ValueError(
            f"no row has a trained model or an `accuracy`, so there is nothing to report (fields: "
            f"{fields}; rows: {len(every)}): put the report after a stage such as `train.reward`"
        )
    text = page(trainings, measured, title=title or ctx.pipeline or "Training", stage=ctx.stage_key)
    await anyio.to_thread.run_sync(_write, path, text)


@fields_of(report)
def report_fields(upstream: Mapping[str, Any], *, path: Path, title: str) -> Mapping[str, Any]:
    """Return nothing. Raises ValueError for a path that is no page, or rows without models."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path: {path.name!r} is no page: end it in .html")
    hints = [strip_annotated(hint) for hint in upstream.values()]
    if upstream and "accuracy" not in upstream and not {Artifact, Any} & {*hints}:
        raise ValueError(
            f"no row has a model, an Artifact (rows have: {', '.join(upstream)}): put the report "
            "after a stage such as `train.reward`"
        )
    return {}


def _records(row: Row, known: dict[str, dict[str, Any]], ctx: Context) -> dict[str, dict[str, Any]]:
    """Return the training records of a row's models, by field; each folder is read once."""
    found = {}
    for name, value in row.fields.items():
        if not isinstance(value, Artifact) or not value.folder:
            continue
        if value.digest not in known:
            file = ctx.blobs.path(value) / RECORD
            if not file.is_file():
                continue  # a dataset's folder, say
            known[value.digest] = _read(file, f"row {row.row_id[:12]}, {name}")
        found[name] = known[value.digest]
    return found


def _read(file: Path, where: str) -> dict[str, Any]:
    try:
        record = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{where}: the model's {RECORD} is no JSON ({error})") from None
    if not isinstance(record, dict) or "method" not in record:
        raise ValueError(
            f"{where}: the model's {RECORD} does not say its `method`: it was not written by a "
            "stage of `train`"
        )
    return record


def _accuracy(row: Row) -> Mapping[str, Mapping[str, Any]]:
    """Return what `train.evaluate` found. Raises ValueError for what is something else."""
    found = plain(row.fields.get("accuracy")) or {}
    for name, numbers in found.items():
        if not isinstance(numbers, dict) or not {"n", "accuracy"} <= numbers.keys():
            raise ValueError(
                f"row {row.row_id[:12]}: `accuracy` has no `n` and `accuracy` for {name!r}: give "
                "what `train.evaluate` gives, or rename it with `take: {accuracy: FIELD}`"
            )
    return found  # type: ignore[no-any-return]


def _names(rows: Sequence[Row]) -> list[str]:
    """Return what tells each row from the others: the first fields whose values do."""
    chosen: list[str] = []
    kinds = 1
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.fields.get(name) for row in rows]
        if not all(isinstance(v, (str, int, float)) and len(str(v)) <= LONGEST for v in values):
            continue
        count = len({tuple(str(row[n]) for n in (*chosen, name)) for row in rows})
        if count > kinds:
            chosen, kinds = [*chosen, name], count
    names = [", ".join(f"{name} {row[name]}" for name in chosen) for row in rows]
    if kinds < len(rows):
        return [f"{name}, row {at}" if name else f"row {at}" for at, name in enumerate(names, 1)]
    return names


def _trainings(
    taken: Sequence[tuple[Row, Mapping[str, dict[str, Any]]]], names: Sequence[str]
) -> list[Training]:
    """Return each model's training once, in order; a model of several rows bears no row's name."""
    places: dict[str, tuple[str, list[int], dict[str, Any]]] = {}
    for at, (row, found) in enumerate(taken):
        for field, record in found.items():
            _, rows, _ = places.setdefault(row[field].digest, (field, [], record))
            if at not in rows:
                rows.append(at)
    fields = {field for field, _, _ in places.values()}
    labels = [
        ", ".join(
            part
            for part in (
                field if len(fields) > 1 or len(rows) > 1 or not names[rows[0]] else "",
                names[rows[0]] if len(rows) == 1 else "",
            )
            if part
        )
        for field, rows, _ in places.values()
    ]
    return [
        Training(label if labels.count(label) == 1 else f"{label} ({digest[:6]})", record)
        for label, (digest, (_, _, record)) in zip(labels, places.items(), strict=True)
    ]


def _write(path: Path, text: str) -> None:
    """Put a page in its place, whole and durable; leave one alone that holds these bytes."""
    data = text.encode("utf-8", "replace")  # a lone surrogate has no UTF-8
    if path.is_dir():
        raise ValueError(f"{path.name} is a folder: name a file in it")
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name}.", suffix=".part", dir=path.parent
    ) as folder:
        new = Path(folder) / path.name
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
