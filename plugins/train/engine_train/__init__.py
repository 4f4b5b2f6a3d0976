"""Training as stages: supervised fine-tuning, reward models, DPO, GRPO; and what uses a model."""

from collections.abc import Callable, Sequence
from typing import Any

from engine import hookimpl

__all__ = ["engine_resources", "engine_stages"]


@hookimpl
def engine_stages() -> Sequence[Callable[..., Any]]:
    """Return the stages of the namespace `train`."""
    from engine_train.positions import reward_position
    from engine_train.preferences import assign, evaluate, preference
    from engine_train.report import report
    from engine_train.scoring import score
    from engine_train.stages import dpo, grpo, reward, sft

    trainings = [sft, reward, dpo, grpo]
    return [*trainings, assign, preference, score, evaluate, reward_position, report]


@hookimpl
def engine_resources() -> Sequence[type]:
    """Register `train.workers` and `train.models`."""
    from engine_train.models import Models
    from engine_train.workers import Trainer

    return [Trainer, Models]
