"""TRL's GRPO trainer, with all that a resumed training needs in its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from engine_train import grpo
from engine_train.disk import sync
from engine_train.jobs import Job
from engine_train.references import ReferenceTrainer

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["EpochSampler", "GroupTrainer"]

STATE = "generation.pt"
"""The file of a checkpoint that says how far the batch of replies in hand is used up."""
EARLY = 10
"""Logs after which a lack of signal is told, before the end."""


class GroupTrainer(ReferenceTrainer, GRPOTrainer):
    """GRPO that draws the same prompts and goes on with the same replies after a resume."""

    args: Any

    def __init__(self, job: Job, options: grpo.Options, *, model: Any, **given: Any) -> None:
        self.options = options
        self._told = False
        config = model.config
        named = config._name_or_path
        if given["args"].beta and not hasattr(model, "peft_config"):
            # TRL loads the reference by the model's name: another model, where this one was cut,
            # drawn or changed since. What is trained is what must be compared with.
            reference = job.workdir / "reference"
            with given["args"].main_process_first():
                if not (reference / "config.json").exists():
                    fresh = job.workdir / "reference.tmp"
                    model.save_pretrained(fresh)
                    for path in fresh.iterdir():
                        sync(path)
                    fresh.replace(reference)
            config._name_or_path = str(reference)
        try:
            super().__init__(model=model, **given)
        finally:
            config._name_or_path = named

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Any:
        """Return TRL's sampler, whose order depends on the epoch alone and not on those before."""
        usual: Any = super()._get_train_sampler(dataset)
        return EpochSampler(
            usual.data_source,
            mini_repeat_count=usual.mini_repeat_count,
            batch_size=usual.batch_size,
            repeat_count=usual.repeat_count,
            shuffle=usual.shuffle,
            seed=usual.seed,
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save how many parts of the batch of replies were used, and those that are left."""
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        super()._save_checkpoint(model, trial)
        every = self.args.steps_per_generation * self.num_iterations
        left = self._buffered_inputs if self._step % every else None
        rank = self.args.process_index
        torch.save({"step": self._step, "buffer": left}, folder / f"{rank}-{STATE}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Go on where the checkpoint was saved."""
        super()._load_optimizer_and_scheduler(checkpoint)
        path = Path(checkpoint or "") / f"{self.args.process_index}-{STATE}"
        if checkpoint is not None and path.exists():
            state = torch.load(path, weights_only=True, map_location=self.accelerator.device)
            self._step, self._buffered_inputs = state["step"], state["buffer"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Tell early of rewards that are all equal."""
        super().log(logs, start_time)
        if self._told or len(self.state.log_history) < EARLY:
            return
        for alarm in grpo.alarms(self, self.state.log_history):
            self._told = True
            for callback in self.callback_handler.callbacks:
                if hasattr(callback, "say"):
                    callback.say(alarm)


class EpochSampler(RepeatSampler):
    """Repeated rows in an order that depends on the seed and the epoch.

    TRL draws each epoch's order from a generator that a resumed training begins anew.
    """

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + self.epoch)
        yield from super().__iter__()
