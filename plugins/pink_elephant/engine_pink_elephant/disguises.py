"""Names that no word spells: grown together with other words, starred out, drawn out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine_pink_elephant import vocabulary
from engine_pink_elephant.folding import Folded
from engine_pink_elephant.terms import Key, Keys

__all__ = ["DOMAIN", "HOST", "censored", "compounds", "drawn_out", "is_address"]

_TLD = (
    r"(?:com?|org|net|io|dev|app|ai|info|biz|tv|me|us|uk|de|fr|es|it|nl|be|ch|at|se|no|dk|fi|pl|pt"
    r"|ie|eu|ca|au|nz|in|jp|cn|kr|br|mx|ru|tr|za|shop|store|online|edu|gov)"
)
DOMAIN = re.compile(rf"\.(?:(?:co|com|org|net|ac)\.)?{_TLD}(?![a-z0-9-]|\.[a-z])")
HOST = re.compile(rf"\.{_TLD}(?![a-z0-9-])")


def is_address(low: str, start: int, stop: int) -> bool:
    """Return whether a part of a text is a handle, or a domain's own label."""
    before = low[start - 1 : start]
    if before == "@":
        return True
    return not (before and before in "-_") and DOMAIN.match(low, stop) is not None


_COMPOUND = re.compile(r"[#@][a-z0-9_]{3,64}|(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,12}")


def compounds(folded: Folded, wanted: Keys) -> Iterator[tuple[int, int]]:
    """Yield names grown together with other words in hashtags, handles and domains."""
    for m in _COMPOUND.finditer(folded.low):
        at = m.start()
        labels = m[0][1:].split("_") if m[0][0] in "#@" else m[0].split(".")[:-1]
        at += m[0][0] in "#@"
        for label in labels:
            for key in wanted.labels:
                if (inside := _inside(label, key)) is not None:
                    yield at + inside, at + inside + len(key.letters)
            at += len(label) + 1


def _inside(label: str, key: Key) -> int | None:
    """Return where a label has a name at its start or end, and enough to tell that it is one."""
    name, rest = key.letters, len(label) - len(key.letters)
    if rest == 0:
        return 0 if label == name and not key.exact else None
    if rest < 0 or len(name) < 4:
        return None
    sure = not key.exact and len(name) >= (7 if key.several else 6) and (key.proper or key.several)
    if label.startswith(name) and (
        sure or label[len(name) :].strip("-0123456789") in vocabulary.AFFIXES
    ):
        return 0
    if label.endswith(name) and (sure or label[:rest].strip("-0123456789") in vocabulary.AFFIXES):
        return rest
    return None


_STARRED = re.compile(r"[a-z*]+")


def censored(low: str, wanted: Keys) -> Iterator[tuple[int, int]]:
    """Yield names with a few letters starred out: N*ke."""
    for m in _STARRED.finditer(low):
        word = m[0].strip("*")
        if "*" not in word or 5 * word.count("*") > 2 * len(word):
            continue
        for name in wanted.longest:
            if len(name) == len(word) and all(
                a in (b, "*") for a, b in zip(word, name, strict=True)
            ):
                start = m.start() + m[0].index(word)
                yield start, start + len(word)


_LETTERS = re.compile(r"[a-z]+")
_TWICE = re.compile(r"(.)\1+")


def drawn_out(folded: Folded, wanted: Keys) -> Iterator[tuple[int, int]]:
    """Yield names with a letter drawn out: Nikeee."""
    for m in _LETTERS.finditer(folded.low):
        word = m[0]
        if any(triple in word for triple in wanted.triples):
            short = _TWICE.sub(r"\1", word)
            for name in wanted.longest:
                if _TWICE.sub(r"\1", name) == short and len(name) < len(word):
                    yield m.start(), m.end()
