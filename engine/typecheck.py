"""Whether a field of one type may be read as another, before a row exists."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

from engine.rows import strip_annotated
from engine.text import Text

__all__ = ["fits", "show"]


def fits(made: Any, wanted: Any) -> bool:
    """Return whether every value of type `made` is a value of type `wanted`.

    `Annotated` is stripped; each member of a made union must fit; int fits float, bool only bool;
    str fits Text (the engine makes a leaf of it); containers are covariant; classes by subclass.
    Any, a type variable and a bare container's items say nothing, so they fit everything.
    """
    made, wanted = _plain(made), _plain(wanted)
    if made == wanted or Any in (made, wanted) or wanted is object:
        return True
    if isinstance(made, typing.TypeVar) or isinstance(wanted, typing.TypeVar):
        return True
    if _is_union(made):
        return all(fits(member, wanted) for member in get_args(made))
    if _is_union(wanted):
        return any(fits(made, member) for member in get_args(wanted)) or (
            get_origin(made) is Literal and all(fits(one, wanted) for one in _singles(made))
        )
    if get_origin(made) is Literal:
        if get_origin(wanted) is Literal:
            return _values(made) <= _values(wanted)
        return all(fits(kind, wanted) for kind, _ in _values(made))
    return _class_fits(made, wanted)


def _class_fits(made: Any, wanted: Any) -> bool:
    made_class, wanted_class = get_origin(made) or made, get_origin(wanted) or wanted
    if not (isinstance(made_class, type) and isinstance(wanted_class, type)):
        return False
    if made_class is bool or wanted_class is bool:
        return made_class is wanted_class
    if wanted_class is float and _subclass(made_class, int):
        return True
    if wanted_class is Text and _subclass(made_class, str):
        return True
    if _subclass(made_class, (str, bytes)) and not _subclass(wanted_class, (str, bytes)):
        return False  # a text is a sequence of texts to Python, and a mistake to everybody else
    return _subclass(made_class, wanted_class) and _arguments_fit(made, wanted)


def _subclass(cls: type, of: type | tuple[type, ...]) -> bool:
    try:
        return issubclass(cls, of)
    except TypeError:  # TypedDicts and most protocols know no subclasses
        return False


def _arguments_fit(made: Any, wanted: Any) -> bool:
    if get_origin(made) is None or get_origin(wanted) is None:
        return True  # a bare container says nothing of its items
    inner, outer = get_args(made), get_args(wanted)
    if get_origin(made) is tuple:
        return _tuple_fits(inner, wanted, outer)
    return len(inner) == len(outer) and all(map(fits, inner, outer))


def _tuple_fits(inner: tuple[Any, ...], wanted: Any, outer: tuple[Any, ...]) -> bool:
    if get_origin(wanted) is tuple and not _is_open(outer):
        return not _is_open(inner) and len(inner) == len(outer) and all(map(fits, inner, outer))
    return all(fits(item, outer[0]) for item in inner if item is not Ellipsis)


def _is_open(arguments: tuple[Any, ...]) -> bool:
    """Return whether a tuple's arguments are `X, ...`."""
    return len(arguments) == 2 and arguments[1] is Ellipsis


def _values(literal: Any) -> set[tuple[type, Any]]:
    """Return a Literal's values with their types: True is not 1."""
    return {(type(value), value) for value in get_args(literal)}


def _singles(literal: Any) -> list[Any]:
    return [Literal[value] for value in get_args(literal)] if len(get_args(literal)) > 1 else []


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _plain(hint: Any) -> Any:
    hint = strip_annotated(hint)
    if isinstance(hint, typing.NewType):
        return _plain(hint.__supertype__)
    return type(None) if hint is None else hint


def show(hint: Any) -> str:
    """Return a type as a person would write it."""
    hint = strip_annotated(hint)
    if hint is type(None):
        return "None"
    if hint is Ellipsis:
        return "..."
    origin, arguments = get_origin(hint), get_args(hint)
    if _is_union(hint):
        return " | ".join(show(member) for member in arguments)
    if origin is Literal:
        return " | ".join(repr(value) for value in arguments)
    if origin is not None:
        return f"{show(origin)}[{', '.join(show(a) for a in arguments)}]"
    return hint.__name__ if isinstance(hint, type) else str(hint).removeprefix("typing.")
