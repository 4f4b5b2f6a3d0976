"""Whether a field of one type may be read as another, before a row exists."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from engine.stages import strip_annotated
from engine.text import Text

__all__ = ["fits", "show"]


def fits(made: Any, wanted: Any) -> bool:
    """Return whether every value of type `made` is a value of type `wanted`.

    `Annotated` is stripped; each member of a made union must fit; int fits float, bool only bool;
    str fits Text (the engine makes a leaf of it); containers are covariant; classes by subclass.
    """
    made, wanted = _plain(made), _plain(wanted)
    if wanted is Any or wanted is object or made is Any or made == wanted:
        return True
    if get_origin(made) in (Union, types.UnionType):
        return all(fits(member, wanted) for member in get_args(made))
    if get_origin(wanted) in (Union, types.UnionType):
        return any(fits(made, member) for member in get_args(wanted))
    if get_origin(made) is Literal:
        values = get_args(made)
        if get_origin(wanted) is Literal:
            return set(values) <= set(get_args(wanted))
        return all(fits(type(value), wanted) for value in values)
    if get_origin(wanted) is Literal:
        return False
    if isinstance(made, typing.TypeVar) or isinstance(wanted, typing.TypeVar):
        return True
    made_class, wanted_class = get_origin(made) or made, get_origin(wanted) or wanted
    if not (isinstance(made_class, type) and isinstance(wanted_class, type)):
        return False
    if made_class is bool and wanted_class is not bool:
        return False
    if made_class is int and wanted_class is float:
        return True
    if made_class is str and wanted_class is Text:
        return True
    if not issubclass(made_class, wanted_class):
        return False
    return _arguments_fit(made, made_class, wanted, wanted_class)


def _arguments_fit(made: Any, made_class: type, wanted: Any, wanted_class: type) -> bool:
    inner, outer = get_args(made), get_args(wanted)
    if not outer or not inner:
        return True  # a bare container says nothing of its items
    if issubclass(made_class, tuple):
        fixed = not (len(inner) == 2 and inner[1] is Ellipsis)
        if wanted_class is tuple and not (len(outer) == 2 and outer[1] is Ellipsis):
            return fixed and len(inner) == len(outer) and all(map(fits, inner, outer))
        items = inner if fixed else inner[:1]
        return all(fits(item, outer[0]) for item in items)
    if issubclass(wanted_class, (Mapping, Sequence, set, frozenset)):
        return len(inner) == len(outer) and all(map(fits, inner, outer))
    return inner == outer


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
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(show(member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return " | ".join(repr(value) for value in get_args(hint))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is not None:
        return f"{show(origin)}[{', '.join(show(a) for a in arguments)}]"
    return hint.__name__ if isinstance(hint, type) else str(hint).removeprefix("typing.")
