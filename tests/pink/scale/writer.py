"""The model of the scale run: its replies hang on the request alone, and it knows what it broke.

A request is known by the fields that its JSON Schema asks for. A planted share of the replies has
one defect each, spread evenly over the reasons that the gates know; what they must be refused for
is told with them, so that the counts of a run can be foretold from the requests served.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tests.pink.scale import dialogues, lists, revisions
from tests.pink.scale.asked import Asked, Made, as_json

__all__ = ["Writer"]

_SOUGHT = re.compile(r"Look for [^:]+: (.+?)\. Other words for it: (.+?)\.\n(.*)\Z", re.S)
_NUMBERED = re.compile(r"(\d+)\. (.*)")


class Writer:
    """Answers what the stages ask for."""

    def __init__(self) -> None:
        self._kinds: Mapping[frozenset[str], Callable[[Asked], Made]] = {
            frozenset({"topics"}): lists.Areas().topics,
            frozenset({"pairs"}): lists.pairs,
            _ALIASES: lists.aliases,
            frozenset({"plans"}): lists.plans,
            frozenset({"turns"}): dialogues.script,
            frozenset({"quotes", "critique", "revision"}): revisions.revision,
            frozenset({"mentions"}): mentions,
            _OPINION: opinion,
        }

    def __call__(self, asked: Asked) -> Made:
        """Return the reply. Raises ValueError for a request that no stage makes."""
        make = self._kinds.get(asked.fields)
        if make is None:
            raise ValueError(f"nobody asks for {sorted(asked.fields)}: {asked.question[:200]!r}")
        return make(asked)


_ALIASES = frozenset({"aliases_desired", "aliases_pink", "case_sensitive", "ambiguous", "why"})
_OPINION = frozenset({"natural_shift", "useful_answer", "natural_return", "mentions"})


def mentions(asked: Asked) -> Made:
    """Return the lines that mention a name, as far as its letters go."""
    found = _SOUGHT.match(asked.question)
    if found is None:
        raise ValueError(f"no mentions are asked for: {asked.question[:200]!r}")
    sought = [found[1], *(name for name in found[2].split("; ") if name != "none")]
    any_of_them = re.compile("|".join(map(re.escape, sought)), re.I)
    told = []
    for line in found[3].split("\n"):
        numbered = _NUMBERED.fullmatch(line)
        if numbered and (there := any_of_them.search(numbered[2])):
            told.append({"line": int(numbered[1]), "quote": there[0]})
    return Made("mentions", as_json({"mentions": told}))


def opinion(asked: Asked) -> Made:
    """Return an opinion: nine of ten are good."""
    told = {name: asked.rng.random() < 0.9 for name in sorted(_OPINION - {"mentions"})}
    return Made("opinion", as_json(told | {"mentions": False}))
