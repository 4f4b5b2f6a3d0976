"""Where a text names a term: the one question on which every gate of this plugin rests.

A plain search misses "Adidas'", "Coca Cola" for "Coca-Cola", "g-o-l-f" and letters of other scripts
that look Latin; here text and term are folded alike, and what is found is mapped back to the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Mention", "find", "names"]


class Mention(NamedTuple):
    """Where a text names a term."""

    start: int
    stop: int
    form: str
    """The characters found."""


# Letters of other scripts that look Latin: a term must not hide behind them.
_LOOKALIKES = str.maketrans(
    "АВЕЅІЈКМНОРСТХУаеѕіјорсхуһԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧανορτυχıɡ",
    "ABESIJKMHOPCTXYaesijopcxyhdqwABEZHIKMNOPTYXavoptuxig",
)
_DROPPED = frozenset({"Mn", "Me", "Cf"})  # accents and zero-width characters
_PLAIN = str.maketrans(dict.fromkeys("‘’ʼ", "'") | dict.fromkeys("‐‑‒–—−", "-") | {"ß": "ss"})  # noqa: RUF001
_PIECE = re.compile(r"[^\W_]+|[+#&@$]|(?<![^\W_])\.(?=[^\W_])")  # C++, C#, R&D and .NET are names
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")  # PlayStation 5
_BETWEEN = r"[\W_]{0,3}"
_ENDINGS = r"(?:(?:e?s)?'?s?)"
_VERBAL = r"(?:e|es|s|ed|ing|ings|er|ers)?'?s?"


def find(
    text: str, term: str, aliases: Sequence[str] = (), *, case_sensitive: bool = False
) -> list[Mention]:
    """Return where `text` names the term or one of its aliases, in order; [] where it does not.

    Places are in code points. Plurals, possessives, other separators, accents, full-width and
    look-alike letters, zero-width characters and s p a c e d letters count. With `case_sensitive`
    a term counts as it is written or in capitals throughout.

    >>> find("I prefer Coca Cola's taste.", "Coca-Cola")
    [Mention(start=9, stop=20, form="Coca Cola's")]
    """
    folded, places = _folded(text)
    pattern = _pattern((term, *aliases), case_sensitive)
    ends = (*places[1:], len(text))  # up to the next character: an accent belongs to its letter
    found = []
    for m in pattern.finditer(folded):
        start, stop = places[m.start()], max(places[m.end() - 1] + 1, ends[m.end() - 1])
        found.append(Mention(start, stop, str(text[start:stop])))
    return found


def names(
    text: str, term: str, aliases: Sequence[str] = (), *, case_sensitive: bool = False
) -> bool:
    """Return whether `text` names the term or one of its aliases; see `find`."""
    return _pattern((term, *aliases), case_sensitive).search(_folded(text)[0]) is not None


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """Return the text as it is compared, and for each of its characters the place in `text`."""
    if text.isascii():
        return str(text), range(len(text))
    chars: list[str] = []
    places: list[int] = []
    for place, char in enumerate(str(text)):
        for part in unicodedata.normalize("NFKD", char.translate(_PLAIN)):
            if unicodedata.category(part) not in _DROPPED:
                chars.append(part.translate(_LOOKALIKES))
                places.append(place)
    return "".join(chars), places


@lru_cache(maxsize=4096)
def _pattern(terms: tuple[str, ...], case_sensitive: bool) -> re.Pattern[str]:
    """Return the pattern that finds any of the terms in a folded text."""
    forms: list[str] = []
    for term in terms:
        written = _folded(term)[0]
        forms += _forms(written)
        if case_sensitive:
            forms += _forms(written.upper())
    found = "|".join(sorted(set(forms), key=lambda form: (-len(form), form)))
    return re.compile(found or r"(?!)", re.NOFLAG if case_sensitive else re.IGNORECASE)


def _forms(term: str) -> list[str]:
    """Return the alternatives for one folded term."""
    pieces = [part for piece in _PIECE.findall(term) for part in _HUMP.split(piece)]
    if not pieces:
        return []
    if pieces[0].lower() == "the" and len("".join(pieces[1:])) > 3:
        pieces = pieces[1:]  # "the Beatles" is named by "Beatles"; "the Who" is not by "who"
    last = pieces[-1]
    before = "".join(_literal(piece) + _gap(piece, after) for piece, after in pairwise(pieces))
    start = r"(?<![^\W_])" if pieces[0][0].isalnum() or pieces[0] == "." else ""
    if not last.isalnum():
        return [start + before + re.escape(last)]
    forms = [
        start + before + _literal(stem) + endings + r"(?![^\W_])" for stem, endings in _stems(last)
    ]
    if (letters := "".join(pieces)).isalpha() and len(letters) >= 4:
        forms.append(start + r"[\W_]".join(letters) + r"(?![^\W_])")
    return forms


def _gap(piece: str, after: str) -> str:
    """Return what may stand between two pieces of a term."""
    return r"\s?" if not (piece.isalnum() and after.isalnum()) else _BETWEEN


def _literal(piece: str) -> str:
    return r"(?:&|and)" if piece == "&" else re.escape(piece)


def _stems(word: str) -> list[tuple[str, str]]:
    """Return the stems of a term's last word, each with the endings that it may take."""
    stems = [(word, _ENDINGS)]
    lower = word.lower()
    if lower.endswith("y") and len(word) > 3:
        stems.append((word[:-1], r"ies'?"))
    if lower.endswith("ies") and len(word) > 4:
        stems.append((word[:-3] + ("Y" if word.isupper() else "y"), _ENDINGS))
    elif lower.endswith("s") and not lower.endswith(("ss", "us", "is")) and len(word) > 3:
        stems.append((word[:-1], _ENDINGS))
        if lower.endswith(("shes", "ches", "xes", "sses")):
            stems.append((word[:-2], _ENDINGS))
    if lower.endswith("ing") and re.search("[aeiouy]", lower[:-3]) and len(word) > 5:
        stem = word[:-3]  # skiing: ski, skis, skier; running: run; cycling: cycle
        stems.append((stem, _VERBAL))
        if len(stem) > 3 and stem[-1] == stem[-2]:
            stems.append((stem[:-1], _VERBAL))
    return stems
