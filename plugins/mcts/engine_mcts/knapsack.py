"""The 0/1 knapsack: instances of stated difficulty, with their exact optimum."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from engine import Context, Row, stage

__all__ = ["Instance", "instances", "optimum", "sample"]

Correlation = Literal["uncorrelated", "weak", "strong", "subset_sum"]


class Instance(Row):
    """One knapsack problem: positive integer weights and values; `best` is the optimum's value."""

    weights: tuple[int, ...]
    values: tuple[int, ...]
    capacity: int
    best: int


@stage("mcts.instances")
async def instances(
    *,
    ctx: Context,
    count: PositiveInt = 10,
    items: PositiveInt = 8,
    capacity_share: Annotated[float, Field(gt=0, le=1)] = 0.5,
    correlation: Correlation = "uncorrelated",
    most: PositiveInt = 100,
) -> AsyncIterator[Instance]:
    """Draw `count` knapsack instances of `items` items with weights up to `most`.

    The capacity is `capacity_share` of the total weight. The `correlation` of values with weights
    sets the difficulty, after Pisinger (2005), "Where are the hard knapsack problems?".
    """
    seed = ctx.rng.getrandbits(64)
    for number in range(
        count
    ):  # each from its own number: more instances change none of the others
        rng = random.Random(f"{seed}/{number}")
        weights, values = sample(rng, items, most, correlation)
        capacity = max(min(weights), int(capacity_share * sum(weights)))
        yield Instance(weights, values, capacity, optimum(weights, values, capacity)).keyed(
            str(number)
        )


def sample(
    rng: random.Random, items: int, most: int, correlation: Correlation
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (weights, values) of one instance."""
    weights = tuple(rng.randint(1, most) for _ in range(items))
    spread = max(1, most // 10)
    match correlation:
        case "uncorrelated":
            values = tuple(rng.randint(1, most) for _ in weights)
        case "weak":
            values = tuple(max(1, w + rng.randint(-spread, spread)) for w in weights)
        case "strong":
            values = tuple(w + spread for w in weights)
        case "subset_sum":
            values = weights
    return weights, values


def optimum(weights: Sequence[int], values: Sequence[int], capacity: int) -> int:
    """Return the value of the best packing, by dynamic programming over the capacity: O(n C)."""
    best = [0] * (capacity + 1)
    for weight, value in zip(weights, values, strict=True):
        for room in range(capacity, weight - 1, -1):
            best[room] = max(best[room], best[room - weight] + value)
    return best[capacity]
