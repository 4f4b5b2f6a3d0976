"""The registry of pairs: how often each pair, and each of its terms, is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Sequence

from pydantic import PositiveInt

from engine import Estimate, Reject, plan_of, stage
from engine_pink_elephant import naming
from engine_pink_elephant.rows import Pair

__all__ = ["Registry", "unique_pairs"]


@stage("pink.unique_pairs")
async def unique_pairs(
    pairs: AsyncIterable[Pair], *, cap: PositiveInt = 3
) -> AsyncIterator[Pair | Reject]:
    """Keep an unordered pair once, and a term in at most `cap` pairs, over all topics.

    A term that is another's alias is the same term; where a pair's names would make two terms one
    that stand apart in other pairs, it is rejected as `names_two_terms`.
    """
    registry = Registry(cap)
    async for pair in pairs:
        fault = registry.add(pair)
        yield pair.reject(fault) if fault else pair


class Registry:
    """The pairs that were taken, by their terms; an alias stands for the term that bears it."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._terms: dict[str, str] = {}  # key of a name that is a pair's term: the term's first
        self._bearers: dict[str, set[str]] = {}  # key of an alias: the terms that bear it
        self._uses: Counter[str] = Counter()
        self._pairs: set[tuple[str, ...]] = set()

    def add(self, pair: Pair) -> str | None:
        """Take a pair, or return why it cannot be taken."""
        sides = [_side(pair.desired, pair.aliases_desired), _side(pair.pink, pair.aliases_pink)]
        if pair.described:  # what shows a description is no name of it
            sides = [side[:1] for side in sides]
        named = [self._named(side) for side in sides]
        if any(len(found) > 1 for found in named):
            return "names_two_terms"
        one, two = (
            found.pop() if found else side[0] for found, side in zip(named, sides, strict=True)
        )
        if one == two or sides[0][0] in sides[1] or sides[1][0] in sides[0]:
            return "same_term"
        both = tuple(sorted((one, two)))
        if both in self._pairs:
            return "pair_repeated"
        if any(self._uses[term] >= self._cap for term in both):
            return "term_overused"
        self._pairs.add(both)
        self._uses.update(both)
        for term, (name, *others) in zip((one, two), sides, strict=True):
            self._terms[name] = term
            for other in others:
                self._bearers.setdefault(other, set()).add(term)
        return None

    def _named(self, side: Sequence[str]) -> set[str]:
        """Return the terms that a side of a pair is: by its name, or by an alias."""
        found = {self._terms[name] for name in side if name in self._terms}
        return found | self._bearers.get(side[0], set())


def _side(name: str, aliases: Sequence[str]) -> list[str]:
    return [naming.canonical(name), *map(naming.canonical, aliases)]


@plan_of(unique_pairs)
def unique_pairs_estimate(rows: int) -> Estimate:
    """All pairs are assumed to be unique."""
    return Estimate(rows)
