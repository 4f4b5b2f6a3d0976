"""Supervised fine-tuning on TRL: next-token loss, on the completion alone where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine_train.data import check_columns
from engine_train.errors import TrainingError
from engine_train.jobs import Job

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["alarms", "build", "check", "defaults", "metrics"]


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
    _check_rows(trainer, model, tokenizer, config)
    return trainer


def _check_rows(trainer: Any, model: Any, tokenizer: Any, config: Any) -> None:
    """Look at the rows as the model will read them, held-out ones included."""
    trainer.longest = trainer.cut = 0
    if config.packing:
        return
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, rows in (("dataset", trainer.train_dataset), ("held_out", trainer.eval_dataset)):
        if rows is None or "input_ids" not in rows.column_names:
            continue
        if not len(rows):
            raise TrainingError(
                f"no row of {name} has anything left to learn once it is cut: raise `max_length`"
            )
        lengths = [len(ids) for ids in rows["input_ids"]]
        longest = max(lengths)
        if limit and longest > limit:
            raise TrainingError(
                f"row {lengths.index(longest) + 1} of {name} has {longest} tokens and the model "
                f"reads {limit}: shorten it, or say `args: {{max_length: ...}}` to cut"
            )
        twice = [tokenizer.bos_token_id] * 2
        if twice[0] is not None and any(ids[:2] == twice for ids in rows["input_ids"]):
            raise TrainingError(
                f"rows of {name} begin with two {tokenizer.bos_token}: the tokenizer adds one, so "
                "take it out of the texts"
            )
        if name == "dataset":
            trainer.longest = longest
            trainer.cut = sum(n >= (config.max_length or longest + 1) for n in lengths)


def metrics(trainer: Any, history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the longest row in tokens, and how many rows reach the length that cuts."""
    return {"longest": trainer.longest, "reach_max_length": trainer.cut}


def alarms(trainer: Any, history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say that rows were cut."""
    if not trainer.cut:
        return []
    return [
        f"{trainer.cut} of {len(trainer.train_dataset)} rows reach `max_length: "
        f"{trainer.args.max_length}`, and what was beyond is lost: raise it, or shorten the rows"
    ]
