"""The shape of a pipeline file: its models, and what to say where it does not fit them."""

from __future__ import annotations

import itertools
from typing import Any, Literal, get_args

import orjson
from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails

from engine.errors import PipelineError, nearest
from engine.loader import Document, Keys, Place, scalar

__all__ = ["LimitsModel", "PipelineModel", "ResourceModel", "StageModel", "read_shape", "validated"]


class _Model(BaseModel):
    # What stands below a field is its description in `engine schema`, and in docs/pipelines.md.
    model_config = ConfigDict(extra="forbid", frozen=True)


class ResourceModel(_Model):
    """One entry of `resources:`."""

    use: str
    """`namespace.name`, such as `openai.chat`; `engine stages` lists them."""
    with_: dict[str, Any] = Field({}, alias="with")
    """Configuration."""


class StageModel(_Model):
    """One entry of `stages:`."""

    use: str
    """`namespace.name`, or `./file.py:function` beside the pipeline file."""
    with_: dict[str, Any] = Field({}, alias="with")
    """Configuration, and for each resource parameter the key of a resource."""
    from_: Any = Field(None, alias="from")
    """Where the rows come from."""
    take: dict[str, str] = {}
    """Read a field under another name."""
    give: dict[str, str] = {}
    """Write a field under another name."""
    concurrency: PositiveInt = 8
    """How many rows (batches) are worked on at once. No effect on a source or stream."""
    batch: PositiveInt = 32
    """Rows in a batch; for batch stages alone."""
    retry: PositiveInt = 3
    """Attempts for a row, the first one included."""
    timeout: PositiveFloat | None = None
    """Seconds for one attempt; waiting for a rate limit does not count."""
    limit: str | None = None
    """A limit under `limits:` that each execution holds."""
    memo: bool | None = None
    """Record the results of a map or batch that takes neither a resource nor the context. All other
    maps and batches, expands and streams are always recorded; sources and sinks never."""
    on_error: Literal["dead_letter", "fail"] = "dead_letter"
    """What an exception on a row's last attempt does: the row becomes a dead letter and the run
    goes on, or the run fails."""


class LimitsModel(_Model):
    """`limits:` holds named concurrency limits, and bounds above which a run wants `--yes`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, PositiveInt] = Field(init=False)

    hours: PositiveFloat | None = None
    """Hours that a run may take; kept, but not used yet."""
    disk: ByteSize | None = None
    """Bytes, or `10GB`, that a run may store; kept, but not used yet."""
    cost: PositiveFloat | None = None
    """What the calls of a run may cost; kept, but not used yet."""

    @property
    def named(self) -> dict[str, int]:
        """The concurrency limits: name -> how many at once."""
        return dict(self.__pydantic_extra__)


class PipelineModel(_Model):
    """The whole file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """The pipeline's name: letters, digits, `_`, `.`, `-`, at most 64. Its store is
    `.engine/<name>/` beside the file."""
    seed: NonNegativeInt = 0
    """The seed of all randomness: `ctx.rng`, and the sampling seed of each model call. A reply that
    is stored stays: with another seed, `--fresh` draws new ones."""
    plugins: tuple[str, ...] = ()
    """Plugins to load besides those that `use:` names; such as observe events."""
    limits: LimitsModel = LimitsModel()
    """Named concurrency limits, `gpu: 1`: how many executions hold each at once (see `limit:`).
    `hours`, `disk` and `cost` are kept for bounds on a run; they are checked, but nothing uses them
    yet."""
    max_dead: NonNegativeInt = 0
    """More dead letters than this make the exit code 3."""
    max_cost: PositiveFloat | None = None
    """Once the calls of a run have cost this much, in the currency of `prices`, no more are made:
    those in flight end and are kept, and the run ends with exit code 1. Each run counts from
    nothing; what is stored is not paid again."""
    count_by: tuple[str, ...] = ()
    """Fields of finished rows whose values the summary counts, such as `origin`."""
    resources: dict[str, ResourceModel] = {}
    """Resource key -> `use:` and `with:`."""
    stages: dict[str, StageModel] = Field(min_length=1)
    """Stage key -> stage. At least one."""


def read_shape(document: Document) -> PipelineModel:
    """Return the models of a loaded file. Raises PipelineError at the part that does not fit."""
    value, place = document.value, document.at()
    if value is None:
        raise place.error("the file is empty: a pipeline has `name:` and `stages:`")
    if not isinstance(value, dict):
        raise place.error(
            f"a pipeline is a mapping with `name:` and `stages:`, not {place.found(value)}"
        )
    # A value of the environment is text; in `with:` the stage's own types decide.
    strict = all("with" in keys for keys in document.environment)
    try:
        return PipelineModel.model_validate_json(orjson.dumps(value), strict=strict)
    except ValidationError as error:
        raise _unfit(error, value, place, "", PipelineModel) from None


def validated(hint: Any, value: Any, place: Place, label: str) -> Any:
    """Return a configuration value as its type wants it. `label` begins an error's message.

    Types are taken at their word (`true` is no integer, `"5"` neither), except for values of the
    environment, which are always text.
    """
    try:
        adapter = TypeAdapter(hint)
        return adapter.validate_json(orjson.dumps(value), strict=not place.from_environment)
    except ValidationError as error:
        raise _unfit(error, value, place, label, hint) from None


def _unfit(
    error: ValidationError, value: Any, place: Place, label: str, hint: Any
) -> PipelineError:
    """Say the deepest thing that is wrong: in a union, the member that came nearest."""
    details = error.errors(include_url=False)
    paths = [_path(value, detail["loc"]) for detail in details]
    path = max(paths, key=len)
    first, *others = [d for d, p in zip(details, paths, strict=True) if p == path]
    inner = Place(place.document, (*place.keys, *path))
    dotted = ".".join(map(str, path))
    subject = f"{label}{', ' if label and dotted else ''}{dotted}"
    match first["type"]:
        case "extra_forbidden":
            known = _inner_keys(hint) if place.keys else _known_keys(path)
            near = nearest(str(path[-1]), known, say=": did you mean {!r}?")
            message = f"unknown key {path[-1]!r}{near} (known: {', '.join(known)})"
            return inner.error(f"{label}: {message}" if label else message, key=True)
        case "missing":
            message = f"the key {first['loc'][-1]!r} is missing"
            return inner.error(f"{subject}: {message}" if subject else message, key=True)
        case "string_pattern_mismatch" if path == ("name",):
            expected = "letters, digits, `_`, `.` and `-`, at most 64, the first a letter or digit"
        case "too_short" if path == ("stages",):
            return inner.error("stages: it is empty: name at least one stage")
        case "value_error":  # a validator's own sentence
            message = first["msg"].removeprefix("Value error, ")
            return inner.error(f"{subject}: {message}" if subject else message)
        case _:
            expected = " or ".join(dict.fromkeys(map(_expected, [first, *others])))
    found = inner.found(first["input"])
    return inner.error(f"{subject}: it should be {expected}, not {found}{_advice(first)}")


def _path(value: Any, location: tuple[int | str, ...]) -> Keys:
    """Return the parts of an error's location that lead into the value: it names unions, too."""
    keys: list[int | str] = []
    for part in location:
        inside = (
            part in value
            if isinstance(value, dict)
            else isinstance(value, list) and isinstance(part, int) and part < len(value)
        )
        if inside:
            value = value[part]
            keys.append(part)
    return tuple(keys)


_WORDS = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "nothing",
}


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] in _WORDS:
        return _WORDS[detail["type"]]
    message = detail["msg"]
    if message.startswith("Input should be "):
        message = message.removeprefix("Input should be ")
        return message.replace("greater than or equal to", "at least").replace(
            "less than or equal to", "at most"
        )
    return f"otherwise ({message})"


def _advice(detail: ErrorDetails) -> str:
    given = detail["input"]
    match detail["type"], given:
        case "bool_type", "no" | "No" | "off" | "Off" | "yes" | "Yes" | "on" | "On":
            return f" (in YAML 1.2 {given} is text)"
        case "string_type", bool() | int() | float():
            return ": put it in quotes"
        case "int_type" | "float_type" | "bool_type", str() if not isinstance(scalar(given), str):
            return ": write it without quotes"
    return ""


def _known_keys(path: Keys) -> list[str]:
    model: type[BaseModel] = PipelineModel
    if len(path) == 3 and path[0] == "stages":
        model = StageModel
    elif len(path) == 3 and path[0] == "resources":
        model = ResourceModel
    return [info.alias or name for name, info in model.model_fields.items()]


def _inner_keys(hint: Any) -> list[str]:
    """Return the keys of the models in a configuration type."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        inner = [_inner_keys(info.annotation) for info in hint.model_fields.values()]
        return [*hint.model_fields, *itertools.chain(*inner)]
    return list(itertools.chain(*map(_inner_keys, get_args(hint))))
