"""Whether two plans are the same: by their words, and by what they say."""

from __future__ import annotations

from collections.abc import Sequence

from engine_pink_elephant import prose
from engine_pink_elephant.gates import Fault
from engine_pink_elephant.vectors import Embed, centred

__all__ = ["Distinct"]

WORDS = 3
"""Words of a shingle."""


class Distinct:
    """The plans of one pair that were taken, and which of others say the same as one of them.

    Wording is compared exactly, by the share of common shingles: MinHash estimates the same
    figure, and pays where there are thousands. It sees copies and is blind to paraphrase: of 24
    plans and a paraphrase of each, no paraphrase shares a shingle with its plan more often than
    strangers do. That is for `embed`.
    """

    def __init__(self, embed: Embed | None, *, wording: float = 0.6, paraphrase: float) -> None:
        self.embed = embed
        self.wording = wording
        self.paraphrase = paraphrase
        self.taken: list[str] = []

    def take(self, plans: Sequence[str]) -> list[Fault | None]:
        """Take the plans that are new, and return why each of the others is not.

        `plan_repeated` has the words of an earlier plan, which is the span; `plan_paraphrased`
        says the same: the cosine of both is above `paraphrase` around the mean of all plans of the
        pair. Around their mean, as plans for one pair all look alike to an embedding.
        """
        everything = [*self.taken, *plans]
        shingles = [_shingles(plan) for plan in everything]
        alike = None
        if self.embed is not None:
            vectors = centred(self.embed(everything))
            alike = vectors @ vectors.T
        kept = list(range(len(self.taken)))
        faults: list[Fault | None] = []
        for at in range(len(self.taken), len(everything)):
            fault = None
            for earlier in kept:
                if _jaccard(shingles[at], shingles[earlier]) >= self.wording:
                    fault = Fault("plan_repeated", everything[earlier])
                elif alike is not None and alike[at, earlier] > self.paraphrase:
                    fault = Fault("plan_paraphrased", everything[earlier])
                if fault:
                    break
            if fault is None:
                kept.append(at)
            faults.append(fault)
        self.taken = [everything[at] for at in kept]
        return faults


def _shingles(plan: str) -> frozenset[tuple[str, ...]]:
    words = [word for word in prose.words(plan) if word.isalnum()]
    return frozenset(tuple(words[at : at + WORDS]) for at in range(max(1, len(words) - WORDS + 1)))


def _jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    common = len(a & b)
    return common / (len(a) + len(b) - common)
