"""A reference that follows the model (`sync_ref_model`), kept with the checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

__all__ = ["ReferenceTrainer"]

STATE = "reference.pt"
"""The file of a checkpoint that has the reference's weights."""


class ReferenceTrainer(Trainer):
    """Saves the reference where it moves: one that was made anew would be where it began."""

    args: Any
    ref_model: Any

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save the reference beside the model."""
        super()._save_checkpoint(model, trial)
        if self._moves and self.args.should_save:
            folder = f"checkpoint-{self.state.global_step}"
            path = Path(self._get_output_dir(trial=trial), folder, STATE)
            torch.save(self.accelerator.unwrap_model(self.ref_model).state_dict(), path)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Go on with the reference that was saved."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self._moves:
            state = torch.load(Path(checkpoint, STATE), weights_only=True, map_location="cpu")
            self.accelerator.unwrap_model(self.ref_model).load_state_dict(state)

    @property
    def _moves(self) -> bool:
        return bool(self.args.sync_ref_model) and self.ref_model is not None
