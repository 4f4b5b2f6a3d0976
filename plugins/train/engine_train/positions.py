"""The reward position: computed once for a sequence, stored, used everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from engine import Reject, Row, stage

__all__ = ["Pooling", "Position", "Span", "last_token", "reward_position", "span"]

Pooling = Literal["last", "mean"]
"""Where a reward is read: at the reply's last token, or as the mean over the reply's tokens."""


class Span(NamedTuple):
    """The tokens `start` to `stop` (exclusive, 0-based) whose mean state is scored."""

    start: int
    stop: int

    @property
    def position(self) -> int:
        """The last token that counts."""
        return self.stop - 1


class Position(Row):
    """`reward_position` is the 0-based index of the token at which the reward is read."""

    reward_position: int


@stage("train.reward_position")
async def reward_position(input_ids: tuple[int, ...], *, pad_token_id: int) -> Position:
    """Find the token whose state a `...ForSequenceClassification` model scores.

    `pad_token_id` is the model's. Rejects a sequence of nothing but padding (`only_padding`).
    """
    position = last_token(input_ids, pad_token_id)
    if position is None:
        raise Reject("only_padding")
    return Position(position)


def last_token(input_ids: Sequence[int], pad_token_id: int | None) -> int | None:
    """Return the index of the last token that is not padding, by ids; None if there is none.

    transformers decides by ids and not by the mask, so where pad and end-of-sequence are one
    token, an appended end-of-sequence is skipped and the last text token is read.
    """
    return next((i for i in reversed(range(len(input_ids))) if input_ids[i] != pad_token_id), None)


def span(input_ids: Sequence[int], start: int, pad_token_id: int | None, pooling: Pooling) -> Span:
    """Return the tokens at which the reward of a sequence is read.

    `start` is where the reply begins. For `last` it is the one token that transformers reads; for
    `mean` the reply up to that token, or that token alone where the reply has no other.
    Raises ValueError for a sequence of nothing but padding.
    """
    position = last_token(input_ids, pad_token_id)
    if position is None:
        raise ValueError(
            f"a sequence of {len(input_ids)} tokens has none but padding ({pad_token_id}): there "
            "is nothing to score"
        )
    return Span(position if pooling == "last" else min(start, position), position + 1)
