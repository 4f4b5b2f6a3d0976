"""A pipeline: its file, read, wired into stages and checked before a token is spent."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic.errors import PydanticUserError

from engine.checks import check_counted, check_priced, check_written, listed, unread
from engine.errors import EngineError, InputError, PipelineError, nearest
from engine.fieldflow import FieldFlow
from engine.fingerprint import stage_parts
from engine.forecast import forecast
from engine.loader import Document, Place, load, override
from engine.plugins import Plugins, local_stage
from engine.resources import Resource, ResourceSpec
from engine.settings import is_input, map_paths, may_be_folder
from engine.shape import PipelineModel, ResourceModel, StageModel, read_shape, validated
from engine.signature import ResourceNeed
from engine.stages import StageSpec
from engine.typecheck import show
from engine.wiring import Source, WiredStage, in_order, needed, source_of

__all__ = ["Pipeline", "Source", "WiredStage", "read_pipeline"]


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
    given: frozenset[str] = frozenset()
    """Keys of the resources that the caller gave, and opens and closes itself."""
    notes: list[str] = field(default_factory=list)
    """What `validate` tells besides errors: optional fields that nothing makes, idle settings."""

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
        return [k for k, wired in self.stages.items() if key in wired.upstream]

    def _repr_html_(self) -> str:
        from engine.views import pipeline_html  # for notebooks alone

        return pipeline_html(self)


def read_pipeline(
    source: str | os.PathLike[str] | Document,
    *,
    overrides: Iterable[str] = (),
    plugins: Sequence[object] = (),
    resources: Mapping[str, Resource] | None = None,
    replaced: str | None = None,
    replace_first: bool = False,
) -> Pipeline:
    """Read, wire and check a pipeline.

    `overrides` are `--set` assignments; `plugins` are namespaces, stages, resource classes, or
    modules and objects with hooks; `resources` take the place of declared ones; `replaced` names
    the stage whose output is given as `inputs=` (`replace_first`: the first). Raises PipelineError
    (file, line, column), PluginError or DefinitionError; nothing has been written then.
    """
    document = source if isinstance(source, Document) else load(source)
    for assignment in overrides:
        document = override(document, assignment)
    model = read_shape(document)
    into = next(iter(model.stages)) if replace_first else replaced
    if into is not None and into not in model.stages:
        raise PipelineError(
            f"there is no stage {into!r} to put the inputs into"
            + nearest(into, model.stages, say="; did you mean {!r}?"),
            file=document.file,
        )
    parts = _Parts(document, model, plugins, resources or {})
    stages = parts.stages()
    order = in_order(stages)
    notes = _followed(stages, order)
    if into is not None:
        if stages[into].spec.is_sink:
            raise stages[into].place.error(
                f"{stages[into].label} is a sink: it has no output that inputs could replace",
                key=True,
            )
        finishing = unread(stages)
        stages[into].source = None  # it reads nothing, and passes on the fields that it would have
        kept = needed(stages, finishing)  # what fed only this stage would finish rows of its own
        stages = {key: wired for key, wired in stages.items() if key in kept}
        order = tuple(key for key in order if key in kept)
        notes = _followed(stages, order)
    check_counted(document, model, stages)
    check_priced(document, model, resources or {})
    check_written(stages.values())
    forecast(stages, order, parts.resources)
    for wired in stages.values():
        identities = {name: parts.identities[key] for name, key in wired.resources.items()}
        given_to = wired.place / "with"
        secret = [name for name in wired.config if (given_to / name).from_environment]
        parts_of = stage_parts(wired.spec, wired.key, wired.config, identities, model.seed, secret)
        wired.fingerprint, wired.made_of = parts_of.fingerprint, parts_of.made_of
    notes += [note for wired in stages.values() for note in _idle(wired)]
    given = frozenset(resources or ())
    return Pipeline(document, model, parts.plugins, parts.resources, stages, order, given, notes)


def _followed(stages: Mapping[str, WiredStage], order: Iterable[str]) -> list[str]:
    """Follow the fields through all stages; return what is worth a note."""
    flow = FieldFlow(stages)
    for key in order:
        flow.follow(stages[key])
    return flow.notes


class _Parts:
    """The parts that a file names: plugins, resources, stages; each found and configured."""

    def __init__(
        self,
        document: Document,
        model: PipelineModel,
        plugins: Sequence[object],
        given: Mapping[str, Resource],
    ) -> None:
        self.document, self.model, self.plugins = document, model, Plugins()
        for plugin in plugins:  # before the file's: a given one takes the installed one's place
            self.plugins.add(plugin)
        for i, namespace in enumerate(model.plugins):
            with document.at("plugins", i).blamed():
                self.plugins.load(namespace)
        _check_given(document, model, given)
        self.identities = {key: resource.identity for key, resource in given.items()}
        self.resources = {
            key: given[key] if key in given else self._resource(key, m)
            for key, m in model.resources.items()
        }

    def stages(self) -> dict[str, WiredStage]:
        """Find, configure and wire the stages, in the file's order."""
        stages: dict[str, WiredStage] = {}
        before: Source | None = None
        for key, model in self.model.stages.items():
            wired = stages[key] = self._stage(key, model, before)
            before = wired.source if wired.spec.is_sink else Source("one", (key,))
        return stages

    def _resource(self, key: str, model: ResourceModel) -> Resource:
        place = self.document.at("resources", key)
        with (place / "use").blamed():
            spec: ResourceSpec = self.plugins.resource(_name(model.use))
        label = f"resource {key} ({spec.name})"
        _check_known(label, model.with_, spec.config, place / "with")
        config = _configured(label, spec.config, model.with_, place / "with")
        try:
            resource: Resource = spec.cls(**config)
            self.identities[key] = resource.identity
        except (EngineError, ValueError, OSError) as error:
            raise place.error(f"{label}: {error}", key=True) from error
        return resource

    def _stage(self, key: str, model: StageModel, before: Source | None) -> WiredStage:
        place = self.document.at("stages", key)
        if not key.replace("-", "_").isidentifier():
            raise place.error(
                f"{key!r} is no stage key: write letters, digits, `_` and `-`, a letter first",
                key=True,
            )
        spec = self._spec(model.use, place / "use")
        label, given = f"stage {key} ({spec.name})", place / "with"
        _check_known(label, model.with_, {**spec.resources, **spec.config}, given)
        resources = {
            name: chosen
            for name, need in spec.resources.items()
            if (chosen := self._chosen(label, name, need, model.with_, given)) is not None
        }
        config = _configured(label, spec.config, model.with_, given)
        limits = self.model.limits.named
        if model.limit is not None and model.limit not in limits:
            raise (place / "limit").error(
                f"{label}: no limit {model.limit!r} is declared; "
                + (nearest(model.limit, limits) or f"write `limits: {{{model.limit}: 1}}` above")
                + f" (declared: {listed(limits)})"
            )
        keys = self.model.stages
        source = source_of(spec, model, place, label, keys=keys, before=before)
        return WiredStage(key, place, spec, model, config, resources, source)

    def _spec(self, use: str, place: Place) -> StageSpec:
        with place.blamed():
            if not use.startswith(("./", "../", "/")):
                return self.plugins.stage(_name(use, " or ./file.py:function"))
            file, _, name = use.rpartition(":")
            if not file.endswith(".py") or not name.isidentifier():
                raise InputError(f"{use!r} names no function: write ./file.py:function")
            return local_stage((place.folder / file).resolve(), name)

    def _chosen(
        self, label: str, name: str, need: ResourceNeed, given: Mapping[str, Any], place: Place
    ) -> str | None:
        """Return the key of the resource that a parameter takes, or None if it goes without."""
        wanted = need.cls.__name__
        key = given.get(name)
        if key is None:
            if need.optional:
                return None
            fitting = [k for k, r in self.resources.items() if need.cls in type(r).__mro__]
            hint = f"; {fitting[0]!r} would fit" if fitting else ": declare one under `resources:`"
            raise place.error(f"{label} needs a resource `{name}: {wanted}`{hint}", key=True)
        if not isinstance(key, str) or key not in self.resources:
            raise (place / name).error(
                f"{label}, {name}: there is no resource {key!r}"
                + nearest(str(key), self.resources, say="; did you mean {!r}?")
                + f" (declared: {listed(self.resources)})"
            )
        resource = self.resources[key]
        if need.cls not in type(resource).__mro__:
            raise (place / name).error(
                f"{label}, {name}: resource {key!r} is a {type(resource).__name__}, not a {wanted}"
            )
        can = sorted(getattr(resource, "can", ()))
        if lacking := [feature for feature in need.features if feature not in can]:
            raise (place / name).error(
                f"{label}, {name}: resource {key!r} has no {' and no '.join(lacking)} "
                f"(it has: {listed(can)})"
            )
        return key


def _check_given(document: Document, model: PipelineModel, given: Mapping[str, Resource]) -> None:
    """Refuse `resources=` that the file does not declare, or that are none."""
    for key, resource in given.items():
        if key not in model.resources:
            raise PipelineError(
                f"resources=: the pipeline declares no resource {key!r}"
                + nearest(key, model.resources, say="; did you mean {!r}?")
                + f" (declared: {listed(model.resources)})",
                file=document.file,
            )
        if Resource not in type(resource).__mro__:
            raise PipelineError(
                f"resources=: {key!r} is a {type(resource).__name__}, which does not derive from "
                "engine.Resource",
                file=document.file,
            )


def _name(use: str, otherwise: str = "") -> str:
    if use.count(".") != 1 or not all(part.isidentifier() for part in use.split(".")):
        raise InputError(f"{use!r} is no name: write namespace.name{otherwise}")
    return use


def _check_known(label: str, given: Mapping[str, Any], known: Iterable[str], place: Place) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            hint = nearest(name, known, say="; did you mean {!r}?")
            raise (place / name).error(
                f"{label} has no parameter {name!r}{hint} (it has: {listed(known)})", key=True
            )


def _configured(
    label: str,
    declared: Mapping[str, tuple[Any, Any]],
    given: Mapping[str, Any],
    place: Place,
) -> dict[str, Any]:
    """Return the configuration: values as their types want them, defaults, paths made absolute."""
    config = {}
    for name, (hint, default) in declared.items():
        here = place / name
        value = default
        if name in given:
            try:
                value = validated(hint, given[name], here, f"{label}, {name}")
            except PydanticUserError as error:
                raise here.error(
                    f"{label}, {name}: no YAML gives a value of type {show(hint)}: leave it out"
                ) from error
        elif default is inspect.Parameter.empty:
            raise place.error(f"{label} needs `{name}: {show(hint)}` under `with:`", key=True)

        def resolved(hint: Any, path: Path, here: Place = here, name: str = name) -> Path:
            full = here.folder / path.expanduser()
            folder = may_be_folder(hint)
            if is_input(hint) and not (full.is_file() or (folder and full.is_dir())):
                near = nearest(
                    full.name,
                    [p.name for p in full.parent.iterdir()] if full.parent.is_dir() else [],
                    say="; did you mean {!r}?",
                )
                kind = "file or folder" if folder else "file"
                raise here.error(f"{label}, {name}: there is no {kind} {str(path)!r}{near}")
            return full

        config[name] = map_paths(hint, value, resolved)
    return config


def _idle(wired: WiredStage) -> Iterable[str]:
    """Yield notes on settings that change nothing."""
    kind, given = wired.kind, wired.model.model_fields_set
    if "batch" in given and kind != "batch":
        yield f"{wired.label}: `batch:` has no effect: it is a {kind}"
    if "concurrency" in given and kind in ("source", "stream"):
        yield f"{wired.label}: `concurrency:` has no effect: a {kind} is one task"
    if wired.model.memo is not None and wired.model.memo != wired.recorded:
        what = "always" if wired.recorded else "never"
        yield f"{wired.label}: `memo:` has no effect: its results are {what} recorded"
