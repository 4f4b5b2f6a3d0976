"""A reward model: a `...ForSequenceClassification` folder, and where its reward is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from engine_train.errors import TrainingError
from engine_train.packing import (
    Batch,
    Tokens,
    common,
    cut,
    encode,
    mask_kind,
    paired,
    plain,
    why_not,
)
from engine_train.positions import Pooling, Span, span

if TYPE_CHECKING:
    import torch

__all__ = ["RewardModel", "chunks", "parts", "token_scores"]

BUDGET = 4096
"""Tokens, padding included, that a model reads at once."""


class RewardModel:
    """A model that gives a conversation a number: the higher, the better the reply.

    The folder is one that plain transformers loads: where `pooling` is `last`, its own forward
    gives the same number. What else the number depends on stands in its `config.json`:
    `reward_pooling`, and `reward_max_prompt` and `reward_max_reply` (how much is read).
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        parts(model)
        self.model, self.tokenizer = model.eval(), tokenizer
        config = model.config
        self.pooling: Pooling = getattr(config, "reward_pooling", None) or "last"
        self.max_prompt: int | None = getattr(config, "reward_max_prompt", None)
        self.max_reply: int | None = getattr(config, "reward_max_reply", None)
        self.pad: int | None = config.get_text_config().pad_token_id
        self._packs: bool | None = None

    @classmethod
    def load(cls, folder: Path | str, device: str | None = None) -> Self:
        """Load a reward model from its folder, on to a CUDA device where there is one.

        Raises TrainingError for another kind of model.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            model = AutoModelForSequenceClassification.from_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise TrainingError(f"{folder} is no reward model: {error}") from error
        if not any(name.endswith("ForSequenceClassification") for name in model_kinds(model)):
            raise TrainingError(
                f"{folder} has no reward head ({', '.join(model_kinds(model))}): train one with "
                "`train.reward`"
            )
        best = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device or best), tokenizer)

    def encode(self, prompt: Any, reply: Any) -> Tokens:
        """Return the tokens of a prompt and a reply, two texts or two lists of messages."""
        return self.cut(encode(self.tokenizer, prompt, reply))

    def cut(self, tokens: Tokens) -> Tokens:
        """Cut a sequence to what the model was trained to read."""
        return cut(tokens, self.max_prompt, self.max_reply)

    def position(self, input_ids: Sequence[int], start: int = 0) -> Span:
        """Return the tokens at which the reward is read, of a reply that begins at `start`."""
        return span(input_ids, start, self.pad, self.pooling)

    def score(
        self, sequences: Sequence[Tokens | Sequence[int]], *, left: bool = False
    ) -> list[float]:
        """Return the reward of each sequence; of bare tokens the reply begins at 0.

        `left` pads on the left. How sequences are padded and batched changes no reward by more
        than float arithmetic does.
        """
        tokens = [s if isinstance(s, Tokens) else Tokens(list(s), 0) for s in sequences]
        rewards = [0.0] * len(tokens)
        for places in chunks([len(t.ids) for t in tokens]):
            batch = plain([tokens[i] for i in places], self.pad, self.pooling, left=left)
            for i, reward in zip(places, self.rewards(batch), strict=True):
                rewards[i] = reward
        return rewards

    def score_pairs(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, float]]:
        """Return the rewards of pairs; those that begin alike share a row where the model can."""
        if not self.packs:
            flat = self.score([tokens for both in pairs for tokens in both])
            return list(zip(flat[::2], flat[1::2], strict=True))
        rewards = [(0.0, 0.0)] * len(pairs)
        for places in chunks([row_length(*both) for both in pairs]):
            batch = paired(
                [pairs[i] for i in places], self.pad, self.pooling, mask_kind(self.model)
            )
            found = self.rewards(batch)
            for i, one, two in zip(places, found[::2], found[1::2], strict=True):
                rewards[i] = one, two
        return rewards

    @property
    def packs(self) -> bool:
        """Whether two replies can share a row."""
        if self._packs is None:
            self._packs = why_not(self.model) is None
        return self._packs

    def rewards(self, batch: Batch) -> list[float]:
        """Return the rewards of a batch, in order."""
        import torch

        with torch.inference_mode():
            scores, _ = token_scores(self.model, batch)
            return [float(reward) for reward in batch.rewards(scores)]


def chunks(lengths: Sequence[int], budget: int = BUDGET) -> Iterator[list[int]]:
    """Yield places of sequences of about one length, so many that they fit the budget.

    They depend on the lengths alone: the same sequences are always read in the same batches.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    at = 0
    while at < len(order):
        count = max(1, budget // max(1, lengths[order[at]]))
        yield order[at : at + count]
        at += count


def row_length(one: Tokens, two: Tokens) -> int:
    """Return how many tokens a row has that two sequences share."""
    return len(one.ids) + len(two.ids) - common(one.ids, two.ids)


def model_kinds(model: Any) -> list[str]:
    """Return what a model says that it is."""
    return list(getattr(model.config, "architectures", None) or [type(model).__name__])


def parts(model: Any) -> tuple[Any, Any]:
    """Return a reward model's backbone and its linear head, inside whatever wraps it.

    Raises TrainingError where it has no such head.
    """
    inner = model
    while hasattr(inner, "module"):  # of accelerate
        inner = inner.module
    if hasattr(inner, "get_base_model"):  # of peft
        inner = inner.get_base_model()
    head = getattr(inner, "score", None)
    if head is None:
        raise TrainingError(
            f"a {type(inner).__name__} has no linear head `score` over its last states, as the "
            "causal models' ...ForSequenceClassification have: take a causal model"
        )
    return getattr(inner, inner.base_model_prefix), head


def token_scores(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the head says of every token, (rows, columns), and the states that it read.

    It listens to the head while the model runs as it always does, so that every wrapper (LoRA,
    several devices) takes part.
    """
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def listen(_: Any, given: tuple[Any, ...], said: Any) -> None:
        kept.append((said, given[0]))

    handle = parts(model)[1].register_forward_hook(listen)
    try:
        device = next(model.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
        model(**inputs, use_cache=False)
    finally:
        handle.remove()
    scores, states = kept[0]
    return scores.squeeze(-1), states
