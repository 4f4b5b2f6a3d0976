"""The reward position: computed once for a sequence, stored, used everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from engine import Reject, Row, stage

__all__ = ["Position", "last_token", "reward_position"]


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


def last_token(input_ids: Sequence[int], pad_token_id: int) -> int | None:
    """Return the index of the last token that is not padding, by ids; None if there is none.

    transformers decides by ids and not by the mask, so where pad and end-of-sequence are one
    token, an appended end-of-sequence is skipped and the last text token is read.
    """
    return next((i for i in reversed(range(len(input_ids))) if input_ids[i] != pad_token_id), None)
