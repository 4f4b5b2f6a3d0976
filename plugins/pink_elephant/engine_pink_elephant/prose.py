"""Cutting and comparing prose; every cut is a slice, so that a text keeps its graph."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

from engine import Text

__all__ = ["locate", "repeats", "sentence_at", "similarity", "tokens", "whole"]

_END = re.compile(r"""[.!?…]["'”’)\]]*(?=\s|$)""")  # noqa: RUF001
_TOKEN = re.compile(r"\w+|[^\w\s]")


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
    words = str(quote).strip(' .,;:!?…"“”').split()
    if not words:
        return None
    found = re.search(r"\s+".join(map(re.escape, words)), text, re.IGNORECASE)
    return text[found.start() : found.end()] if found else None


def tokens(text: str) -> list[str]:
    """Return the words and marks of a text, in small letters."""
    return _TOKEN.findall(str(text).casefold())


def similarity(a: str, b: str) -> float:
    """Return how much of two texts is the same, word by word in order: 0 nothing, 1 all.

    Twice the length of the longest common subsequence over both lengths.
    """
    from rapidfuzz.distance import Indel

    return Indel.normalized_similarity(tokens(a), tokens(b))


def repeats(text: str, *, size: int = 4, times: int = 3) -> bool:
    """Return whether some run of `size` words comes back `times` times: a loop, not prose."""
    words = str(text).casefold().split()
    runs = list(zip(*(words[i:] for i in range(size)), strict=False))
    if len(runs) - len(set(runs)) < times - 1:  # the usual case, and cheap
        return False
    return max(Counter(runs).values()) >= times
