"""A pipeline: the YAML's models, wired into stages and checked before a token is spent."""

from __future__ import annotations

import graphlib
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from engine.errors import EngineError, PipelineError, nearest
from engine.fingerprint import stage_fingerprint
from engine.loader import Document, Path_, load, loads, override
from engine.plugins import Plugins, local_stage
from engine.resources import Resource
from engine.stages import Kind, Read, StageSpec, declared_fields, row_fields
from engine.typecheck import fits, show

__all__ = ["Pipeline", "Source", "WiredStage", "read_pipeline"]

Fields = dict[str, Any]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class ResourceModel(_Model):
    """One entry of `resources:`."""

    use: str
    with_: dict[str, Any] = Field({}, alias="with")


class StageModel(_Model):
    """One entry of `stages:`."""

    use: str
    with_: dict[str, Any] = Field({}, alias="with")
    from_: Any = Field(None, alias="from")
    take: dict[str, str] = {}
    give: dict[str, str] = {}
    concurrency: PositiveInt = 8
    batch: PositiveInt = 32
    retry: PositiveInt = 3
    timeout: PositiveFloat | None = None
    """Seconds for one attempt; waiting for a rate limit does not count."""
    limit: str | None = None
    memo: bool | None = None
    on_error: Literal["dead_letter", "fail"] = "dead_letter"


class LimitsModel(_Model):
    """`limits:` holds named concurrency limits, and bounds above which a run wants `--yes`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, PositiveInt]


class PipelineModel(_Model):
    """The whole file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    seed: NonNegativeInt = 0
    plugins: tuple[str, ...] = ()
    limits: LimitsModel = LimitsModel()
    max_dead: NonNegativeInt = 0
    count_by: tuple[str, ...] = ()
    """Fields of finished rows whose values the summary counts, such as `origin`."""
    resources: dict[str, ResourceModel] = {}
    stages: dict[str, StageModel] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a stage's rows come from.

    `form` is `one` (a stage), `concat` (all rows of each in turn), `all` (one row an id, fields
    united) or `join` (two streams; `names` are the parameters).
    """

    form: Literal["one", "concat", "all", "join"]
    stages: tuple[str, ...]
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class WiredStage:
    """A stage in its pipeline: configured, wired and checked."""

    key: str
    spec: StageSpec
    model: StageModel
    config: dict[str, Any]
    resources: dict[str, str]
    """Parameter name -> resource key."""
    source: Source | None
    inputs: dict[str, Fields] = field(default_factory=dict)
    """Input name ("" where there is one) -> fields."""
    fields: Fields = field(default_factory=dict)
    """The fields of the rows that it passes on."""
    writers: dict[str, str] = field(default_factory=dict)
    """Field -> the stage that wrote it last."""
    ids: str = ""
    """The stage that made the ids of the rows that it passes on."""
    fingerprint: bytes = b""

    @property
    def kind(self) -> Kind:
        """The stage's kind."""
        return self.spec.kind

    @property
    def recorded(self) -> bool:
        """Whether its results are memoised."""
        spec = self.spec
        if spec.kind == "source" or spec.is_sink:
            return False
        if spec.kind in ("map", "batch") and not (spec.resources or spec.context):
            return bool(self.model.memo)
        return True

    def taken(self, name: str) -> str:
        """Return the row field that the parameter or field `name` reads."""
        return self.model.take.get(name, name)

    def given(self, name: str) -> str:
        """Return the row field that the stage's field `name` is written to."""
        return self.model.give.get(name, name)


@dataclass(slots=True)
class Pipeline:
    """A checked pipeline, ready to run."""

    document: Document
    model: PipelineModel
    plugins: Plugins
    resources: dict[str, Resource]
    stages: dict[str, WiredStage]
    order: tuple[str, ...]
    """Stage keys, upstream first."""
    notes: list[str] = field(default_factory=list)
    """What `validate` tells besides errors: optional fields that nothing makes."""

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.model.name

    @property
    def file(self) -> str:
        """The file that it was read from."""
        return self.document.file

    def readers(self, key: str) -> list[str]:
        """Return the stages that read the rows of a stage."""
        return [k for k, s in self.stages.items() if s.source and key in s.source.stages]


def read_pipeline(
    source: str | os.PathLike[str] | Document,
    *,
    overrides: Iterable[str] = (),
    plugins: Sequence[str] = (),
    replaced: str | None = None,
    replace_first: bool = False,
) -> Pipeline:
    """Read, wire and check a pipeline.

    `overrides` are `--set` assignments; `replaced` names the stage whose output is given as
    `inputs=` (`replace_first`: the first). Raises PipelineError (file, line, column), PluginError
    or DefinitionError; nothing has been written then.
    """
    document = source if isinstance(source, Document) else load(source)
    for assignment in overrides:
        override(document, assignment)
    return _Wiring(document, plugins).wire(replaced, replace_first)


def parse_pipeline(text: str, *, folder: Path | None = None, file: str = "<pipeline>") -> Document:
    """Return the Document of a pipeline's text, for `read_pipeline`."""
    return loads(text, file=file, folder=folder)


class _Wiring:
    """One pass over a document, part by part; each part raises the first error that it finds."""

    def __init__(self, document: Document, plugins: Sequence[str]) -> None:
        self.document, self.extra_plugins = document, plugins
        self.plugins = Plugins()
        self.notes: list[str] = []

    def error(self, path: Path_, message: str, *, key: bool = False) -> PipelineError:
        return self.document.error(path, message, key=key)

    def wire(self, replaced: str | None, replace_first: bool) -> Pipeline:
        self.model = self._validated()
        for i, namespace in enumerate(self.model.plugins):
            self._blamed(("plugins", i), self.plugins.load, namespace)
        for namespace in self.extra_plugins:
            self.plugins.load(namespace)
        resources = {key: self._resource(key, m) for key, m in self.model.resources.items()}
        self.resources = resources
        stages: dict[str, WiredStage] = {}
        previous: str | None = None
        first = next(iter(self.model.stages))
        into = first if replace_first else replaced
        if into is not None and into not in self.model.stages:
            raise PipelineError(
                f"there is no stage {into!r} to put the inputs into"
                + nearest(into, self.model.stages, say="; did you mean {!r}?"),
                file=self.document.file,
            )
        for key, model in self.model.stages.items():
            stages[key] = self._stage(key, model, previous)
            if not stages[key].spec.is_sink:
                previous = key
            elif stages[key].source is not None and previous is None:
                previous = stages[key].source.stages[0]  # type: ignore[union-attr]
        order = self._order(stages)
        self.stages = stages
        for key in order:
            self._flow(stages[key], replaced=key == into)
        for wired in stages.values():
            identities = {name: resources[r].identity for name, r in wired.resources.items()}
            wired.fingerprint = stage_fingerprint(
                wired.spec, wired.key, wired.config, identities, self.model.seed
            )
        return Pipeline(
            self.document, self.model, self.plugins, resources, stages, order, self.notes
        )

    # --- the file's shape -------------------------------------------------------------------

    def _validated(self) -> PipelineModel:
        value = self.document.value
        if value is None:
            raise PipelineError(
                "the file is empty: a pipeline has `name:` and `stages:`", file=self.document.file
            )
        if not isinstance(value, dict):
            raise self.error(
                (), f"a pipeline is a mapping with `name:` and `stages:`, not {_kind(value)}"
            )
        try:
            return PipelineModel.model_validate(value)
        except ValidationError as error:
            raise self._shape_error(error) from None

    def _shape_error(self, error: ValidationError) -> PipelineError:
        first = error.errors()[0]
        path = tuple(p for p in first["loc"] if not (isinstance(p, str) and "[" in p))
        dotted = ".".join(map(str, path))
        match first["type"]:
            case "extra_forbidden":
                known = _known_keys(path)
                hint = nearest(str(path[-1]), known, say="did you mean {!r}? ")
                return self.error(
                    path, f"unknown key {path[-1]!r}: {hint}(known: {', '.join(known)})", key=True
                )
            case "missing":
                return self.error(path[:-1], f"the key {path[-1]!r} is missing", key=True)
            case "string_pattern_mismatch":
                return self.error(
                    path,
                    f"{dotted}: letters, digits, `_`, `.` and `-`, at most 64; not {first['input']!r}",
                )
            case "too_short":
                return self.error(path, f"{dotted}: it is empty: name at least one stage")
        message = first["msg"].removeprefix("Input should be ")
        return self.error(path, f"{dotted}: it should be {message}, not {_kind(first['input'])}")

    def _blamed(self, path: Path_, do: Any, *arguments: Any) -> Any:
        """Call, and give an error of the plugins the place in the file that asked for it."""
        try:
            return do(*arguments)
        except PipelineError:
            raise
        except EngineError as error:
            raise self.error(path, str(error)) from error

    # --- names and configuration ------------------------------------------------------------

    def _resource(self, key: str, model: ResourceModel) -> Resource:
        path: Path_ = ("resources", key)
        spec = self._blamed((*path, "use"), self._named, self.plugins.resource, model.use)
        config = self._config(spec.config, model.with_, (*path, "with"), f"resource {model.use}")
        try:
            resource: Resource = spec.cls(**config)
            _ = resource.identity
        except EngineError as error:
            raise self.error(path, str(error), key=True) from error
        except (ValueError, OSError) as error:
            raise self.error(path, f"resource {model.use}: {error}", key=True) from error
        return resource

    def _named(self, find: Any, use: str) -> Any:
        if use.count(".") != 1 or not all(part.isidentifier() for part in use.split(".")):
            raise PipelineErrorText(
                f"{use!r} is no name: write namespace.name, or ./file.py:function"
            )
        return find(use)

    def _spec(self, key: str, use: str) -> StageSpec:
        if use.startswith(("./", "../", "/")):
            file, colon, name = use.rpartition(":")
            if not colon or not file.endswith(".py"):
                raise self.error(("stages", key, "use"), f"{use!r}: write ./file.py:function")
            path = self._folder(("stages", key, "use")) / file
            return self._blamed(("stages", key, "use"), local_stage, path.resolve(), name)  # type: ignore[no-any-return]
        return self._blamed(("stages", key, "use"), self._named, self.plugins.stage, use)  # type: ignore[no-any-return]

    def _folder(self, path: Path_) -> Path:
        return Path.cwd() if path in self.document.overridden else self.document.folder

    def _config(
        self,
        declared: Mapping[str, tuple[Any, Any]],
        given: Mapping[str, Any],
        path: Path_,
        what: str,
    ) -> dict[str, Any]:
        for name in given:
            if name not in declared:
                hint = nearest(name, declared, say="; did you mean {!r}?")
                known = f" (it has: {', '.join(declared)})" if declared else " (it has none)"
                raise self.error(
                    (*path, name), f"{what} has no parameter {name!r}{hint}{known}", key=True
                )
        config = {}
        for name, (hint, default) in declared.items():
            if name not in given:
                if default is inspect.Parameter.empty:
                    raise self.error(
                        path, f"{what} needs `{name}: {show(hint)}` under `with:`", key=True
                    )
                config[name] = default
                continue
            value = self._value(hint, given[name], (*path, name), what)
            config[name] = value
        return config

    def _value(self, hint: Any, given: Any, path: Path_, what: str) -> Any:
        try:
            value = TypeAdapter(hint).validate_python(given)
        except ValidationError as error:
            first = error.errors()[0]
            inner = tuple(p for p in first["loc"] if isinstance(p, int) or p in str(given))
            message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            raise self.error(
                (*path, *inner),
                f"{what}, {path[-1]}: it should be {message}, not {_kind(first['input'])}",
            ) from None
        if isinstance(value, Path):
            value = self._folder(path) / value.expanduser()
            if _is_input(hint) and not value.is_file():
                raise self.error(path, f"{what}, {path[-1]}: there is no file {given!r}")
        return value

    # --- wiring -----------------------------------------------------------------------------

    def _stage(self, key: str, model: StageModel, previous: str | None) -> WiredStage:
        path: Path_ = ("stages", key)
        if not key.replace("-", "_").isidentifier():
            raise self.error(
                path, f"{key!r} is no stage key: letters, digits, `_` and `-`", key=True
            )
        spec = self._spec(key, model.use)
        what = f"stage {key} ({spec.name})"
        given = dict(model.with_)
        resources: dict[str, str] = {}
        for name, (wanted, optional) in spec.resources.items():
            chosen = given.pop(name, None)
            if chosen is None:
                if optional:
                    continue
                candidates = (
                    [k for k, r in self.resources.items() if isinstance(r, wanted)]
                    if _checkable(wanted)
                    else []
                )
                hint = f"; the resource {candidates[0]!r} fits" if candidates else ""
                raise self.error(
                    (*path, "with"),
                    f"{what} needs a resource `{name}: {wanted.__name__}`{hint}",
                    key=True,
                )
            if not isinstance(chosen, str) or chosen not in self.resources:
                hint = nearest(str(chosen), self.resources, say="; did you mean {!r}?")
                known = ", ".join(self.resources) or "none"
                raise self.error(
                    (*path, "with", name),
                    f"{what}, {name}: no resource {chosen!r}{hint} (declared: {known})",
                )
            if wanted not in type(self.resources[chosen]).__mro__:
                raise self.error(
                    (*path, "with", name),
                    f"{what}, {name}: resource {chosen!r} is a {type(self.resources[chosen]).__name__}, "
                    f"not a {wanted.__name__}",
                )
            resources[name] = chosen
        config = self._config(spec.config, given, (*path, "with"), what)
        if model.limit is not None and model.limit not in (self.model.limits.model_extra or {}):
            known = ", ".join(self.model.limits.model_extra or {}) or "none"
            raise self.error(
                (*path, "limit"),
                f"{what}: no limit {model.limit!r} under `limits:` (declared: {known})",
            )
        return WiredStage(
            key, spec, model, config, resources, self._source(key, spec, model, previous)
        )

    def _source(
        self, key: str, spec: StageSpec, model: StageModel, previous: str | None
    ) -> Source | None:
        path: Path_ = ("stages", key, "from")
        given = model.from_
        what = f"stage {key} ({spec.name})"
        if spec.kind == "source":
            if given is not None:
                raise self.error(
                    path, f"{what} is a source: it reads no rows, so it has no `from:`", key=True
                )
            return None
        join = len(spec.row_parameters) == 2 and spec.kind == "stream"
        source: Source
        match given:
            case None if previous is None:
                raise self.error(
                    ("stages", key),
                    f"{what} reads rows, but no stage stands before it: begin with a source, or say `from:`",
                    key=True,
                )
            case None:
                source = Source("one", (previous,))
            case str():
                source = Source("one", (given,))
            case list() if given and all(isinstance(name, str) for name in given):
                source = Source("concat", tuple(given))
            case {"all": list() as names} if (
                len(given) == 1 and len(names) > 1 and all(isinstance(n, str) for n in names)
            ):
                source = Source("all", tuple(names))
            case dict() if (
                join
                and set(given) == set(spec.row_parameters)
                and all(isinstance(v, str) for v in given.values())
            ):
                source = Source(
                    "join", tuple(given[n] for n in spec.row_parameters), tuple(spec.row_parameters)
                )
            case dict() if join:
                names = ", ".join(f"{n}: STAGE" for n in spec.row_parameters)
                raise self.error(path, f"{what} is a join: write `from: {{{names}}}`")
            case _:
                raise self.error(
                    path,
                    f"{what}: `from:` is a stage, a list of stages, {{all: [a, b]}}, or for a join "
                    f"{{parameter: stage}}; not {_kind(given)}",
                )
        if join and source.form != "join":
            names = ", ".join(f"{n}: STAGE" for n in spec.row_parameters)
            raise self.error(
                path if given is not None else ("stages", key),
                f"{what} is a join of two streams: write `from: {{{names}}}`",
                key=given is None,
            )
        for i, name in enumerate(source.stages):
            if name not in self.model.stages:
                hint = nearest(name, self.model.stages, say="; did you mean {!r}?")
                at = (*path, i) if source.form == "concat" else path
                raise self.error(at, f"{what}: there is no stage {name!r}{hint}")
        if len(set(source.stages)) < len(source.stages) and source.form != "join":
            raise self.error(path, f"{what}: `from:` names a stage twice")
        return source

    def _order(self, stages: Mapping[str, WiredStage]) -> tuple[str, ...]:
        for key, wired in stages.items():
            for name in wired.source.stages if wired.source else ():
                if stages[name].spec.is_sink:
                    raise self.error(
                        ("stages", key, "from"),
                        f"stage {key}: {name!r} is a sink: it passes no rows on",
                    )
        graph = {k: set(w.source.stages) if w.source else set() for k, w in stages.items()}
        try:
            order = tuple(graphlib.TopologicalSorter(graph).static_order())
        except graphlib.CycleError as error:
            cycle = list(reversed(error.args[1]))
            raise self.error(
                ("stages", cycle[0], "from"), f"the stages form a circle: {' -> '.join(cycle)}"
            ) from None
        position = {key: i for i, key in enumerate(order)}
        return tuple(sorted(stages, key=position.__getitem__))

    # --- the flow of fields -----------------------------------------------------------------

    def _flow(self, wired: WiredStage, replaced: bool) -> None:
        """Give a stage its input and output fields, and check that each field read is there."""
        spec, key = wired.spec, wired.key
        path: Path_ = ("stages", key)
        if replaced:  # its output is given: it reads nothing
            wired.source = None
            wired.inputs = {}
        if wired.source is not None:
            self._inputs(wired)
        merged: Fields = {}
        for fields in wired.inputs.values():
            merged |= fields
        if wired.source is not None:
            self._check_reads(wired, path)
        for name in wired.model.give:
            if spec.adds is None or name not in {r.name for r in row_fields(spec.adds)}:
                made = [r.name for r in row_fields(spec.adds)] if spec.adds else []
                raise self.error(
                    (*path, "give", name),
                    f"stage {key} ({spec.name}) adds no field {name!r}"
                    + nearest(name, made, say="; did you mean {!r}?")
                    + (f" (it adds: {', '.join(made)})" if made else " (it adds none)"),
                    key=True,
                )
        added = self._added(wired, merged, path)
        fresh = spec.kind == "source" or (spec.kind == "stream" and spec.yields == "fresh")
        base = {} if fresh or replaced else merged
        if not fresh and not replaced:
            self._check_overwrites(wired, base, added, path)
        wired.fields = base | added
        upstream = [self.stages[name] for name in (wired.source.stages if wired.source else ())]
        writers = {} if fresh or not upstream else self._merged_writers(wired, upstream)
        wired.writers = writers | dict.fromkeys(added, key)
        if spec.kind in ("source", "expand") or fresh or replaced or not upstream:
            wired.ids = key
        elif wired.source is not None and wired.source.form == "concat":
            wired.ids = f"{key} (from a list)"
        else:
            wired.ids = upstream[0].ids

    def _inputs(self, wired: WiredStage) -> None:
        assert wired.source is not None
        source, path = wired.source, ("stages", wired.key, "from")
        ups = [self.stages[name] for name in source.stages]
        if source.form == "join":
            wired.inputs = {name: up.fields for name, up in zip(source.names, ups, strict=True)}
        elif source.form == "one":
            wired.inputs = {"": dict(ups[0].fields)}
        elif source.form == "concat":
            shared = set(ups[0].fields).intersection(*(up.fields for up in ups[1:]))
            wired.inputs = {
                "": {n: _union([up.fields[n] for up in ups]) for n in ups[0].fields if n in shared}
            }
        else:
            tokens = {up.ids for up in ups}
            if len(tokens) > 1:
                origins = ", ".join(f"{up.key}'s ids are made by {up.ids!r}" for up in ups)
                raise self.error(
                    path, f"stage {wired.key}: the ids of these branches cannot meet: {origins}"
                )
            self._merged_writers(wired, ups)
            fields: Fields = {}
            for up in ups:
                fields |= {
                    n: t for n, t in up.fields.items() if n not in fields or self._newer(up, n, ups)
                }
            wired.inputs = {"": fields}

    def _newer(self, up: WiredStage, name: str, ups: Sequence[WiredStage]) -> bool:
        """Return whether this branch's version of a field descends from the other branches'."""
        return all(
            name not in other.writers or other.writers[name] in self._ancestors(up.writers[name])
            for other in ups
        )

    def _ancestors(self, key: str) -> set[str]:
        found, todo = {key}, [key]
        while todo:
            wired = self.stages.get(todo.pop())
            for name in wired.source.stages if wired and wired.source else ():
                if name not in found:
                    found.add(name)
                    todo.append(name)
        return found

    def _merged_writers(self, wired: WiredStage, ups: Sequence[WiredStage]) -> dict[str, str]:
        source = wired.source
        assert source is not None
        if source.form != "all":
            return (
                dict.fromkeys(wired.inputs[""], wired.key)
                if source.form == "concat"
                else dict(ups[0].writers)
            )
        writers: dict[str, str] = {}
        for up in ups:
            for name, writer in up.writers.items():
                known = writers.setdefault(name, writer)
                if known == writer:
                    continue
                if known in self._ancestors(writer):
                    writers[name] = writer
                elif writer not in self._ancestors(known):
                    raise self.error(
                        ("stages", wired.key, "from"),
                        f"stage {wired.key}: the field {name!r} is written by {known!r} and by {writer!r}: "
                        "rename one with `give:`",
                    )
        return writers

    def _check_reads(self, wired: WiredStage, path: Path_) -> None:
        spec = wired.spec
        known_names = {r.name for r in spec.reads} | set(spec.positionals)
        for name in wired.model.take:
            if name not in known_names or name in spec.row_parameters:
                names = [r.name for r in spec.reads]
                raise self.error(
                    (*path, "take", name),
                    f"stage {wired.key} ({spec.name}) reads no field {name!r}"
                    + nearest(name, names, say="; did you mean {!r}?")
                    + (f" (it reads: {', '.join(names)})" if names else ""),
                    key=True,
                )
        if spec.kind == "stream":
            names = list(spec.row_parameters) if len(spec.row_parameters) == 2 else [""]
            for parameter, cls in zip(names, spec.row_parameters.values(), strict=True):
                for read in row_fields(cls):
                    self._check_read(wired, read, wired.inputs[parameter], path)
            return
        for read in spec.reads:
            self._check_read(wired, read, wired.inputs[""], path)

    def _check_read(self, wired: WiredStage, read: Read, fields: Fields, path: Path_) -> None:
        name, what = wired.taken(read.name), f"stage {wired.key} ({wired.spec.name})"
        renamed = read.name in wired.model.take
        at: Path_ = (*path, "take", read.name) if renamed else path
        if name not in fields:
            near = nearest(name, fields, say="; did you mean {!r}?")
            if not read.required:
                self.notes.append(
                    f"{what}: the optional field {name!r} is made by nothing upstream{near}"
                )
                return
            ups = ", ".join(wired.source.stages) if wired.source else ""
            have = (
                f" (rows from {ups} have: {', '.join(fields)})"
                if fields
                else f" (rows from {ups} declare no fields)"
            )
            take = (
                f" or rename one with `take: {{{read.name}: FIELD}}`"
                if fields and not renamed
                else ""
            )
            raise self.error(
                at,
                f"{what} reads {name!r}, which nothing upstream makes{near}{take}{have}",
                key=not renamed,
            )
        if not fits(fields[name], read.type):
            raise self.error(
                at,
                f"{what} reads {name!r} as {show(read.type)}, but upstream makes it {show(fields[name])}",
                key=not renamed,
            )

    def _added(self, wired: WiredStage, merged: Fields, path: Path_) -> Fields:
        spec = wired.spec
        declared = {r.name: r.type for r in row_fields(spec.adds)} if spec.adds else {}
        dynamic = declared_fields(spec.func)
        if dynamic is not None:
            try:
                declared = declared | dict(dynamic(merged, **wired.config))
            except EngineError as error:
                raise self.error(path, str(error), key=True) from error
            except (ValueError, OSError) as error:
                raise self.error(
                    (*path, "with"), f"stage {wired.key} ({spec.name}): {error}", key=True
                ) from error
        return {wired.given(name): hint for name, hint in declared.items()}

    def _check_overwrites(
        self, wired: WiredStage, base: Fields, added: Fields, path: Path_
    ) -> None:
        read = {wired.taken(r.name) for r in wired.spec.reads}
        for name in added:
            explicit = name in wired.model.give.values()
            if name in base and not explicit and name not in read and not wired.spec.reads_all:
                writer = next(
                    (
                        self.stages[u].writers.get(name)
                        for u in (wired.source.stages if wired.source else ())
                    ),
                    None,
                )
                raise self.error(
                    path,
                    f"stage {wired.key} ({wired.spec.name}) adds {name!r}, which {writer or 'upstream'!r} made "
                    f"already: write `give: {{{name}: NEW_NAME}}`, or `give: {{{name}: {name}}}` to replace it",
                    key=True,
                )


class PipelineErrorText(EngineError):
    """A message that still lacks its place; `_Wiring._blamed` gives it one."""


def _known_keys(path: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = PipelineModel
    if len(path) >= 3 and path[0] == "stages":
        model = StageModel
    elif len(path) >= 3 and path[0] == "resources":
        model = ResourceModel
    return [f.alias or n for n, f in model.model_fields.items()]


def _kind(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return repr(value)
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return type(value).__name__


def _union(hints: Sequence[Any]) -> Any:
    return hints[0] if all(h == hints[0] for h in hints) else Union[tuple(hints)]  # noqa: UP007


def _is_input(hint: Any) -> bool:
    from engine.fingerprint import _INPUT, marked

    return marked(hint, _INPUT)


def _checkable(cls: type) -> bool:
    return True
