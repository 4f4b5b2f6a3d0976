"""From a model's logits to tokens, their log-probabilities, and text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from engine.chat import Sampling, TokenLogprob

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["REPEATS", "Pieces", "draw", "top_logprobs"]

REPEATS = 64
"""How many last tokens `repeat_penalty` looks at, as in llama.cpp."""
BEFORE = 8
"""How many tokens of the prompt a reply's first token is read with: whether a word begins with a
space may depend on what stands before it."""


def draw(
    logits: Tensor, sampling: Sampling, seen: Sequence[int], banned: Collection[int], point: float
) -> int:
    """Return the token at `point`, 0 to 1, of the distribution that `sampling` makes of logits.

    In llama.cpp's order: penalty, top_k, top_p, min_p, temperature. The distribution is laid out by
    token id, so that a change in the last bits of the logits hardly ever changes the token.
    """
    import torch

    scores = logits.double().clone()
    if banned:
        scores[list(banned)] = -torch.inf
    if (penalty := sampling.repeat_penalty or 1.0) != 1.0:
        again = sorted(set(seen[-REPEATS:]))
        before = scores[again]
        scores[again] = torch.where(before > 0, before / penalty, before * penalty)
    if not sampling.temperature:
        return int(scores.argmax())
    tokens = torch.arange(len(scores))
    top_k, top_p, min_p = sampling.top_k or 0, sampling.top_p or 1.0, sampling.min_p or 0.0
    if 0 < top_k < len(scores) or top_p < 1:
        scores, tokens = scores.topk(min(top_k or len(scores), len(scores)))
    if top_p < 1:
        shares = scores.softmax(0)
        within = shares.cumsum(0) - shares < top_p
        scores, tokens = scores[within], tokens[within]
    if min_p > 0:
        shares = scores.softmax(0)
        likely = shares >= min_p * shares.max()
        scores, tokens = scores[likely], tokens[likely]
    tokens, order = tokens.sort()
    scores = scores[order]
    ends = ((scores - scores.max()) / sampling.temperature).softmax(0).cumsum(0)
    place = int(torch.searchsorted(ends, point * float(ends[-1]), right=True))
    return int(tokens[min(place, len(tokens) - 1)])


def top_logprobs(logits: Tensor, token: int, count: int, pieces: Pieces) -> TokenLogprob:
    """Return the log-probabilities (nats) of the next token and of the `count` likeliest ones.

    They are the model's own: before temperature, penalties and what is banned. `pieces` are those
    of the tokens before it.
    """
    values = logits.double().log_softmax(0)
    top: dict[str, float] = {}
    best, tokens = values.topk(min(count, len(values)))
    for value, other in zip(best.tolist(), tokens.tolist(), strict=True):
        top.setdefault(pieces.peek(other), value)  # of two that are written alike, the likelier
    return TokenLogprob(pieces.peek(token), float(values[token]), top)


class Pieces:
    """Turns the tokens of a reply into text, as they come.

    Pieces of a character that several tokens make up come with the last of them.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-BEFORE:])
        self._start, self._read = 0, len(self._ids)

    def peek(self, token: int) -> str:
        """Return how a token would be written here, though it be a part of a character."""
        if token in self._tokenizer.all_special_ids:
            return str(self._tokenizer.convert_ids_to_tokens(token))
        before = self._decode(self._ids[self._start :])
        return self._decode([*self._ids[self._start :], token])[len(before) :]

    def push(self, token: int) -> str:
        """Return the text that is complete with this token."""
        self._ids.append(token)
        return self._text(whole=False)

    def rest(self) -> str:
        """Return the text of tokens that were held back."""
        return self._text(whole=True)

    def _text(self, *, whole: bool) -> str:
        before = self._decode(self._ids[self._start : self._read])
        after = self._decode(self._ids[self._start :])
        if after.endswith("\N{REPLACEMENT CHARACTER}") and not whole:
            return ""
        self._start, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        if not ids:
            return ""
        text: str = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text
