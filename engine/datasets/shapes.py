"""What the values of a field look like: seen in the first rows, held to in all others."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Union, cast, get_args

from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from engine.datasets.schema import shown
from engine.rows import Message
from engine.text import Text

__all__ = ["Mismatch", "Shape", "peeked"]

Leaf = Callable[[str, str], Any]
"""Makes the text of a string and its place in the row, `messages[0].content`."""
_SCALARS: Mapping[type, Any] = {bool: bool, int: int, float: float, str: Text, bytes: bytes}
_INDEX = re.compile(r"\[\d+\]")
_ROLES = frozenset(get_args(Message.model_fields["role"].annotation))


class Mismatch(Exception):
    """A value is not what the first rows had: the message is the reason to reject its row."""

    def __init__(self, at: str, found: str, wanted: str) -> None:
        super().__init__(f"{_INDEX.sub('[]', at)}: {found}, not {wanted}")


class Shape:
    """What values look like: their kinds, and inside lists and objects the same again.

    An empty shape says nothing, so it holds for everything.
    """

    __slots__ = ("_values", "dialogue", "fixed", "items", "keys", "kinds")

    def __init__(self, kinds: Iterable[type] = ()) -> None:
        self.kinds: set[type] = set(kinds)
        self.items: Shape | None = None
        self.dialogue: bool | None = None
        """Whether each item of each list is a message; None before the first item."""
        self.keys: dict[str, Shape] = {}
        self.fixed = True
        """Whether all objects have the same keys."""
        self._values: Shape | None = None

    def see(self, value: Any) -> None:
        """Take a value in."""
        kind, self._values = type(value), None
        if kind is list:
            self.items = self.items or Shape()
            for item in value:
                self.items.see(item)
            if value and self.dialogue is not False:
                self.dialogue = all(map(_is_message, value))
        elif kind is dict:
            if dict in self.kinds and value.keys() != self.keys.keys():
                self.fixed = False
            for name, item in value.items():
                self.keys.setdefault(name, Shape()).see(item)
        self.kinds.add(kind)

    def absorb(self, other: Shape) -> None:
        """Take in all that another shape holds for."""
        self._values = None
        if dict in self.kinds and dict in other.kinds:
            self.fixed &= other.fixed and self.keys.keys() == other.keys.keys()
        else:
            self.fixed &= other.fixed
        self.kinds |= other.kinds
        if other.items is not None:
            self.items = self.items or Shape()
            self.items.absorb(other.items)
        if other.dialogue is not None:
            self.dialogue = other.dialogue and self.dialogue is not False
        for name, shape in other.keys.items():
            self.keys.setdefault(name, Shape()).absorb(shape)

    @property
    def values(self) -> Shape:
        """What holds for the values of all keys."""
        if self._values is None:
            self._values = Shape()
            for shape in self.keys.values():
                self._values.absorb(shape)
        return self._values

    @property
    def hint(self) -> Any:
        """The type of the values, as the field flow knows it."""
        found = [
            hint
            for kind, hint in _SCALARS.items()
            if kind in self.kinds and not (kind is int and float in self.kinds)
        ]
        if list in self.kinds:
            inner = self.items.hint if self.items is not None else Any
            found.append(tuple[Message, ...] if self.dialogue else list[inner])  # type: ignore[valid-type]
        if dict in self.kinds:
            if self.fixed and self.keys:
                found.append(_object(tuple((n, s.hint) for n, s in self.keys.items())))
            else:
                values = self.values.hint
                found.append(dict[str, values])  # type: ignore[valid-type]
        if type(None) in self.kinds:
            found.append(None)
        return Union[tuple(found)] if found else Any  # noqa: UP007

    def make(self, value: Any, at: str, leaf: Leaf) -> Any:
        """Return a value as a row carries it. Raises Mismatch for one that the shape does not hold.

        Strings become texts, lists of messages dialogues; numbers stay as they are, so that a
        row's content does not depend on what other rows hold.
        """
        kind = type(value)
        if kind is str and str in self.kinds:
            return leaf(value, at)
        if kind is float and not math.isfinite(value):
            raise Mismatch(at, str(value), "a finite number")
        if not self.kinds:
            seen = Shape()
            seen.see(value)
            return seen.make(value, at, leaf)
        if kind not in self.kinds and not (kind is int and float in self.kinds):
            raise Mismatch(at, _named(value), shown(self.hint))
        if kind is list:
            items = cast(Shape, self.items)
            if self.dialogue:
                return tuple([_message(item, f"{at}[{i}]", leaf) for i, item in enumerate(value)])
            return [items.make(item, f"{at}[{i}]", leaf) for i, item in enumerate(value)]
        if kind is dict:
            if self.fixed:
                if value.keys() != self.keys.keys():
                    raise Mismatch(at, "other keys", shown(self.hint))
                inner = self.keys
                return {n: inner[n].make(item, f"{at}.{n}", leaf) for n, item in value.items()}
            every = self.values
            return {n: every.make(item, f"{at}.{n}", leaf) for n, item in value.items()}
        return value


def peeked(
    rows: Iterable[Mapping[str, Any]], seeds: Mapping[str, Shape] | None = None
) -> dict[str, Shape] | None:
    """Return the shapes of the fields that all of these rows have; None for no rows.

    `seeds` are what a schema says: all fields, with all but what may be null, or a dialogue.
    """
    shapes: dict[str, Shape] | None = dict(seeds) if seeds else None
    for row in rows:
        if shapes is None:
            shapes = {name: Shape() for name in row}
        shapes = {name: shape for name, shape in shapes.items() if name in row}
        for name, shape in shapes.items():
            shape.see(row[name])
    return shapes


@functools.lru_cache(maxsize=1024)  # equal objects have one type, whichever source they are from
def _object(fields: tuple[tuple[str, Any], ...]) -> Any:
    made = cast(Any, TypedDict)("object", dict(fields))
    made.__name__ = made.__qualname__ = shown(made)
    made.__pydantic_config__ = {"extra": "forbid"}
    return made


def _is_message(value: Any) -> bool:
    return (
        type(value) is dict
        and value.keys() == {"role", "content"}
        and type(value["content"]) is str
        and type(value["role"]) is str
        and value["role"] in _ROLES
    )


def _message(value: Any, at: str, leaf: Leaf) -> Message:
    if not _is_message(value):
        raise Mismatch(at, "something else", "a message of system, user or assistant")
    content = leaf(value["content"], f"{at}.content")
    return Message.model_construct(role=value["role"], content=content)


def _named(value: Any) -> str:
    names = {type(None): "null", str: "text", bool: "true or false", int: "an integer"}
    names |= {float: "a number", list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")
