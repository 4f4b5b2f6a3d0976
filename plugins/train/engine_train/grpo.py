"""Group relative policy optimisation on TRL: the better replies of a group are made likelier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from engine_train.data import check_columns
from engine_train.errors import TrainingError
from engine_train.jobs import Job

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Options", "alarms", "build", "check", "defaults", "metrics"]

SILENT = "frac_reward_zero_std"
"""What TRL logs: the share of groups whose rewards are all equal."""
GROUP = 8
"""Replies to a prompt, where the user says nothing: TRL's own number."""


class Options(BaseModel):
    """What `train.grpo` has beside TRL's arguments: what rewards a reply."""

    model_config = ConfigDict(extra="forbid")

    reward_file: Path | None = None
    """A Python file that has `reward_function`."""
    reward_function: str | None = None
    """A function of `reward_file` (left out, `reward`), or `package.module:function`."""
    reward_model: Path | None = None
    """The folder of a reward model; beside a function, both are added with `reward_weights`."""
    silent: float = 0.9
    """The share of groups with equal rewards above which there is an alarm."""


def check(columns: Sequence[str], first: Mapping[str, Any]) -> None:
    """Raise TrainingError unless the dataset has prompts."""
    check_columns("grpo", columns)
    prompt = first["prompt"]
    messages = isinstance(prompt, list) and all(isinstance(m, dict) for m in prompt)
    if not (isinstance(prompt, str) or (prompt and messages)):
        raise TrainingError("train.grpo needs `prompt` to be a text or a list of messages")
    taken = [name for name in ("completions", "completion_ids", "prompts") if name in columns]
    if taken:
        raise TrainingError(
            f"the column {taken[0]} has a name that the reward function's own arguments have: "
            "rename it before `dataset.pack`"
        )


def defaults(job: Job) -> dict[str, Any]:
    """Return TRL's arguments where the user gives none: a batch is one group of replies."""
    group = job.args.get("num_generations", GROUP)
    return {
        "num_generations": group,
        "per_device_train_batch_size": group,
        "per_device_eval_batch_size": group,
        "logging_steps": 1,
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
    """Return TRL's trainer, one that resumes to the bit.

    Raises TrainingError for prompts too long or too few, and for a reward that cannot be computed.
    """
    from engine_train.grpo_trainer import GroupTrainer
    from engine_train.reward_functions import rewards

    options = Options.model_validate(job.options)
    if not isinstance(rows[0]["prompt"], str) and not tokenizer.chat_template:
        raise TrainingError(
            "the prompts are conversations and the tokenizer has no chat template: take a model "
            "that was made for chats, or write the prompts as texts"
        )
    _check_sizes(config, len(rows), held_out)
    _check_lengths(rows, tokenizer, model, config)
    functions = rewards(options, rows.column_names, str(config.device))
    if config.reward_weights is not None and len(config.reward_weights) != len(functions):
        raise TrainingError(
            f"`reward_weights` has {len(config.reward_weights)} numbers for {len(functions)} "
            "rewards"
        )
    return GroupTrainer(
        job,
        options,
        model=model,
        reward_funcs=functions,
        args=config,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def _check_sizes(config: Any, count: int, held_out: Dataset | None) -> None:
    group = config.num_generations
    needed = config.generation_batch_size // group
    if count < needed:
        raise TrainingError(
            f"the dataset has {count} prompts and a batch of replies needs {needed} "
            f"(generation_batch_size {config.generation_batch_size} / num_generations {group}): "
            "lower `per_device_train_batch_size`, `gradient_accumulation_steps` or "
            "`steps_per_generation`, or give more prompts"
        )
    if held_out is None:
        return
    evaluated = getattr(config, "num_generations_eval", None) or group
    if (config.per_device_eval_batch_size * config.world_size) % evaluated:
        raise TrainingError(
            f"`per_device_eval_batch_size: {config.per_device_eval_batch_size}` must be a multiple "
            f"of num_generations, {evaluated}"
        )


def _check_lengths(rows: Dataset, tokenizer: Any, model: Any, config: Any) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not limit:
        return
    room = limit - (config.max_completion_length or 0)
    longest, at = 0, 0
    for i, prompt in enumerate(rows["prompt"]):
        if isinstance(prompt, str):
            ids = tokenizer(prompt)["input_ids"]
        else:
            more = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
            ids = tokenizer.apply_chat_template(prompt, **more)["input_ids"]
        if len(ids) > longest:
            longest, at = len(ids), i + 1
    if longest > room:
        raise TrainingError(
            f"the prompt of row {at} has {longest} tokens and max_completion_length is "
            f"{config.max_completion_length}: more than the {limit} that the model reads. Say "
            f"`args: {{max_completion_length: {max(1, limit - longest)}}}` or shorten the prompt"
        )


def metrics(trainer: Any, history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the share of groups that taught nothing, over the whole training."""
    silent = _silent(history)
    return {} if silent is None else {"groups_without_signal": silent}


def alarms(trainer: Any, history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader must know first: rewards that are all equal teach nothing."""
    silent, limit = _silent(history), trainer.options.silent
    if silent is None or silent <= limit:
        return []
    means = [float(record["reward"]) for record in history if "reward" in record]
    mean = sum(means) / len(means) if means else 0.0
    return [
        f"in {silent:.0%} of the groups all replies had the same reward (the mean is {mean:.3g}), "
        "and taught nothing: look at what the reward function is given, take easier prompts, more "
        "`num_generations`, or a higher `temperature`"
    ]


def _silent(history: Sequence[Mapping[str, Any]]) -> float | None:
    shares = [float(record[SILENT]) for record in history if SILENT in record]
    return sum(shares) / len(shares) if shares else None
