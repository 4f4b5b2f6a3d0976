"""`train.report`: a sink that makes one page of trainings and of how good the models are."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

import anyio.to_thread

from engine import Artifact, Context, OutputPath, Row, fields_of, stage
from engine.rows import plain, strip_annotated
from engine_train.disk import sync
from engine_train.judging import Measured
from engine_train.pages import Training, page

__all__ = ["report"]

RECORD = "training.json"
LONGEST = 40  # characters of a value that can tell rows apart


@stage("train.report", version="1")
async def report(
    rows: AsyncIterable[Row], *, path: OutputPath, title: str = "", ctx: Context
) -> None:
    """Write one HTML page on the models of all rows: curves, accuracy, settings, alarms, data.

    Every field that holds a model of `train.sft`, `train.reward`, `train.dpo` or `train.grpo`
    counts, and every field that holds what `train.evaluate` gives, `accuracy` or what `give:` calls
    it. The page fetches nothing, so it can be sent as it is.

    - `path`: the page, an `.html` file; it appears when it is complete.
    - `title`: its heading; left out, the pipeline's name.
    """
    every: list[Row] = []
    records: dict[str, dict[str, Any]] = {}
    async for row in rows:
        await anyio.to_thread.run_sync(_read, row, records, ctx)
        every.append(row)
    names = _names(every)
    trainings = _trainings(every, names, records)
    measured = [
        Measured(", ".join(filter(None, [field, name])), str(of), numbers)
        for row, name in zip(every, names, strict=True)
        for field, found in _accuracies(row)
        for of, numbers in found.items()
    ]
    if not trainings and not measured:
        fields = ", ".join(dict.fromkeys(name for row in every for name in row)) or "none"
        raise ValueError(
            "no row has a trained model or what `train.evaluate` gives, so there is nothing to "
            f"report (fields: {fields}; rows: {len(every)}): put the report after a stage such as "
            "`train.reward`"
        )
    text = page(trainings, measured, title=title or ctx.pipeline or "Training", stage=ctx.stage_key)
    await anyio.to_thread.run_sync(_write, path, text)


@fields_of(report)
def report_fields(upstream: Mapping[str, Any], *, path: Path, title: str) -> Mapping[str, Any]:
    """Return nothing. Raises ValueError for a path that is no page, or rows without models."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path: {path.name!r} is no page: end it in .html")
    hints = [strip_annotated(hint) for hint in upstream.values()]
    if upstream and not any(hint in (Artifact, Any) or _is_mapping(hint) for hint in hints):
        raise ValueError(
            f"no row has a model, an Artifact (rows have: {', '.join(upstream)}): put the report "
            "after a stage such as `train.reward`"
        )
    return {}


def _is_mapping(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, Mapping)


def _read(row: Row, records: dict[str, dict[str, Any]], ctx: Context) -> None:
    """Add the training records of a row's models, by digest: each folder is read once."""
    for name, value in row.fields.items():
        if isinstance(value, Artifact) and value.folder and value.digest not in records:
            file = ctx.blobs.path(value) / RECORD
            if file.is_file():  # else it is another folder, such as a dataset
                records[value.digest] = _record(file, f"row {row.row_id[:12]}, {name}")


def _record(file: Path, where: str) -> dict[str, Any]:
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


def _accuracies(row: Row) -> Iterator[tuple[str, Mapping[str, Mapping[str, Any]]]]:
    """Yield what `train.evaluate` found, each with its field ("" for `accuracy`).

    Raises ValueError for an `accuracy` that is something else.
    """
    for field, value in row.fields.items():
        if not isinstance(value, Mapping) or not value:
            continue
        strange = [str(of) for of, numbers in value.items() if not _is_judged(numbers)]
        if not strange:
            yield "" if field == "accuracy" else field, plain(value)
        elif field == "accuracy":
            raise ValueError(
                f"row {row.row_id[:12]}: `accuracy` has no `n` and `accuracy` for {strange[0]!r}: "
                "give what `train.evaluate` gives, or call this field something else"
            )


def _is_judged(numbers: Any) -> bool:
    return isinstance(numbers, Mapping) and {"n", "accuracy"} <= numbers.keys()


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
    rows: Sequence[Row], names: Sequence[str], records: Mapping[str, dict[str, Any]]
) -> list[Training]:
    """Return each model's training once, in order; what several rows have bears no row's name."""
    found: dict[str, tuple[str, list[str]]] = {}  # digest -> its first field, the rows' names
    for row, name in zip(rows, names, strict=True):
        for field, value in row.fields.items():
            if isinstance(value, Artifact) and value.digest in records:
                _, of = found.setdefault(value.digest, (field, []))
                of += [name] * (name not in of)
    one_field = len({field for field, _ in found.values()}) == 1
    labels = []
    for field, of in found.values():
        name = of[0] if len(of) == 1 else ""
        labels.append(name if one_field and name else ", ".join(filter(None, [field, name])))
    return [
        Training(label if labels.count(label) == 1 else f"{label} ({digest[:6]})", records[digest])
        for label, digest in zip(labels, found, strict=True)
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
        new.write_bytes(data)
        sync(new)
        new.replace(path)
    sync(path.parent)
