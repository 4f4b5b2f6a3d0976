"""The grammar of templates: `{field}` placeholders in literal text, `{{` and `}}` for braces."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from engine.text.errors import Misplaced

if TYPE_CHECKING:
    from engine.text.strings import Text

Part: TypeAlias = "tuple[int, int] | int"  # a literal's (start, stop), or a field's index

_TOKEN = re.compile(r"\{\{|\}\}|\{(?P<name>[^\W\d]\w*)\}|(?P<bad>\{[^{}\n]*\}?|\})")


class Form:
    """A stretch [lo, hi) of a template's leaf, divided into literals and fields."""

    __slots__ = ("fields", "hi", "leaf", "literals", "lo", "order", "parts")

    def __init__(self, leaf: Text, lo: int, hi: int) -> None:
        self.leaf = leaf
        self.lo = lo
        self.hi = hi
        self.parts, self.fields = parse(str(leaf), lo, hi)
        # For weaving: literals at the even places of a list, a slot for a value at each odd one.
        self.literals: list[str] = [""]
        for part in self.parts:
            if isinstance(part, int):
                self.literals += ("", "")
            else:
                self.literals[-1] += str.__getitem__(leaf, slice(*part))
        self.order = tuple(part for part in self.parts if isinstance(part, int))

    def weave(self, args: tuple[str, ...]) -> str:
        """The characters of the form filled with `args`, which stand in the order of `fields`."""
        woven = self.literals.copy()
        woven[1::2] = [args[i] for i in self.order]
        return "".join(woven)


@lru_cache(maxsize=256)
def parse(text: str, lo: int, hi: int) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """The parts of text[lo:hi] and its field names in order of first use.

    Raises Misplaced for any other use of a brace.
    """
    parts: list[Part] = []
    fields: list[str] = []
    done = lo
    for token in _TOKEN.finditer(text, lo, hi):
        start, stop = token.span()
        if token["bad"]:
            raise Misplaced(
                start,
                f"{token['bad'][:40]!r} is not a placeholder; "
                "write {name} for a field, and {{ or }} for a brace",
            )
        if token["name"]:
            if start > done:
                parts.append((done, start))
            if token["name"] not in fields:
                fields.append(token["name"])
            parts.append(fields.index(token["name"]))
        else:
            parts.append((done, start + 1))  # the first of the two braces is the character
        done = stop
    if hi > done:
        parts.append((done, hi))
    return tuple(parts), tuple(fields)
