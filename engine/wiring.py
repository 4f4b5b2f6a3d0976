"""The wiring: what each stage reads its rows from, and in which order stages can be checked."""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.errors import nearest
from engine.loader import Place
from engine.shape import StageModel
from engine.stages import Kind, StageSpec

__all__ = ["Source", "WiredStage", "in_order", "needed", "source_of"]

Fields = dict[str, Any]
"""Field -> type."""


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
    place: Place
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
    """What made the ids of the rows that it passes on."""
    fingerprint: bytes = b""
    made_of: Mapping[str, Any] = field(default_factory=dict)
    """What the fingerprint is made of, as plain JSON."""

    @property
    def kind(self) -> Kind:
        """The stage's kind."""
        return self.spec.kind

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"stage {self.key} ({self.spec.name})"

    @property
    def upstream(self) -> tuple[str, ...]:
        """The stages that it reads."""
        return self.source.stages if self.source else ()

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


def source_of(
    spec: StageSpec,
    model: StageModel,
    place: Place,
    label: str,
    *,
    keys: Iterable[str],
    before: Source | None,
) -> Source | None:
    """Return what a stage reads, from its `from:` or else from what stands `before` it.

    Raises PipelineError for what is no form of `from:`, or names no stage of `keys`.
    """
    given, here = model.from_, place / "from"
    if spec.kind == "source":
        if given is not None:
            raise here.error(f"{label} is a source: it reads no rows: remove its `from:`", key=True)
        return None
    parameters = tuple(spec.row_parameters) if spec.is_join else ()
    if given is not None:
        source = _form(given, parameters, here, label)
    elif before is not None:
        source = before
    else:
        raise place.error(
            f"{label} reads rows, but no stage stands before it: begin with a source, "
            "or say `from: STAGE`",
            key=True,
        )
    if set(source.names) != set(parameters):
        wanted = _join(parameters) if parameters else "`from: STAGE`"
        what = "is a join of two streams" if parameters else "reads one stream, not a join's two"
        raise (place if given is None else here).error(
            f"{label} {what}: write {wanted}", key=given is None
        )
    for name, at in zip(source.stages, _places(source, here), strict=True):
        if name not in keys:
            hint = nearest(name, keys, say="; did you mean {!r}?")
            raise at.error(f"{label}: there is no stage {name!r}{hint}")
    if source.form != "join" and len(set(source.stages)) < len(source.stages):
        raise here.error(f"{label}: `from:` names a stage twice: remove one")
    return source


def _form(given: Any, parameters: tuple[str, ...], here: Place, label: str) -> Source:
    """Read one of the four forms of `from:`."""
    match given:
        case str():
            return Source("one", (given,))
        case [str(), *_] if all(isinstance(name, str) for name in given):
            return Source("concat", tuple(given))
        case {"all": [str(), str(), *_] as names} if len(given) == 1 and all(
            isinstance(name, str) for name in names
        ):
            return Source("all", tuple(names))
        case dict() if set(given) == set(parameters) and all(
            isinstance(name, str) for name in given.values()
        ):
            return Source("join", tuple(given[name] for name in parameters), parameters)
    if parameters:
        raise here.error(f"{label} is a join of two streams: write {_join(parameters)}")
    raise here.error(
        f"{label}: `from:` is a stage, a list [a, b] of stages, or {{all: [a, b]}}; "
        f"not {here.found(given)}{' like this' if isinstance(given, (list, dict)) else ''}"
    )


def _join(parameters: Iterable[str]) -> str:
    return f"`from: {{{', '.join(f'{name}: STAGE' for name in parameters)}}}`"


def _places(source: Source, here: Place) -> list[Place]:
    """Return where each stage of a `from:` is named."""
    match source.form:
        case "concat":
            return [here / i for i in range(len(source.stages))]
        case "all":
            return [here / "all" / i for i in range(len(source.stages))]
        case "join":
            return [here / name for name in source.names]
    return [here]


def in_order(stages: Mapping[str, WiredStage]) -> tuple[str, ...]:
    """Return the stages' keys, upstream first. Raises PipelineError for a circle or a read sink."""
    for wired in stages.values():
        source, here = wired.source, wired.place / "from"
        for name, at in zip(source.stages, _places(source, here), strict=True) if source else ():
            if stages[name].spec.is_sink:
                raise at.error(
                    f"{wired.label}: {name!r} is a sink, which passes no rows on: "
                    f"read what it reads ({', '.join(stages[name].upstream)})"
                )
    graph = {key: wired.upstream for key, wired in stages.items()}
    try:
        return tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        circle = list(reversed(error.args[1]))
        steps = ", ".join(f"{a} reads {b}" for a, b in itertools.pairwise(circle))
        raise (stages[circle[0]].place / "from").error(
            f"the stages form a circle ({steps}): one of them must read another stage"
        ) from None


def needed(stages: Mapping[str, WiredStage], finishing: Iterable[str]) -> set[str]:
    """Return the stages that lead to some of these: all others would run for nobody."""
    found, todo = set(finishing), list(finishing)
    while todo:
        new = set(stages[todo.pop()].upstream) - found
        found |= new
        todo += new
    return found
