"""Rows: open, immutable records of named fields, and what stages make of them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    Self,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict

from engine.errors import DefinitionError
from engine.text import Text

__all__ = [
    "RESERVED",
    "Added",
    "Artifact",
    "Columns",
    "Dialogue",
    "Message",
    "Read",
    "Reject",
    "Row",
    "plain",
    "preceded",
    "row_fields",
    "strip_annotated",
]

RESERVED = frozenset({"add", "fields", "keyed", "of", "reject", "row_id"})
"""What a field cannot be named: a row's own methods."""


@dataclass_transform(frozen_default=True)
class Row:
    """One record of named fields; subclass it to declare some of them.

    A subclass is a frozen dataclass. Nothing is validated on construction. Rows are open: fields
    that upstream stages made ride along, and `row["name"]` and `"name" in row` reach them.

    >>> class Question(Row):
    ...     question: str
    """

    __slots__ = ("__dict__", "_before", "_id", "_key", "_order")

    _before: int
    _id: bytes
    _order: tuple[int, ...]
    _key: str

    def __init_subclass__(cls) -> None:
        for name in inspect.get_annotations(cls):
            if name in RESERVED or name.startswith("_"):
                raise DefinitionError(cls, f"a row cannot have a field named {name!r}: rename it")
        try:
            dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
        except (TypeError, ValueError) as error:
            raise DefinitionError(cls, str(error)) from error

    @classmethod
    def of(
        cls, fields: Mapping[str, Any], row_id: bytes = b"", order: tuple[int, ...] = ()
    ) -> Self:
        """Make a row from fields, declared or not; the engine's own way to hand rows to a stage."""
        row = object.__new__(cls)
        row.__dict__.update(fields)
        object.__setattr__(row, "_id", row_id)
        object.__setattr__(row, "_order", order)
        return row

    @property
    def row_id(self) -> str:
        """The row's 128-bit id in hex; "" until the engine has taken the row in."""
        return getattr(self, "_id", b"").hex()

    @property
    def fields(self) -> Mapping[str, Any]:
        """All fields, declared or not, as a new dict."""
        return dict(self.__dict__)

    def add(self, added: S) -> Added[S]:
        """Return this row with the fields of `added`: what an `AsyncIterator[Added[S]]` yields."""
        return Added(self, added)

    def reject(self, reason: str, *, span: str | None = None) -> Reject:
        """Return a Reject of this row: what a stream yields to drop a row with a reason.

        `span` is the text that shows why.
        """
        rejected = Reject(reason, span=span)
        rejected.row = self
        return rejected

    def keyed(self, key: str) -> Self:
        """Return the row with the plugin's own key, from which its id is made (source, expand)."""
        row = type(self).of(self.__dict__)
        object.__setattr__(row, "_key", str(key))
        return row

    def __getitem__(self, name: str) -> Any:
        try:
            return self.__dict__[name]
        except KeyError:
            if name in getattr(self, "__dataclass_fields__", ()):
                return getattr(self, name)
            raise

    def __contains__(self, name: object) -> bool:
        return name in self.__dict__

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return NotImplemented
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # fields may be lists

    def __setattr__(self, name: str, value: object) -> None:
        raise dataclasses.FrozenInstanceError(
            f"cannot assign to field {name!r}: a row never changes"
        )

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}: a row never changes")

    def __reduce__(self) -> tuple[Any, ...]:
        order, key = getattr(self, "_order", ()), getattr(self, "_key", None)
        return _remade, (type(self), self.fields, getattr(self, "_id", b""), order, key)

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({inner})"

    def _repr_html_(self) -> str:
        from engine.views import row_html  # for notebooks alone

        return row_html(self)


S = TypeVar("S", bound=Row)


def preceded(row: S, count: int) -> S:
    """Return a source's row that `count` equal rows precede which the source does not pass on.

    Its id is then that which it has where they are passed on.
    """
    object.__setattr__(row, "_before", count)
    return row


def _remade(
    cls: type[Row],
    fields: Mapping[str, Any],
    row_id: bytes,
    order: tuple[int, ...],
    key: str | None,
) -> Row:
    """Make a copied row: `copy` and `pickle` cannot set attributes of what never changes."""
    row = cls.of(fields, row_id, order)
    if key is not None:
        object.__setattr__(row, "_key", key)
    return row


@dataclasses.dataclass(frozen=True, slots=True)
class Read:
    """One declared field: what a stage reads, or a row type holds."""

    name: str
    type: Any
    required: bool = True
    default: Any = None


def row_fields(cls: type[Row]) -> tuple[Read, ...]:
    """Return the fields that a row type declares, with resolved types; () for `Row` itself."""
    if cls is Row:
        return ()
    if "__engine_fields__" not in cls.__dict__:
        cls.__engine_fields__ = tuple(_declared(cls))  # type: ignore[attr-defined]
    return cast(tuple[Read, ...], cls.__dict__["__engine_fields__"])


def _declared(cls: type[Row]) -> Iterator[Read]:
    try:
        hints = get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise DefinitionError(
            cls,
            f"a field's type cannot be resolved: {error} "
            "(a name imported under TYPE_CHECKING does not exist when the row type is read)",
        ) from error
    for item in dataclasses.fields(cast(Any, cls)):
        if item.default_factory is not dataclasses.MISSING:
            yield Read(item.name, hints[item.name], False, item.default_factory())
        elif item.default is not dataclasses.MISSING:
            yield Read(item.name, hints[item.name], False, item.default)
        else:
            yield Read(item.name, hints[item.name])


def strip_annotated(hint: Any) -> Any:
    """Return a hint without its `Annotated` wrappers and named aliases (`type X = ...`)."""
    while True:
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        elif type(hint).__name__ == "TypeAliasType":  # of typing (3.12) or typing_extensions
            hint = hint.__value__
        else:
            return hint


class Added(Generic[S]):
    """A received row with new fields: made by `row.add(S(...))`, yielded by a stream."""

    __slots__ = ("added", "row")

    def __init__(self, row: Row, added: S) -> None:
        self.row, self.added = row, added


class Reject(Exception):
    """Drop a row with a reason: raised in a map, batch or expand; yielded in a source or expand.

    `span` is the text that shows why, such as the slice of a reply that names a banned term.
    """

    row: Row | None = None

    def __init__(self, reason: str, *, span: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.span = str(reason), span


class Message(BaseModel):
    """One turn of a chat: who speaks, and what is said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: Text


Dialogue = tuple[Message, ...]
"""A conversation, as TRL and the chat endpoints read it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Artifact:
    """A file or folder in the store's blobs: rows carry this, never the bytes.

    `digest` is BLAKE2b-128 of the bytes, or of the manifest of a folder; `size` is in bytes.
    """

    digest: str
    media_type: str
    size: int
    folder: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a dataset Artifact, known before a run: `Annotated[Artifact, Columns(...)]`.

    `dataset.pack` declares them of what it makes, and a stage that reads a dataset may look at them
    in its `fields_of`.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, hint: Any) -> Columns | None:
        """Return what a field's hint says of its columns, if it says anything."""
        marks = getattr(hint, "__metadata__", ())
        return next((mark for mark in marks if isinstance(mark, cls)), None)


def plain(value: Any) -> Any:
    """Return a value as a dataset or a view shows it: no texts, models or tuples, only JSON."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, BaseModel):
        return {name: plain(item) for name, item in value.__dict__.items()}
    if isinstance(value, Artifact):
        return dataclasses.asdict(value)
    return value
