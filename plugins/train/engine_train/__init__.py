"""Reward models and preference training as stages. For now: where a reward is read."""

from collections.abc import Callable, Sequence
from typing import Any

from engine import hookimpl

__all__ = ["engine_stages"]


@hookimpl
def engine_stages() -> Sequence[Callable[..., Any]]:
    """Return the stages of the namespace `train`."""
    from engine_train.positions import reward_position
    from engine_train.report import report

    return [reward_position, report]
