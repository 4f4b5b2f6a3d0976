"""The finished rows of a run, written as its sinks would have written them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.accounting import set_earlier
from engine.context import Ancestor, Context
from engine.datasets.writing import write, write_fields
from engine.errors import InputError, nearest
from engine.past import Past, counters_of
from engine.pipeline import Pipeline
from engine.rows import Row
from engine.services import Counters
from engine.store.protocol import RunRecord
from engine.wiring import WiredStage, needed

__all__ = ["Export", "exports"]


@dataclass(frozen=True, slots=True)
class Export:
    """One file or folder to be written."""

    path: Path
    writer: str
    """The sink, as a card names it."""
    stage: str
    """The stage whose finished rows are written."""
    config: dict[str, Any]
    fields: dict[str, Any]
    upstream: tuple[str, ...]

    async def write(self, past: Past, record: RunRecord) -> int:
        """Write the run's finished rows, in order; return how many. Raises InputError."""
        pipeline = past.require()
        counts = counters_of(record.summary)
        set_earlier(counts, past.store.runs(), record.id)
        context = Context(
            self.writer,
            fields=self.fields,
            pipeline=pipeline.name,
            upstream={
                key: Ancestor(pipeline.stages[key].spec.name, counts.get(key, Counters()))
                for key in self.upstream
            },
        )
        written = 0

        async def rows() -> AsyncIterator[Row]:
            nonlocal written
            for row in past.store.rows(fate="finished", run=record.id):
                if row.stage == self.stage:
                    written += 1
                    yield Row.of(row.fields, row.row_id, row.order)

        try:
            await write(rows(), **self.config, ctx=context)
        except ValueError as error:
            raise InputError(f"{self.path}: {error}") from error
        return written


def exports(pipeline: Pipeline, stage: str | None, to: Path | None) -> list[Export]:
    """Return what is to be written: the pipeline's datasets, or one file of one stage's rows.

    `stage` is a sink, or a stage whose rows finish. Raises InputError where there is none, and
    where it must be said which.
    """
    sinks = [w for w in pipeline.stages.values() if w.spec.func is write]
    if stage is not None:
        sinks = [w for w in sinks if w.key == stage or w.upstream[:1] == (stage,)]
    if to is None:
        if not sinks:
            where = f"stage {stage!r} feeds" if stage else f"{pipeline.file} has"
            raise InputError(f"{where} no `dataset.write` that says what to write: give --to PATH")
        for wired in sinks:
            _check_apart(pipeline, wired.upstream[0])
        return [_as_sink(pipeline, wired) for wired in sinks]
    ends = list(dict.fromkeys(_ends(pipeline)))
    if stage is None and len(ends) > 1:
        raise InputError(f"rows finish at several stages: give --stage ({', '.join(ends)})")
    if stage in pipeline.stages and pipeline.stages[stage].spec.is_sink:
        stage = pipeline.stages[stage].upstream[0]
    chosen = stage if stage is not None else ends[0]
    if chosen not in ends:
        raise InputError(
            f"no rows finish at a stage {chosen!r}"
            + nearest(chosen, ends, say="; did you mean {!r}?")
            + f" (they finish at: {', '.join(ends)})"
        )
    _check_apart(pipeline, chosen)
    return [_to_path(pipeline, chosen, sinks, to)]


def _check_apart(pipeline: Pipeline, stage: str) -> None:
    """Refuse rows that a manifest keeps under one stage, though two inputs begin with it."""
    sinks = [w for w in pipeline.stages.values() if w.spec.is_sink and w.upstream[0] == stage]
    if len({wired.source for wired in sinks}) > 1:
        keys = " and ".join(wired.key for wired in sinks)
        raise InputError(
            f"the rows of {keys} cannot be told apart, as both begin with those of {stage}: "
            "`engine run` writes them from the store"
        )


def _ends(pipeline: Pipeline) -> Iterator[str]:
    """Yield the stages whose rows finish, as a manifest names them."""
    for key, wired in pipeline.stages.items():
        if wired.spec.is_sink:
            yield wired.upstream[0]
        elif not pipeline.readers(key):
            yield key


def _as_sink(pipeline: Pipeline, wired: WiredStage) -> Export:
    config = wired.config | {"hub": None}  # nothing is pushed that was not asked for
    leading = needed(pipeline.stages, wired.upstream)
    upstream = tuple(key for key in pipeline.stages if key in leading)
    source, fields = wired.upstream[0], wired.inputs[""]
    return Export(config["path"], wired.key, source, config, fields, upstream)


def _to_path(pipeline: Pipeline, stage: str, sinks: list[WiredStage], to: Path) -> Export:
    """Write to a path of the user's: the columns are those of a dataset of these rows, if any."""
    mine = next((w for w in sinks if w.upstream[:1] == (stage,)), None)
    fields = mine.inputs[""] if mine is not None else pipeline.stages[stage].fields
    columns = mine.config["fields"] if mine is not None else ()
    config: dict[str, Any] = {
        "path": to.absolute(),
        "format": None if to.suffix else "datasets",
        "fields": columns,
        "hub": None,
        "private": True,
        "license": None,
        "tags": (),
    }
    try:
        write_fields(fields, **config)
    except ValueError as error:
        raise InputError(f"--to {to}: {error}") from error
    leading = needed(pipeline.stages, (stage,))
    upstream = tuple(key for key in pipeline.stages if key in leading)
    writer = mine.key if mine is not None else "export"
    return Export(to, writer, stage, config, fields, upstream)
