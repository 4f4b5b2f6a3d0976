"""Synthetic preference data by Monte Carlo tree search. For now: knapsack instances."""

from collections.abc import Callable, Sequence
from typing import Any

from engine import hookimpl

__all__ = ["engine_stages"]


@hookimpl
def engine_stages() -> Sequence[Callable[..., Any]]:
    """Return the stages of the namespace `mcts`."""
    from engine_mcts.knapsack import instances

    return [instances]
