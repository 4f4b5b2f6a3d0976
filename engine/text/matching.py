"""Regular expressions: their groups with the origin of every character."""

from __future__ import annotations

import re

from engine.text.errors import TextError
from engine.text.nodes import Select
from engine.text.strings import Text, make


def group(match: re.Match[str], key: int | str = 0) -> Text | None:
    """`match.group(key)` of a search in a Text, with its origin; None for an unmatched group.

    Raises TextError if a plain str was searched, IndexError for a group that does not exist.
    """
    source = match.string
    if not isinstance(source, Text):
        raise TextError("this match is of a plain str, whose origin is unknown: search in a Text")
    text, start = match[key], match.start(key)
    if text is None:
        return None
    recipe = ("group", str.__str__(match.re.pattern), match.re.flags, match.pos)
    return make(str.__str__(text), Select(source, start, recipe, key))
