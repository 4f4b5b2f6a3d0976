"""From the field flow's types to Arrow's: a schema that does not depend on the rows."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import orjson
from pydantic import BaseModel

from engine.rows import Artifact, Message
from engine.stages import strip_annotated

if TYPE_CHECKING:
    import pyarrow

__all__ = ["arrow_schema", "arrow_value"]


def arrow_schema(fields: Mapping[str, Any]) -> pyarrow.Schema:
    """Return the Arrow schema of named types; what has no Arrow type becomes JSON text."""
    import pyarrow

    return pyarrow.schema([(name, _arrow(hint)) for name, hint in fields.items()])


def arrow_value(value: Any, hint: Any) -> Any:
    """Return a plain value as its column holds it."""
    hint = _without_none(strip_annotated(hint))
    if value is None or _known(hint) is not None:
        return value
    if _sequence_of(hint) is not None:
        return [arrow_value(item, _sequence_of(hint)) for item in value]
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return {n: arrow_value(value.get(n), f.annotation) for n, f in hint.model_fields.items()}
    if hint is Artifact:
        return value
    return orjson.dumps(value).decode()


def _arrow(hint: Any) -> Any:
    import pyarrow

    hint = _without_none(strip_annotated(hint))
    known = _known(hint)
    if known is not None:
        return getattr(pyarrow, known)()
    item = _sequence_of(hint)
    if item is not None:
        return pyarrow.list_(_arrow(item))
    if hint is Message:
        return pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return pyarrow.struct([(n, _arrow(f.annotation)) for n, f in hint.model_fields.items()])
    if hint is Artifact:
        return pyarrow.struct(
            [
                ("digest", pyarrow.string()),
                ("media_type", pyarrow.string()),
                ("size", pyarrow.int64()),
                ("folder", pyarrow.bool_()),
            ]
        )
    return pyarrow.string()


def _known(hint: Any) -> str | None:
    """Return the name of the Arrow type of a plain type."""
    if get_origin(hint) is Literal:
        kinds = {type(value) for value in get_args(hint)}
        hint = kinds.pop() if len(kinds) == 1 else Any
    if not isinstance(hint, type) or get_origin(hint) is not None:
        return None
    for plain_type, name in (
        (bool, "bool_"),
        (int, "int64"),
        (float, "float64"),
        (str, "string"),
        (bytes, "binary"),
    ):
        if issubclass(hint, plain_type):
            return name
    return None


def _sequence_of(hint: Any) -> Any:
    """Return X of `list[X]`, `tuple[X, ...]` or a tuple of equal types, else None."""
    origin, arguments = get_origin(hint), get_args(hint)
    if not (isinstance(origin, type) and issubclass(origin, Sequence) and arguments):
        return None
    items = [a for a in arguments if a is not Ellipsis]
    return items[0] if all(item == items[0] for item in items) else None


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        rest = [a for a in get_args(hint) if a is not type(None)]
        if len(rest) == 1:
            return strip_annotated(rest[0])
    return hint
