"""When two names are the same name, and two topics the same topic."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from engine_pink_elephant.rows import Pair

__all__ = ["Starts", "Topics", "canonical", "homonym", "pair_key", "runs", "words"]

ALIKE = 90.0
"""How alike (rapidfuzz's ratio of sorted words, of 100) two topics are that are one."""
LONGEST = 4
"""Words of the longest run that is compared with a name."""
PREFIX = 5
"""Letters by which texts are found that may name a term."""

_SIGNS = str.maketrans({"+": " plus ", "&": " and ", "#": " sharp "})  # C++ and C# are not C
_APOSTROPHE = re.compile("['\u2019\u02bc`](?:s\\b)?")
_WORD = re.compile(r"[^\W_]+")
_ENDING = re.compile(r"(?:ing|ies|es|[sye])$")
_ARTICLES = frozenset({"a", "an", "the"})
_LITTLE = _ARTICLES | {"and", "at", "for", "in", "of", "on", "or", "to", "with"}

_BOTH = """
alexa alphabet amazon android apple bandit basecamp bass beats blackberry blender bolt boots
bounce bounty brave bridge brooks bumble burton canon caterpillar champion charter chase chili
chrome coach cobra columbia converse corona cricket curling dash dawn delta diesel discord
discover dodge dolphin dove eclipse edge element ether excel express falcon ferret fiat fidelity
focus forest fossil frontier gala galaxy gap gateway ghost go guess hinge hive home impala
indigo ivory jaguar java joker julia kite lark leaf lean legend lightning lime lincoln lotus mac
magnum mars match mercury messenger meta mini mint monday monopoly moose mustang nest nice
nirvana notion nova numbers office on opera oracle orange outlook pages panther patron peacock
pearl perl pilot pixel plaid play polo prime progressive puma python quest quicken ram ranger
raspberry react reserve ring risk robin ruby rust sage salt scala scout shell signal slack
snickers snow sonic spark sprint square staples steam stitch stripe subway sun swatch swift
tango target teams thunder tide tinder titan trident turkey twist unity valve vanguard vine
virgin visa volt warriors wave whole wing wise zoom
"""
_HOMONYMS = frozenset(_BOTH.split())
"""Words that are also names, or names that are also words: a judge looks at their rows."""


def words(text: str) -> list[str]:
    """Return a text's words as they are compared: folded, without plural endings."""
    return [_stem(word) for word in _folded(text)]


def canonical(text: str) -> str:
    """Return the key of a name: case, accents, spaces, articles and plurals do not count.

    >>> canonical("The Beatles") == canonical("Beatle"), canonical("C++") == canonical("C#")
    (True, False)
    """
    found = words(text)
    if len(found) > 1 and found[0] in _ARTICLES:
        found = found[1:]
    return "".join(found) or str(text).strip().casefold()


def pair_key(of: Pair) -> tuple[str, str]:
    """Return an unordered pair's key."""
    one, two = sorted((canonical(of.desired), canonical(of.pink)))
    return one, two


def homonym(text: str) -> bool:
    """Return whether a name is known to be a common word, too, or another name."""
    found = _folded(text)
    return len(found) == 1 and found[0] in _HOMONYMS


def runs(text: str) -> set[str]:
    """Return the keys of all names that may stand in a text: of each run of its words."""
    found = words(text)
    keys = {
        "".join(found[start:stop])
        for start in range(len(found))
        for stop in range(start + 1, min(start + LONGEST, len(found)) + 1)
    }
    return keys | {canonical(text)}


class Starts:
    """Find, among many texts, those that may name a term: a word begins as the term does."""

    def __init__(self, texts: Iterable[tuple[int, str]]) -> None:
        self._found = sorted({(head, at) for at, text in texts for head in _heads(text)})

    def __call__(self, term: str) -> set[int]:
        """Return the numbers of the texts that may name `term`; none that does is missing."""
        folded = _folded(term)
        if len(folded) > 1 and folded[0] in _ARTICLES:
            folded = folded[1:]
        probe = _ENDING.sub("", "".join(folded))[:PREFIX]
        found = set()
        for at in range(bisect_left(self._found, (probe,)), len(self._found)):
            head, number = self._found[at]
            if not head.startswith(probe):
                break
            found.add(number)
        return found


class _Topic(NamedTuple):
    key: str
    words: frozenset[str]


class Topics:
    """Topics that are told apart: by their words, whatever the order, the plurals, the little ones.

    A topic is another's near-duplicate where their words are spelt almost alike, or where all the
    words of one, two at least, are in the other.
    """

    def __init__(self) -> None:
        self._topics: list[_Topic] = []
        self._keys: list[str] = []
        self._with: dict[str, list[int]] = {}

    def add(self, topic: str) -> int:
        """Add a topic; return its number."""
        made = _topic(topic)
        number = len(self._topics)
        self._topics.append(made)
        self._keys.append(made.key)
        for word in made.words:
            self._with.setdefault(word, []).append(number)
        return number

    def near(self, topic: str) -> list[int]:
        """Return the numbers of the topics that this one nearly repeats, in order."""
        from rapidfuzz import fuzz, process

        made = _topic(topic)
        alike = process.extract(
            made.key, self._keys, scorer=fuzz.ratio, score_cutoff=ALIKE, limit=None
        )
        near = {number for _, _, number in alike}
        for number in {n for word in made.words for n in self._with.get(word, ())}:
            less, more = sorted((made.words, self._topics[number].words), key=len)
            if len(less) > 1 and less <= more:
                near.add(number)
        return sorted(near)


def _topic(text: str) -> _Topic:
    found = [word for word in words(text) if word not in _LITTLE] or words(text)
    return _Topic(" ".join(sorted(found)), frozenset(found))


def _folded(text: str) -> list[str]:
    plain = _APOSTROPHE.sub("", str(text)).translate(_SIGNS)
    folded = unicodedata.normalize("NFKD", plain).casefold()
    return _WORD.findall("".join(c for c in folded if not unicodedata.combining(c)))


def _stem(word: str) -> str:
    """Return a word without what a plural may add: cookie, cookies: cooki; potatoes: potato."""
    if len(word) > 3:
        if word[-1] == "s" and word[-2] not in "sui":
            word = word[:-1]
        if word[-1] == "e":
            word = word[:-1]
        if word[-1] == "y":
            word = word[:-1] + "i"
    return word


def _heads(text: str) -> Iterator[str]:
    """Yield the first letters from each word on, for a name may be written as one word or two."""
    found: Sequence[str] = _folded(text)
    for at in range(len(found)):
        yield "".join(found[at : at + PREFIX])[:PREFIX]
