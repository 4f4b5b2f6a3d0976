"""How different the texts of a set are: by their words, and by what they say."""

from __future__ import annotations

import bisect
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from engine_pink_elephant.vectors import Embed, centred, vendi

__all__ = ["Diversity", "distinct", "measured", "self_bleu"]

ORDERS = 4
_EPSILON = 0.1
_WORD = re.compile(r"\w+|[^\w\s]")

Gram = tuple[str, ...]


class Diversity(NamedTuple):
    """Figures of a set of texts; each depends on how many there are."""

    texts: int
    distinct_1: float
    """The share of the words that are different ones."""
    distinct_2: float
    """The same of pairs of neighbouring words."""
    self_bleu: float
    """How well the others predict a text, on average: 0 not at all, 1 to the letter."""
    vendi: float
    """How many texts there are in effect, as a share of their number: 1 is all different."""


def measured(texts: Sequence[str], embed: Embed) -> Diversity:
    """Return the figures of a set of texts; the Vendi score around their mean.

    Texts on one subject all look alike to an embedding: 24 plans for one pair, written to be
    different, score 9.6 as they are and 21.2 around their mean.
    """
    words = [_words(text) for text in texts]
    return Diversity(
        len(texts),
        distinct(words, 1),
        distinct(words, 2),
        self_bleu(words),
        vendi(centred(embed(texts))) / len(texts) if texts else 0.0,
    )


def distinct(texts: Sequence[Sequence[str]], order: int) -> float:
    """Return how many of the runs of `order` words are different, as a share; 0 of none.

    Li and others 2016, arXiv 1510.03055.
    """
    every = [gram for text in texts for gram in _grams(text, order)]
    return len(set(every)) / len(every) if every else 0.0


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Return the mean BLEU-4 of each text against all others; 0 of fewer than two.

    Zhu and others 2018, arXiv 1802.01886. A run of words counts as often as the other text with
    most of it has it: the two highest counts, and who has the highest, say that for every text at
    once. Where no run of an order is found, it counts as a tenth of one.
    """
    if len(texts) < 2:
        return 0.0
    logs = [0.0] * len(texts)
    for order in range(1, ORDERS + 1):
        counts = [Counter(_grams(text, order)) for text in texts]
        most: dict[Gram, tuple[int, int, int]] = {}  # highest, whose it is, second highest
        for who, counted in enumerate(counts):
            for gram, count in counted.items():
                first, owner, second = most.get(gram, (0, -1, 0))
                if count > first:
                    most[gram] = count, who, first
                elif count > second:
                    most[gram] = first, owner, count
        for who, counted in enumerate(counts):
            found = 0
            for gram, count in counted.items():
                first, owner, second = most[gram]
                found += min(count, second if owner == who else first)
            logs[who] += math.log((found or _EPSILON) / max(1, counted.total())) / ORDERS
    lengths = sorted(map(len, texts))
    scores = (
        math.exp(log) * _brevity(len(text), lengths) for log, text in zip(logs, texts, strict=True)
    )
    return sum(scores) / len(texts)


def _brevity(length: int, lengths: Sequence[int]) -> float:
    """Return BLEU's penalty for a text that is shorter than the other one nearest in length."""
    if not length:
        return 0.0
    at = bisect.bisect_left(lengths, length)  # the text itself stands here
    near = [lengths[i] for i in (at - 1, at + 1) if 0 <= i < len(lengths)]
    nearest = min(near, key=lambda other: (abs(other - length), other))
    return 1.0 if length >= nearest else math.exp(1 - nearest / length)


def _grams(words: Sequence[str], order: int) -> Iterator[Gram]:
    return zip(*(words[at:] for at in range(order)), strict=False)


def _words(text: str) -> list[str]:
    return _WORD.findall(str(text).casefold())
