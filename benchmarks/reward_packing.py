"""What it saves that the two replies to a prompt share a row, when a reward model reads them.

48 pairs with the lengths that every 42nd of hh-rlhf's first 2,000 harmless-base pairs has in
SmolLM2's chat format, cut to 128 tokens of the prompt and 64 of a reply; the tokens are drawn. The
model has SmolLM2-135M's width and two layers, random. CPU seconds of scoring all pairs, as two
sequences and as one row; the rewards must be the same. Target: >= 1.3 times as fast; reported: the
ratio of tokens. Skipped where torch is not installed.
Command: `python -m benchmarks.reward_packing [--short]`.
"""

from __future__ import annotations

import importlib.util
import random

from benchmarks.common import Result, least, main

TARGET = 1.3
# fmt: off
LENGTHS = (
    (128, 30, 63), (128, 57, 64), (128, 62, 64), (72, 5, 5), (35, 20, 64), (71, 14, 11),
    (128, 64, 64), (128, 64, 64), (128, 28, 14), (41, 29, 49), (128, 64, 47), (89, 6, 9),
    (100, 30, 19), (54, 25, 41), (88, 14, 40), (38, 20, 7), (100, 54, 32), (109, 9, 7),
    (106, 42, 19), (128, 25, 14), (128, 52, 30), (120, 12, 23), (114, 60, 29), (54, 58, 13),
    (128, 64, 59), (128, 12, 38), (127, 18, 19), (43, 27, 51), (128, 24, 19), (128, 64, 46),
    (128, 58, 25), (128, 15, 64), (103, 51, 64), (104, 19, 34), (38, 11, 10), (83, 10, 22),
    (78, 29, 14), (105, 12, 16), (128, 23, 32), (42, 25, 64), (46, 12, 28), (128, 64, 28),
    (128, 11, 25), (75, 28, 64), (128, 64, 64), (120, 22, 64), (128, 33, 54), (128, 35, 12),
)
# fmt: on
"""Tokens of the prompt, of the chosen and of the rejected reply."""


def measure(short: bool) -> list[Result]:
    """Return how many times as fast pairs are in one row."""
    name = f"reward_packing ({len(LENGTHS)} pairs)"
    if importlib.util.find_spec("torch") is None:
        return [Result(name, "no torch", f">= {TARGET:g}", None)]
    import torch
    from engine_train.packing import Tokens
    from engine_train.rewards import RewardModel, row_length
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    size = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    config = LlamaConfig(**size, **heads, vocab_size=256, pad_token_id=0, num_labels=1)
    model = RewardModel(LlamaForSequenceClassification(config), None)
    draw = random.Random(0)
    pairs = []
    for prompt, *replies in LENGTHS:
        shared = [draw.randrange(1, 256) for _ in range(prompt)]
        ends = [[draw.randrange(1, 256) for _ in range(count)] for count in replies]
        pairs.append((Tokens(shared + ends[0], prompt), Tokens(shared + ends[1], prompt)))
    alone = [tokens for both in pairs for tokens in both]
    flat = [reward for both in model.score_pairs(pairs) for reward in both]
    apart = max(abs(a - b) for a, b in zip(model.score(alone), flat, strict=True))
    if not model.packs or apart > 1e-4:
        raise RuntimeError(f"rewards of shared rows differ by {apart}")
    two, one = least(
        1 if short else 3, lambda: model.score(alone), lambda: model.score_pairs(pairs)
    )
    tokens = sum(len(t.ids) for t in alone) / sum(row_length(*both) for both in pairs)
    return [
        Result(
            name,
            f"{two / one:.2f}",
            f">= {TARGET:g}",
            two / one >= TARGET,
            f"{one:.2f} s of CPU against {two:.2f}; {tokens:.2f} times as many tokens",
        )
    ]


if __name__ == "__main__":
    main(measure)
