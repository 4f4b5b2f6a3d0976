"""From the field flow's types to Arrow's: a schema that does not depend on the rows."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import orjson
from pydantic import BaseModel
from typing_extensions import is_typeddict

from engine.rows import Artifact
from engine.stages import strip_annotated

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Table", "dumps", "holds_bytes", "shown"]

_ARTIFACT = {"digest": str, "media_type": str, "size": int, "folder": bool}
_PLAIN = ((bool, "bool_"), (int, "int64"), (float, "float64"), (str, "string"), (bytes, "binary"))


def dumps(value: Any) -> bytes:
    """Return a value as JSON. Raises TypeError for bytes, which JSON has not."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer past 64 bits
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_refuse)
        return text.encode()


def _refuse(value: object) -> None:
    raise TypeError(f"JSON has no {type(value).__name__}: leave the field out, or write Parquet")


class Table:
    """The columns of an Arrow table, from the types of the fields.

    What has no Arrow type (objects with keys that vary, unions) is JSON text of Arrow's JSON type.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        import pyarrow

        self._hints = fields
        self._columns = {name: _column(hint, ()) for name, hint in fields.items()}
        self.schema: pyarrow.Schema = pyarrow.schema(
            [(name, column.type) for name, column in self._columns.items()]
        )

    def of(self, records: Sequence[Mapping[str, Any]]) -> pyarrow.Table:
        """Return plain records as a table. Raises ValueError, naming column and value."""
        import pyarrow

        arrays = []
        for name, column in self._columns.items():
            values = [column.change(record.get(name)) for record in records]
            storage = _storage(column.type)
            try:
                array = pyarrow.array(values, type=storage)
            except (pyarrow.ArrowException, OverflowError, TypeError) as error:
                raise self._misfit(name, values, storage, error) from None
            arrays.append(array if storage == column.type else array.cast(column.type))
        return pyarrow.table(arrays, schema=self.schema)

    def _misfit(self, name: str, values: Sequence[Any], kind: Any, error: Exception) -> ValueError:
        import pyarrow

        for value in values:
            try:
                pyarrow.array([value], type=kind)
            except (pyarrow.ArrowException, OverflowError, TypeError):
                return ValueError(
                    f"the column {name!r} is {shown(self._hints[name])}, "
                    f"and a row holds {repr(value)[:80]} there"
                )
        return ValueError(f"the column {name!r}: {error}")


class _Column(NamedTuple):
    type: Any
    """The Arrow type."""
    change: Callable[[Any], Any]
    """Makes what Arrow takes of a plain value."""


def _column(hint: Any, inside: tuple[Any, ...]) -> _Column:
    """Return the column of a type; `inside` are the types around it, which may name themselves."""
    import pyarrow

    hint = _without_none(hint)
    if (known := _known(hint)) is not None:
        return _Column(getattr(pyarrow, known)(), lambda value: value)
    if (item := _item(hint)) is not None:
        inner = _column(item, inside)
        return _Column(
            pyarrow.list_(inner.type),
            lambda items: None if items is None else [inner.change(i) for i in items],
        )
    named = None if hint in inside else _fields(hint)
    if named:
        columns = {name: _column(inner, (*inside, hint)) for name, inner in named.items()}
        return _Column(
            pyarrow.struct([(name, column.type) for name, column in columns.items()]),
            lambda value: (
                None
                if value is None
                else {name: column.change(value.get(name)) for name, column in columns.items()}
            ),
        )
    return _Column(pyarrow.json_(), lambda value: None if value is None else dumps(value).decode())


def _storage(kind: Any) -> Any:
    """Return the type with JSON as text: Arrow makes arrays of it, and casts them."""
    import pyarrow
    import pyarrow.types as is_

    if isinstance(kind, pyarrow.JsonType):
        return kind.storage_type
    if is_.is_list(kind):
        return pyarrow.list_(_storage(kind.value_type))
    if is_.is_struct(kind):
        return pyarrow.struct([(field.name, _storage(field.type)) for field in kind])
    return kind


def _known(hint: Any) -> str | None:
    """Return the name of the Arrow type of a plain type."""
    if get_origin(hint) is Literal:
        kinds = {type(value) for value in get_args(hint)}
        hint = kinds.pop() if len(kinds) == 1 else Any
    if get_origin(hint) in (Union, types.UnionType) and set(get_args(hint)) == {int, float}:
        hint = float
    if not isinstance(hint, type) or get_origin(hint) is not None:
        return None
    return next((name for plain_type, name in _PLAIN if issubclass(hint, plain_type)), None)


def _item(hint: Any) -> Any:
    """Return X of `list[X]`, `tuple[X, ...]` or a tuple of equal types, else None."""
    origin, arguments = get_origin(hint), get_args(hint)
    if not (isinstance(origin, type) and issubclass(origin, Sequence) and arguments):
        return None
    items = [a for a in arguments if a is not Ellipsis]
    return items[0] if all(item == items[0] for item in items) else None


def _fields(hint: Any) -> dict[str, Any] | None:
    """Return the named parts of an object's type, if they are the same in every object."""
    if hint is Artifact:
        return dict(_ARTIFACT)
    if is_typeddict(hint):
        return get_type_hints(hint) if hint.__total__ else None
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return {name: info.annotation for name, info in hint.model_fields.items()}
    return None


def _without_none(hint: Any) -> Any:
    hint = strip_annotated(hint)
    if get_origin(hint) in (Union, types.UnionType):
        rest = [a for a in get_args(hint) if a is not type(None)]
        if len(rest) < len(get_args(hint)):
            return strip_annotated(Union[tuple(rest)]) if rest else hint  # noqa: UP007
    return hint


def holds_bytes(hint: Any) -> bool:
    """Return whether values of a type hold bytes, which JSON has not."""
    hint = strip_annotated(hint)
    inner = [*get_args(hint), *(_fields(hint) or {}).values()]
    return hint is bytes or (get_origin(hint) is not Literal and any(map(holds_bytes, inner)))


def shown(hint: Any) -> str:
    """Return a type in the words of a card or a message: `list of text`, `integer or null`."""
    hint = strip_annotated(hint)
    if hint is None or hint is type(None):
        return "null"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(shown(member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(str(value) for value in get_args(hint))
    words = {"bool_": "boolean", "int64": "integer", "float64": "number", "binary": "bytes"}
    if (known := _known(hint)) is not None:
        return words.get(known, "text")
    if (item := _item(hint)) is not None:
        return f"list of {shown(item)}"
    if named := _fields(hint):
        if isinstance(hint, type) and not is_typeddict(hint):
            return str(hint.__name__)
        return f"{{{', '.join(f'{name}: {shown(inner)}' for name, inner in named.items())}}}"
    return "anything" if hint is Any else "object"
