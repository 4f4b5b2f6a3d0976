"""Cutting and comparing prose; every cut is a slice, so that a text keeps its graph."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice, pairwise

from engine import Text

__all__ = ["locate", "repeats", "same", "sentence_at", "similarity", "whole", "words"]

_END = re.compile(r"""[.!?…]["'”’)\]]*(?=\s|$)""")  # noqa: RUF001
_WORD = re.compile(r"\w+")
_REST = re.compile("[A-Za-z0-9]*")
_ENDINGS = ("", "s", "es", "d", "ed", "ing", "er", "ers")
_MARKS = {code: " " for code in range(128) if not _WORD.match(chr(code))}


def whole(text: Text, *, sentences: int | None = None) -> Text:
    """Return the text's whole sentences (the first so many), "" if it has none."""
    ends = [match.end() for match in islice(_END.finditer(text), sentences)]
    return text[: ends[-1]].strip() if ends else text[:0]


def sentence_at(text: Text, place: int) -> Text:
    """Return the sentence that holds the character at `place`, without its final punctuation."""
    start, stop = 0, len(text)
    for match in _END.finditer(text):
        if match.end() <= place:
            start = match.end()
        else:
            stop = match.start()
            break
    return text[start:stop].strip()


def locate(quote: str, text: Text) -> Text | None:
    """Return the slice of `text` that `quote` quotes; case, spaces and final marks are forgiven."""
    parts = str(quote).strip(' .,;:!?…"“”').split()
    if not parts:
        return None
    start = str(text).find(exact := " ".join(parts))
    if start >= 0 and _apart(text, start, start + len(exact)):  # the usual case, and cheap
        return text[start : start + len(exact)]
    for found in re.finditer(r"\s+".join(map(re.escape, parts)), text, re.IGNORECASE):
        if _apart(text, *found.span()):
            return text[found.start() : found.end()]
    return None


def _apart(text: str, start: int, stop: int) -> bool:
    """Return whether a place cuts no word but for an ending; where a script has no spaces, it may.

    Who quotes a name may leave a plural's s.
    """
    before = text[max(0, start - 1) : start + 1]
    if len(before) == 2 and before.isascii() and before.isalnum():
        return False
    rest = _REST.match(text, stop) if text[stop - 1].isascii() else None
    return rest is None or rest[0].lower() in _ENDINGS


def words(text: str) -> list[str]:
    """Return the words of a text, in small letters."""
    low = str(text).casefold()
    return low.translate(_MARKS).split() if low.isascii() else _WORD.findall(low)


def similarity(a: str, b: str) -> float:
    """Return how much of two texts is the same, word by word in order: 0 nothing, 1 all.

    Twice the length of the longest common subsequence over both lengths.
    """
    from rapidfuzz.distance import Indel

    return Indel.normalized_similarity(words(a), words(b))


def same(a: str, b: str, *, least: float = 0.9) -> bool:
    """Return whether two texts are the same but for some characters: `least` of them, in order."""
    from rapidfuzz.distance import Indel

    return Indel.normalized_similarity(str(a).lower(), str(b).lower(), score_cutoff=least) > 0


def repeats(text: str, *, size: int = 4, times: int = 3) -> bool:
    """Return whether some run of `size` words comes back `times` times: a loop, not prose."""
    said = str(text).casefold().split()
    pairs = len(said) - 1 - len(set(pairwise(said)))
    if pairs < size + times - 3:  # so many pairs of words come back in the shortest loop
        return False
    runs = Counter(zip(*(said[i:] for i in range(size)), strict=False))
    return max(runs.values(), default=0) >= times
