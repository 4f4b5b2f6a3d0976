"""Direct preference optimisation on TRL: of two replies, the chosen one is made likelier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, PositiveFloat

from engine_train.data import check_columns
from engine_train.errors import TrainingError
from engine_train.jobs import Job

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Options", "alarms", "build", "check", "defaults", "metrics"]

FELL = "chosen_fell"
"""The logged number: by how many nats a token the chosen replies have become less likely."""


class Options(BaseModel):
    """What `train.dpo` has beside TRL's arguments."""

    model_config = ConfigDict(extra="forbid")

    allow_truncation: bool = False
    """Whether rows longer than `args: {max_length: ...}` may be cut."""
    chosen_fall: PositiveFloat = 0.1
    """Nats a token that the chosen replies may lose before there is an alarm."""


def check(columns: Sequence[str], first: Mapping[str, Any]) -> None:
    """Raise TrainingError unless the dataset is one of preferences, in TRL's format."""
    check_columns("dpo", columns)
    pictures = [name for name in ("image", "images") if name in columns]
    if pictures:
        raise TrainingError(f"train.dpo takes no pictures: drop the column {pictures[0]}")
    kinds = {name: _kind(first[name]) for name in ("prompt", "chosen", "rejected") if name in first}
    if len(set(kinds.values())) > 1 or "neither" in kinds.values():
        found = ", ".join(f"`{name}` is {kind}" for name, kind in kinds.items())
        raise TrainingError(
            f"train.dpo needs all of its columns to be texts, or all lists of messages; {found}"
        )


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "a text"
    messages = isinstance(value, list) and all(isinstance(m, dict) and "role" in m for m in value)
    return "a list of messages" if messages else "neither"


def defaults(job: Job) -> dict[str, Any]:
    """Return TRL's arguments where the user gives none.

    Nothing is cut, the reference is computed once, and a step of 8 pairs has four parts: two
    pairs of 512 tokens need 6.1 GB with SmolLM2-135M in float32, 3.3 GB for its top 10 layers.
    """
    return {
        "max_length": None,
        "precompute_ref_log_probs": not job.args.get("sync_ref_model", False),
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 4,
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
    """Return TRL's trainer, with every trap of the data looked for.

    Raises TrainingError where a row would be cut or is too long for the model, and where no row
    has two replies that differ.
    """
    from engine_train.dpo_trainer import PreferenceTrainer

    options = Options.model_validate(job.options)
    if _kind(rows[0]["chosen"]) != "a text" and not tokenizer.chat_template:
        raise TrainingError(
            "the rows are conversations and the tokenizer has no chat template: take a model that "
            "was made for chats, or write the dataset as texts"
        )
    if not tokenizer.eos_token:
        raise TrainingError(
            "the tokenizer has no end-of-sequence token, so that no reply would end: give the "
            "tokenizer one"
        )
    names = ("prompt", "chosen", "rejected", "tools", "chat_template_kwargs")
    keep = [name for name in names if name in rows.column_names]
    return PreferenceTrainer(
        job,
        options,
        model=model,
        args=config,
        train_dataset=rows.select_columns(keep),
        eval_dataset=None if held_out is None else held_out.select_columns(keep),
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def metrics(trainer: Any, history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what was found in the rows, and how far the chosen replies fell."""
    found: dict[str, float] = dict(trainer.found)
    fell = _fell(history)
    return found if fell is None else found | {FELL: fell}


def alarms(trainer: Any, history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader must know first: rows left out or odd, chosen replies that fall."""
    said = list(trainer.warnings)
    fell, limit = _fell(history), trainer.options.chosen_fall
    if fell is not None and fell > limit:
        said.append(
            f"the chosen replies have become less likely: {fell:.2f} nats a token below the model "
            f"that the training began with (alarm above {limit}). Lower `learning_rate` or raise "
            "`beta`, or add the likelihood itself: `args: {loss_type: [sigmoid, sft]}`, or "
            "`loss_type: apo_zero`"
        )
    return said


def _fell(history: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the mean fall over the last tenth of the training."""
    falls = [float(record[FELL]) for record in history if FELL in record]
    tail = falls[-max(1, len(falls) // 10) :]
    return sum(tail) / len(tail) if tail else None
