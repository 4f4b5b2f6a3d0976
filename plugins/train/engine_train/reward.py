"""Reward models on TRL: Bradley-Terry on pairs, of which the two replies share a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from engine_train.data import check_columns
from engine_train.errors import TrainingError
from engine_train.jobs import Job
from engine_train.positions import Pooling

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["RewardOptions", "build", "check", "defaults", "metrics"]

RATES = {"full": 1e-5, "top": 2e-5, "lora": 1e-4, "head": 1e-4}
"""Learning rates; the head alone is fitted without one."""


class RewardOptions(BaseModel):
    """What a reward model's training is told beside TRL's arguments."""

    model_config = ConfigDict(extra="forbid")

    pooling: Pooling | None = None
    """Where the reward is read; left out, as in the model that it begins with, else `last`."""
    max_prompt: PositiveInt | None = None
    """Tokens of the prompt that are kept, from its end; left out, as in that model, else all."""
    max_reply: PositiveInt | None = None
    """Tokens of the reply that are kept, from its start; left out, as in that model, else all."""
    l2: PositiveFloat = 1.0
    """With `tune: head`: how much its weights are held back."""


def check(columns: Sequence[str], first: Mapping[str, Any]) -> None:
    """Raise TrainingError unless the dataset has one of TRL's preference formats."""
    names = check_columns("reward", columns)
    kinds: tuple[type, ...] = (list,) if "chosen_ids" in names else (str, list)
    if "prompt" in columns and "chosen" in names:
        names = (*names, "prompt")
    found = [type(first[name]) for name in names]
    if len(set(found)) > 1 or found[0] not in kinds:
        said = ", ".join(f"`{n}` is {_kind(first[n])}" for n in names)
        raise TrainingError(f"train.reward needs all texts, or all lists; in the dataset {said}")
    if first.get("margin") is not None and not isinstance(first["margin"], (int, float)):
        raise TrainingError(f"`margin` is {_kind(first['margin'])}: it must be a number")


def _kind(value: Any) -> str:
    kinds = {str: "a text", list: "a list", dict: "a record", type(None): "empty"}
    return kinds.get(type(value), type(value).__name__)


def defaults(job: Job) -> dict[str, Any]:
    """Return TRL's arguments where the user gives none: what one processor does in minutes."""
    return {
        "max_length": None,
        "learning_rate": RATES[job.tuning.tune],
        "logging_steps": 1 if job.tuning.tune == "head" else 10,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 16,
        "num_train_epochs": 1,
        "train_sampling_strategy": "group_by_length",
    }


def build(
    job: Job,
    model: Any,
    tokenizer: Any,
    rows: Dataset,
    config: Any,
    callbacks: list[Any],
    held_out: Dataset | None = None,
) -> Any:
    """Return the trainer. Raises TrainingError where the rows or the model cannot be used."""
    from engine_train.reward_trainer import HeadTrainer, PairTrainer

    options = RewardOptions.model_validate(job.options)
    settings = {
        "reward_pooling": options.pooling,
        "reward_max_prompt": options.max_prompt,
        "reward_max_reply": options.max_reply,
    }
    for name, value in settings.items():  # what the model was made with, unless told otherwise
        if value is not None or not hasattr(model.config, name):
            setattr(model.config, name, value)
    model.config.reward_pooling = model.config.reward_pooling or "last"
    if job.tuning.save == "adapter" and any(
        getattr(model.config, name) not in (None, "last") for name in settings
    ):
        raise TrainingError(
            "adapters keep no `pooling: mean`, `max_prompt` or `max_reply` for whoever loads them: "
            "say `tuning: {tune: lora, save: merged}`"
        )
    for name in settings:  # what is recorded of the training is what it used
        job.options[name.removeprefix("reward_")] = getattr(model.config, name)
    more: dict[str, Any] = {
        "model": model,
        "processing_class": tokenizer,
        "args": config,
        "train_dataset": rows,
        "eval_dataset": held_out,
        "callbacks": callbacks,
        "pooling": model.config.reward_pooling,
        "max_prompt": model.config.reward_max_prompt,
        "max_reply": model.config.reward_max_reply,
    }
    if job.tuning.tune == "head":
        return HeadTrainer(features=job.workdir / "features", l2=options.l2, **more)
    return PairTrainer(**more)


def metrics(trainer: Any, history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what was cut, and whether pairs shared rows."""
    return {**trainer.counts, "packed": float(trainer.unpacked is None)}
