"""In which order rows are trained on: the same after a resume as without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

__all__ = ["by_epoch"]


class EpochLengths(Sampler[int]):
    """Rows grouped by length, in an order that depends on the seed and the epoch.

    transformers draws the order from the global generator, which in a resumed training is not where
    it was when the epoch began. In the first epoch it is: nothing was drawn from it before.
    """

    epoch = 0

    def __init__(self, usual: Any, seed: int) -> None:
        self.usual, self.seed = usual, seed

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.usual)

    def __iter__(self) -> Iterator[int]:
        if self.epoch:
            self.usual.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(self.usual)


def by_epoch(trainer: Any) -> None:
    """Let a trainer that groups rows by length draw each epoch's order from the seed and epoch."""
    usual = trainer._get_train_sampler

    def sampler(*given: Any) -> Any:
        found = usual(*given)
        grouped = isinstance(found, LengthGroupedSampler)
        return EpochLengths(found, trainer.args.seed) if grouped else found

    trainer._get_train_sampler = sampler
