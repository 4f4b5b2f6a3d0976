"""Which plans are the same: copies by their words, paraphrases around the mean of all."""

from itertools import combinations

import numpy as np
from engine_pink_elephant.distinct import Distinct
from hypothesis import given
from hypothesis import strategies as st

A = "A student who is short of money asks about tea first. In the end he asks about coffee."
COPY = "A student, who is short of money, asks about tea first. At the end he asks about coffee!"
B = "A nurse on a double shift wonders which tea keeps her awake, and then if coffee is better."
C = "A gardener spreads old tea leaves under her roses, and asks whether coffee grounds do more."


def test_copies_are_found_by_their_words_and_the_first_stays() -> None:
    distinct = Distinct(None, paraphrase=0.35)
    faults = distinct.take([A, B, COPY])
    assert [fault and (fault.reason, fault.span) for fault in faults] == [
        None,
        None,
        ("plan_repeated", A),
    ]
    assert distinct.taken == [A, B]


def test_what_was_taken_before_counts() -> None:
    distinct = Distinct(None, paraphrase=0.35)
    distinct.take([A])
    assert [fault and fault.reason for fault in distinct.take([B, COPY, B, C])] == [
        None,
        "plan_repeated",
        "plan_repeated",
        None,
    ]


def test_paraphrases_are_found_around_the_mean() -> None:
    # All point one way, as plans for one pair do: only what sets them apart is compared.
    away = {"a": (0, 1, 0), "a in other words": (0, 1, 0.2), "b": (0, -1, 1), "c": (0, -1, -1)}

    def embed(texts):  # type: ignore[no-untyped-def]
        return np.array([(9, *away[text][1:]) for text in texts], np.float32)

    faults = Distinct(embed, paraphrase=0.35).take(list(away))
    assert [fault and fault.reason for fault in faults] == [None, "plan_paraphrased", None, None]
    assert not any(Distinct(embed, paraphrase=0.999).take(list(away)))


WORDS = st.lists(
    st.sampled_from(["tea", "coffee", "asks", "about", "the", "a", "user"]), max_size=9
)


@given(st.lists(WORDS.map(" ".join), max_size=12))
def test_what_is_taken_has_no_two_alike_and_all_else_is_like_it(plans: list[str]) -> None:
    distinct = Distinct(None, paraphrase=0.35)
    faults = distinct.take(plans)
    assert distinct.taken == [p for p, f in zip(plans, faults, strict=True) if f is None]
    for pair in combinations(distinct.taken, 2):
        assert not any(Distinct(None, paraphrase=0.35).take(pair))
    for plan, fault in zip(plans, faults, strict=True):
        if fault is not None:
            assert fault.span in distinct.taken
            assert any(Distinct(None, paraphrase=0.35).take([fault.span, plan]))
