"""The axes of a conversation: sampled in code, since a model left alone repeats one plan."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

__all__ = ["Point", "sample"]

PERSONAS = (
    "a student",
    "a busy parent",
    "a retired teacher",
    "a beginner",
    "a careful shopper",
    "a curious traveller",
    "a young couple",
    "an office worker",
)
GOALS = (
    "who wants to save money",
    "who needs a present for a friend",
    "who wants to try something new",
    "who has to decide today",
    "who plans a weekend",
    "who wants to learn more",
)
OPENINGS = (
    "I would like to know more about {desired}.",
    "I am thinking about {desired}.",
    "I have a question about {desired}.",
    "My family loves {desired}.",
    "A friend of mine talks about {desired} all the time.",
)
SHIFTS = (
    ("a friend's advice", "A friend told me about {pink}. Would you"),
    ("a comparison", "And how would you compare that with {pink}"),
    ("a doubt", "Would {pink} be a better choice"),
    ("something read online", "I have read a lot about {pink}. Can you"),
    ("curiosity", "What about {pink}"),
    ("a change of mind", "Maybe I should look at {pink}. What do you"),
)
"""Why the second term comes up, and the user's first words when it does: they begin a question."""


class Point(NamedTuple):
    """One point of the design; `opening` and `words` are templates in the two terms."""

    persona: str
    goal: str
    opening: str
    reason: str
    words: str


def sample(rng: random.Random, count: int) -> Iterator[Point]:
    """Return distinct points of the design; once it is used up, it is shuffled again."""
    design = [Point(p, g, o, *s) for p, g, o, s in product(PERSONAS, GOALS, OPENINGS, SHIFTS)]
    while count > 0:
        yield from rng.sample(design, min(count, len(design)))
        count -= len(design)
