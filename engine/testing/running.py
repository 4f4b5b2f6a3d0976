"""One stage, run as a pipeline would run it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from engine.errors import nearest
from engine.loader import Document
from engine.pipeline import read_pipeline
from engine.resources import Resource
from engine.rows import Artifact, Row, row_fields
from engine.runs import Run, open_run
from engine.services import Blobs, Counters
from engine.stages import Context, Read, StageSpec, fields_of, stage, stage_spec
from engine.testing.blobs import Kept, holds_blob, stored
from engine.testing.fakes import FakeChat
from engine.views import rows_html

__all__ = ["StageRows", "collect", "open_stage", "run_stage"]

T = TypeVar("T")
Rows = Iterable[Row | Mapping[str, Any]]


class StageRows(list[Row]):
    """The rows that a stage passed on (for a sink: those that it took), in order."""

    rejected: Counter[str]
    """Reason -> how many rows were dropped with it."""
    counters: Counters
    """The stage's counters."""
    _kept: Kept

    def path(self, artifact: Artifact) -> Path:
        """Return where the file or folder of an Artifact in these rows lies, as long as they live.

        Raises KeyError for an Artifact that is in none of them.
        """
        return self._kept.path(artifact)

    def _repr_html_(self) -> str:
        return rows_html(self, self.rejected)


async def run_stage(
    stage: Callable[..., Any],
    rows: Rows | Mapping[str, Rows] = (),
    /,
    *,
    options: Mapping[str, Any] | None = None,
    **config: Any,
) -> StageRows:
    """Run one stage on rows as a pipeline would, in memory, and return the rows that come out.

    `rows` are Rows or mappings, whose values are read as the types that the stage declares; for a
    join, a mapping from its parameters to rows. A Blob in them is an Artifact to the stage; `path`
    of what is returned leads to the files of those that it made. `config` are the stage's
    keyword-only parameters: resources (a FakeChat, say), which the run opens and closes, and what
    would stand under `with:`. `options` are the other keys of a stage in YAML: `{"batch": 2}`.

    Raises PipelineError for rows or configuration that do not fit, and StageError (with its cause)
    when the stage fails on a row; a rejected row is counted in `rejected`.
    """
    async with open_stage(stage, rows, options=options, **config) as run:
        found = await collect(run)
        made = StageRows(sorted(found, key=lambda row: row._order))
        made.counters = run.counters[_key(stage_spec(stage))]
        made.rejected = made.counters.reasons
        made._kept = Kept()
        for row in made:
            made._kept.keep(row.fields, _blobs(run))
        return made


async def collect(items: AsyncIterable[T]) -> list[T]:
    """Return what is iterated as a list: a source, an expand, a stream or a Run."""
    return [item async for item in items]


def open_stage(
    stage: Callable[..., Any],
    rows: Rows | Mapping[str, Rows] = (),
    /,
    *,
    options: Mapping[str, Any] | None = None,
    endless: bool = False,
    **config: Any,
) -> Run:
    """Return the Run of one stage, to be entered; as `run_stage`, which runs it to its end.

    `endless` lets it wait for more rows than it is given.
    """
    spec = stage_spec(stage)
    _check_names(spec, config)
    resources = {name: config[name] for name in spec.resources if config.get(name) is not None}
    _check_resources(spec, resources)
    plain = {name: config[name] for name in spec.config if name in config}
    own: dict[str, Any] = {
        "use": spec.name,
        "with": to_jsonable_python(plain) | {name: name for name in resources},
        "on_error": "fail",
    }
    plugins: list[Any] = [stage]
    stages: dict[str, Any] = {}
    if spec.kind != "source":
        inputs = _inputs(spec, rows)
        for name, (reads, items) in inputs.items():
            plugins.append(_source(f"{name}_given.rows", reads, items, endless))
            stages[f"{name}-given"] = {"use": f"{name}_given.rows"}
        own["from"] = _from(spec, inputs)
    elif rows:
        raise TypeError(f"{spec.name} is a source: it reads no rows")
    value = {
        "name": "run_stage",
        "resources": {name: {"use": f"{name}.given"} for name in resources},
        "stages": stages | {_key(spec): own | dict(options or {})},
    }
    document = Document("run_stage", Path.cwd(), value)
    pipeline = read_pipeline(document, plugins=plugins, resources=resources)
    pipeline.given = frozenset()  # the run opens and closes them
    return open_run(pipeline, store=":memory:")


def _blobs(run: Run) -> Blobs:
    assert run.store is not None
    return run.store.blobs


def _key(spec: StageSpec) -> str:
    return spec.name.split(".")[1]


def _check_names(spec: StageSpec, config: Mapping[str, Any]) -> None:
    known = [*spec.resources, *spec.config]
    for name in config:
        if name not in known:
            near = nearest(name, known, say="; did you mean {!r}?")
            raise TypeError(
                f"{spec.name} has no parameter {name!r}{near} (it has: {', '.join(known)})"
            )


def _check_resources(spec: StageSpec, given: Mapping[str, Any]) -> None:
    for name, need in spec.resources.items():
        if name not in given and not need.optional:
            fake = "FakeChat()" if need.cls in FakeChat.__mro__ else f"a {need.cls.__name__}"
            raise TypeError(f"{spec.name} needs a {need.cls.__name__}: give {name}={fake}")
    for name, value in given.items():
        if Resource not in type(value).__mro__:
            wanted = spec.resources[name].cls.__name__
            raise TypeError(f"{spec.name} takes {name} as a {wanted}, not {value!r}")


Inputs = Mapping[str, tuple[Mapping[str, Read], list[Row]]]


def _inputs(spec: StageSpec, rows: Any) -> Inputs:
    """Return, for each input, the fields read and the rows; the one of most stages is `rows`."""
    if not spec.is_join:
        reads = {read.name: read for read in spec.reads}
        return {"rows": (reads, _rows(spec, reads, rows))}
    if not isinstance(rows, Mapping) or set(rows) != set(spec.row_parameters):
        wanted = " and ".join(spec.row_parameters)
        raise TypeError(f"{spec.name} is a join: give rows as a mapping with {wanted}")
    joined = {}
    for name, cls in spec.row_parameters.items():
        reads = {read.name: read for read in row_fields(cls)}
        joined[name] = (reads, _rows(spec, reads, rows[name]))
    return joined


def _from(spec: StageSpec, inputs: Inputs) -> Any:
    return {name: f"{name}-given" for name in inputs} if spec.is_join else "rows-given"


def _rows(spec: StageSpec, reads: Mapping[str, Read], rows: Any) -> list[Row]:
    if isinstance(rows, (Row, str, Mapping)):
        raise TypeError(f"the rows of {spec.name} are a list: write [row]")
    return [_row(spec, reads, number, row) for number, row in enumerate(rows, 1)]


def _row(spec: StageSpec, reads: Mapping[str, Read], number: int, row: Any) -> Row:
    if isinstance(row, Row):
        return row
    if not isinstance(row, Mapping):
        raise TypeError(f"row {number} of {spec.name} is neither a Row nor a mapping: {row!r}")
    fields = dict(row)
    for name, read in reads.items():
        if holds_blob(fields.get(name)):
            continue
        if name in fields:
            try:
                fields[name] = TypeAdapter(read.type).validate_python(fields[name])
            except ValidationError as error:
                first = error.errors()[0]
                raise TypeError(
                    f"row {number} of {spec.name}, {name}: {first['msg']}, not {first['input']!r}"
                ) from None
        elif read.required:
            near = nearest(name, fields, say="; did you mean {!r}?")
            raise TypeError(f"row {number} of {spec.name} lacks the field {name!r}{near}")
    return Row.of(fields)


def _source(
    name: str, reads: Mapping[str, Read], rows: list[Row], endless: bool
) -> Callable[..., AsyncIterator[Row]]:
    """Return a source of these rows, whose fields have the types that are read."""

    @stage(name)
    async def source(*, ctx: Context) -> AsyncIterator[Row]:
        for row in rows:
            blobs = holds_blob(row.fields)
            yield Row.of(stored(row.fields, ctx.blobs)) if blobs else row
        if endless:
            await anyio.sleep_forever()

    @fields_of(source)
    def fields(upstream: Mapping[str, Any]) -> Mapping[str, Any]:
        shared = [dict(row.fields) for row in rows] or [dict.fromkeys(reads)]
        names = [n for n in shared[0] if all(n in fields for fields in shared)]
        return {n: reads[n].type if n in reads else Any for n in names}

    return source
