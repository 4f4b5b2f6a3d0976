"""Pairs of replies, tokenised, cut, and laid out in batches.

Two sequences that begin alike share a row, `prompt + chosen + rejected`: a block mask keeps the
replies from seeing each other, and positions begin again after the prompt. What a causal model
computes is what it computes of the two sequences alone, in fewer tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from engine_train.errors import TrainingError
from engine_train.positions import Pooling, span

if TYPE_CHECKING:
    import torch

__all__ = [
    "Batch",
    "Tokens",
    "common",
    "cut",
    "encode",
    "mask_kind",
    "pair",
    "paired",
    "plain",
    "why_not",
]


class Tokens(NamedTuple):
    """A sequence of a prompt and a reply."""

    ids: list[int]
    start: int
    """Where the reply begins."""


def encode(
    tokenizer: Any,
    prompt: Any,
    reply: Any,
    *,
    tools: Any = None,
    template: Mapping[str, Any] | None = None,
) -> Tokens:
    """Return the tokens of a prompt and a reply, both texts or both lists of messages.

    They are TRL's: messages go through the chat template, texts are joined and end in the
    end-of-sequence token. Raises TrainingError where the tokenizer lacks a chat template.
    """
    if isinstance(reply, str):
        text, end = (prompt or "") + reply, tokenizer.eos_token
        if end and not text.endswith(end):
            text += end
        ids = list(tokenizer(text)["input_ids"])
        if ids[-2:] == [tokenizer.eos_token_id] * 2 and not text.endswith(end * 2):
            ids.pop()  # a tokenizer that adds it, too
        before = list(tokenizer(prompt)["input_ids"]) if prompt else []
        if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
            ids, before = ids[1:], before[1:]  # the text has one, and the tokenizer adds one
        return Tokens(ids, common(before, ids))
    if not getattr(tokenizer, "chat_template", None):
        raise TrainingError(
            "the dataset holds conversations and the tokenizer has no chat template: take an "
            "instruct model, give `args: {chat_template_path: FILE.jinja}`, or write the dataset "
            "as texts"
        )
    more = dict(template or {}, tools=tools, tokenize=True, return_dict=True)
    ids = _templated(tokenizer, [*(prompt or ()), *reply], more)
    before = _templated(tokenizer, prompt, more | {"add_generation_prompt": True}) if prompt else []
    return Tokens(ids, common(before, ids))


def _templated(tokenizer: Any, messages: Any, more: Mapping[str, Any]) -> list[int]:
    from jinja2 import TemplateError

    try:
        return list(tokenizer.apply_chat_template(messages, **more)["input_ids"])
    except TemplateError as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise TrainingError(
            f"the chat template refuses a conversation of {roles}: {error}; reject such rows "
            "before `dataset.pack`, or take a model whose template allows them"
        ) from error


def pair(tokenizer: Any, row: Mapping[str, Any], where: str = "a pair") -> tuple[Tokens, Tokens]:
    """Return the tokens of `chosen` and `rejected` of a row in any of TRL's preference formats.

    Without a `prompt` it is what both share: whole messages, or tokens. The same holds for rows
    that are tokens already (`chosen_ids`, `rejected_ids`). Raises TrainingError, which tells
    `where`, for a row that lacks one of them.
    """
    ids = "_ids" if "chosen_ids" in row else ""
    for name in (f"chosen{ids}", f"rejected{ids}"):
        if not row.get(name):
            raise TrainingError(f"{where}: `{name}` is empty or missing")
    if ids:
        return _shared(list(row["chosen_ids"]), list(row["rejected_ids"]))
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    if prompt is None and not isinstance(chosen, str):
        shared = min(common(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    more = {"tools": row.get("tools"), "template": row.get("chat_template_kwargs")}
    one = encode(tokenizer, prompt, chosen, **more)
    two = encode(tokenizer, prompt, rejected, **more)
    return _shared(one.ids, two.ids) if prompt is None else (one, two)


def _shared(chosen: list[int], rejected: list[int]) -> tuple[Tokens, Tokens]:
    start = common(chosen, rejected)
    return Tokens(chosen, start), Tokens(rejected, start)


def common(one: Sequence[Any], two: Sequence[Any]) -> int:
    """Return how many first items both have in common."""
    pairs = enumerate(zip(one, two, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(two)))


def cut(tokens: Tokens, max_prompt: int | None, max_reply: int | None) -> Tokens:
    """Keep the last `max_prompt` tokens of the prompt and the first `max_reply` of the reply."""
    ids, start = tokens
    first = 0 if max_prompt is None else max(0, start - max_prompt)
    last = len(ids) if max_reply is None else min(len(ids), start + max_reply)
    return tokens if (first, last) == (0, len(ids)) else Tokens(ids[first:last], start - first)


@dataclass(frozen=True)
class Batch:
    """What a model is given, and how the rewards are read off its scores of all tokens."""

    inputs: dict[str, torch.Tensor]
    weights: torch.Tensor
    """(rows, sequences in a row, columns): a reward is the sum of scores times these."""
    tokens: int
    """How many are no padding."""

    def rewards(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the reward of each sequence, in order, from the scores of (rows, columns)."""
        weights = self.weights.to(scores.device)
        return (weights * scores.float().unsqueeze(1)).sum(-1).flatten()

    def states(self, states: torch.Tensor) -> torch.Tensor:
        """Return the pooled state of each sequence from (rows, columns, width)."""
        weights = self.weights.to(states.device)
        return (weights @ states.float()).flatten(0, 1)


def plain(
    sequences: Sequence[Tokens], pad: int | None, pooling: Pooling, *, left: bool = False
) -> Batch:
    """Lay each sequence out in a row of its own."""
    import torch

    width = max(len(ids) for ids, _ in sequences)
    input_ids = torch.full((len(sequences), width), pad or 0)
    mask = torch.zeros_like(input_ids)
    positions = torch.zeros_like(input_ids)
    weights = torch.zeros(len(sequences), 1, width)
    for row, (ids, start) in enumerate(sequences):
        first = width - len(ids) if left else 0
        here = slice(first, first + len(ids))
        input_ids[row, here] = torch.tensor(ids)
        mask[row, here] = 1
        positions[row, here] = torch.arange(len(ids))
        read = span(ids, start, pad, pooling)
        weights[row, 0, first + read.start : first + read.stop] = 1 / (read.stop - read.start)
    inputs = {"input_ids": input_ids, "attention_mask": mask}
    if left:  # on the right these are what every model takes by itself
        inputs["position_ids"] = positions
    return Batch(inputs, weights, int(mask.sum()))


def paired(
    pairs: Sequence[tuple[Tokens, Tokens]],
    pad: int | None,
    pooling: Pooling,
    additive: torch.dtype | None = None,
) -> Batch:
    """Lay each pair out in one row; `additive` is the dtype of a mask that is added to scores.

    `mask_kind` says which a model takes; without it the mask says what is seen.
    """
    import torch

    kept = [common(one.ids, two.ids) for one, two in pairs]
    sizes = [len(a.ids) + len(b.ids) - k for (a, b), k in zip(pairs, kept, strict=True)]
    width = max(sizes)
    input_ids = torch.full((len(pairs), width), pad or 0)
    positions = torch.zeros_like(input_ids)
    seen = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(pairs), 1, 1, 1)
    weights = torch.zeros(len(pairs), 2, width)
    for row, ((one, two), shared, size) in enumerate(zip(pairs, kept, sizes, strict=True)):
        second = len(one.ids)  # the column where the second reply begins
        input_ids[row, :size] = torch.tensor(one.ids + two.ids[shared:])
        positions[row, :second] = torch.arange(second)
        positions[row, second:size] = torch.arange(shared, len(two.ids))
        seen[row, 0, second:, shared:second] = False
        for i, (tokens, shift) in enumerate(((one, 0), (two, second - shared))):
            read = span(*tokens, pad, pooling)
            columns = [c if c < shared else c + shift for c in range(read.start, read.stop)]
            weights[row, i, columns] = 1 / len(columns)
    mask = seen
    if additive is not None:
        mask = torch.zeros(seen.shape, dtype=additive)
        mask.masked_fill_(~seen, torch.finfo(additive).min)
    inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
    return Batch(inputs, weights, sum(sizes))


def mask_kind(model: Any) -> torch.dtype | None:
    """Return the dtype of the mask that a model adds to attention scores, None if it adds none."""
    how = getattr(model.config.get_text_config(), "_attn_implementation", None)
    return None if how == "sdpa" else model.dtype


PROBE = 24
"""Tokens of the sequence that a model is tried with."""


def why_not(model: Any) -> str | None:
    """Return why two replies cannot share a row in this model; None if they can.

    What its configuration says is heeded, then the model is tried: it must score two short
    sequences alike, alone and in one row.
    """
    import inspect

    import torch

    from engine_train.rewards import parts, token_scores

    config, inner = model.config.get_text_config(), parts(model)[0]
    if "position_ids" not in inspect.signature(inner.forward).parameters:
        return f"{config.model_type} takes no position ids"
    how = getattr(config, "_attn_implementation", None)
    if how not in (None, "eager", "sdpa"):
        return f"attention `{how}` takes no block mask"
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    kinds |= set(getattr(config, "attention_layers", None) or ()) - {"global"}  # of GPT-Neo
    windowed = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", True
    )
    if kinds or windowed:
        return f"not every layer of {config.model_type} sees the whole sequence"
    rope = getattr(config, "rope_parameters", None) or {}
    if str(rope.get("rope_type", "default")) in ("dynamic", "longrope"):
        return f"the positions of {config.model_type} change with the length"
    size, pad = config.vocab_size, config.pad_token_id
    ids = list(itertools.islice((i for i in range(size) if i != pad), PROBE))
    if len(ids) < PROBE:
        ids = (ids * PROBE)[:PROBE]
    third = PROBE // 3
    one, two = ids[: 2 * third], ids[:third] + ids[2 * third :][::-1]
    trial = (Tokens(one, third), Tokens(two, third))
    was, mask = model.training, mask_kind(model)
    model.eval()
    try:
        with torch.no_grad():
            found = []
            for batch in (plain(trial, pad, "mean"), paired([trial], pad, "mean", mask)):
                _, states = token_scores(model, batch)
                found.append(batch.states(states))
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        return f"{config.model_type} takes no block mask ({type(error).__name__})"
    finally:
        model.train(was)
    apart = float((found[0] - found[1]).abs().max() / found[0].abs().max().clamp_min(1e-9))
    exact = model.dtype in (torch.float32, torch.float64)
    if apart <= (1e-4 if exact else 5e-2):
        return None
    return f"{config.model_type} scores two replies in one row otherwise than alone"
