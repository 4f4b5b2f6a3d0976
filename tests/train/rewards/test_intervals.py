"""Intervals: known values, and that they hold what they promise as often as they say."""

import random

import pytest
from engine_train import intervals


@pytest.mark.parametrize(
    ("wins", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_as_published(wins: float, count: int, low: float, high: float) -> None:
    assert intervals.wilson(wins, count) == pytest.approx((low, high), abs=5e-5)


def test_wilson_has_a_width_where_all_or_none_is_won() -> None:
    assert intervals.wilson(9, 9)[1] == 1.0
    assert intervals.wilson(9, 9)[0] == pytest.approx(1 - intervals.wilson(0, 9)[1])
    assert intervals.wilson(0, 0) == (0.0, 1.0)


def test_a_paired_difference_is_that_of_the_means() -> None:
    ours, theirs = [1, 1, 0.5, 0, 1], [1, 0, 0, 0, 1]
    mean, low, high = intervals.difference(ours, theirs)
    assert mean == pytest.approx(0.3)
    assert low < mean < high
    assert intervals.difference(theirs, ours)[0] == pytest.approx(-0.3)


def test_equal_scores_leave_room_for_a_difference() -> None:
    few, many = (intervals.difference([1.0] * n, [1.0] * n) for n in (10, 1000))
    assert few[0] == many[0] == 0
    assert few[1] < many[1] < 0 < many[2] < few[2]
    assert intervals.difference([], []) == (0.0, -1.0, 1.0)


def test_a_paired_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    draw, held, runs = random.Random(0), 0, 600
    for _ in range(runs):
        pairs = draw.choices([(1, 1), (1, 0), (0, 1), (0, 0)], [0.5, 0.15, 0.1, 0.25], k=120)
        _, low, high = intervals.difference(*zip(*pairs, strict=True))
        held += low <= 0.05 <= high
    assert 0.93 <= held / runs <= 0.98
