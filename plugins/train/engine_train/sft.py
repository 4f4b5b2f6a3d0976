"""Supervised fine-tuning on TRL: next-token loss, on the completion alone where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine_train.data import check_columns
from engine_train.errors import TrainingError
from engine_train.jobs import Job

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["build", "check", "defaults", "metrics"]


def check(columns: Sequence[str], first: Mapping[str, Any]) -> None:
    """Raise TrainingError unless the dataset has one of TRL's formats."""
    check_columns("sft", columns)


def defaults(job: Job) -> dict[str, Any]:
    """Return TRL's arguments where the user gives none: nothing is cut off."""
    return {"max_length": None, "logging_steps": 1, "per_device_train_batch_size": 8}


def build(
    job: Job,
    model: Any,
    tokenizer: Any,
    rows: Dataset,
    config: Any,
    callbacks: list[Any],
    held_out: Dataset | None = None,
) -> Any:
    """Return TRL's trainer. Raises TrainingError where a row is longer than the model reads."""
    from trl import SFTTrainer

    names = check_columns("sft", rows.column_names)
    keep = [*names, *(n for n in ("tools", "completion_mask") if n in rows.column_names)]
    conversational = names[0] != "input_ids" and isinstance(rows[0][names[0]], list)
    if conversational and not (tokenizer.chat_template or config.chat_template_path):
        raise TrainingError(
            "the rows are conversations and the tokenizer has no chat template: give "
            "`args: {chat_template_path: FILE.jinja}`, or a model that was made for chats"
        )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=rows.select_columns(keep),
        eval_dataset=None if held_out is None else held_out.select_columns(keep),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    _check_lengths(trainer, model, config)
    return trainer


def _check_lengths(trainer: Any, model: Any, config: Any) -> None:
    if config.packing or "input_ids" not in trainer.train_dataset.column_names:
        return
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    longest = max(lengths)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit and longest > limit:
        raise TrainingError(
            f"row {lengths.index(longest) + 1} has {longest} tokens and the model reads {limit}: "
            "shorten it, or say `args: {max_length: ...}` to cut"
        )
    trainer.longest = longest
    trainer.cut = 0 if config.max_length is None else sum(n >= config.max_length for n in lengths)


def metrics(trainer: Any, history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the longest row in tokens, and how many rows reach the length that cuts."""
    if not hasattr(trainer, "longest"):
        return {}
    return {"longest": trainer.longest, "reach_max_length": trainer.cut}
