"""Sequences that a causal model continues together: prompts read, tokens added, rows dropped."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Batch"]


class Batch:
    """Rows of tokens with the model's attention states, padded on the left.

    `logits` are those after each row's last token: on the CPU, at least float32.
    """

    logits: Tensor

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        """Read prompts. Equal ones are read once, each row with states of its own afterwards."""
        import torch
        from transformers import DynamicCache

        self._model = model
        self._takes = inspect.signature(model.forward).parameters
        self._cache: Any = DynamicCache(config=model.config)
        distinct = list({tuple(prompt): None for prompt in prompts})
        width = max(map(len, distinct))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in distinct])
        padding = torch.tensor([width - len(p) for p in distinct])
        self._mask = (torch.arange(width) >= padding[:, None]).long()
        self.lengths = [len(p) for p in distinct]
        self._forward(ids, (self._mask.cumsum(-1) - 1).clamp(min=0))
        if len(distinct) < len(prompts):
            places = {prompt: i for i, prompt in enumerate(distinct)}
            self.keep([places[tuple(prompt)] for prompt in prompts])

    @property
    def grows(self) -> bool:
        """Whether others can join: not where a model keeps a window or a running state."""
        from transformers.cache_utils import DynamicLayer

        return all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def step(self, tokens: Sequence[int]) -> None:
        """Add one token to each row."""
        import torch

        ids = torch.tensor(tokens)[:, None]
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        positions = torch.tensor(self.lengths)[:, None]
        self.lengths = [length + 1 for length in self.lengths]
        self._forward(ids, positions)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may be kept twice."""
        import torch

        places = torch.tensor(rows)
        self._cache.reorder_cache(places.to(self._model.device))
        self._mask, self.logits = self._mask[places], self.logits[places]
        self.lengths = [self.lengths[row] for row in rows]
        if self.grows:
            self._fit(max(self.lengths))

    def join(self, other: Batch) -> None:
        """Add the rows of another batch, which is no more to be used; both must grow."""
        import torch

        width = max(self._mask.shape[1], other._mask.shape[1])
        self._fit(width)
        other._fit(width)
        for mine, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            if mine.is_initialized:  # layers that share another's states have none
                mine.keys = torch.cat([mine.keys, theirs.keys])
                mine.values = torch.cat([mine.values, theirs.values])
        self._mask = torch.cat([self._mask, other._mask])
        self.logits = torch.cat([self.logits, other.logits])
        self.lengths += other.lengths

    def _fit(self, width: int) -> None:
        """Pad all rows to a width, or take padding from them that none needs."""
        import torch

        more = width - self._mask.shape[1]  # a negative padding cuts
        if not more:
            return
        self._mask = torch.nn.functional.pad(self._mask, (more, 0))
        for layer in self._cache.layers:
            if layer.is_initialized:
                layer.keys = torch.nn.functional.pad(layer.keys, (0, 0, more, 0))
                layer.values = torch.nn.functional.pad(layer.values, (0, 0, more, 0))

    def _forward(self, ids: Tensor, positions: Tensor) -> None:
        import torch

        device = self._model.device
        inputs: dict[str, Any] = {
            "input_ids": ids.to(device),
            "attention_mask": self._mask.to(device),
            "cache" if "cache" in self._takes else "past_key_values": self._cache,
            "use_cache": True,
        }
        if "position_ids" in self._takes:
            inputs["position_ids"] = positions.to(device)
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        logits = self._model(**inputs).logits[:, -1]
        self.logits = logits.to("cpu", torch.promote_types(logits.dtype, torch.float32))
