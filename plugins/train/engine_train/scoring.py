"""`train.score`: what a reward model says of replies, and where it read that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from engine import Artifact, Reject, Row, stage
from engine.rows import Dialogue, plain
from engine.text import Text
from engine_train.models import Models

if TYPE_CHECKING:
    from engine_train.rewards import RewardModel

__all__ = ["Scored", "score"]


class Reply(Row):
    """A reply and the reward model that scores it."""

    model: Artifact
    completion: Dialogue | Text | None = None
    prompt: Dialogue | Text | None = None
    messages: Dialogue | None = None


class Scored(Row):
    """`reward` is the model's number, read at the tokens `reward_span` of `input_ids`.

    The span is 0-based and without its end; `reward_position` is its last token.
    """

    reward: float
    input_ids: tuple[int, ...]
    reward_span: tuple[int, int]
    reward_position: int


@stage("train.score", version="1")
async def score(replies: Sequence[Reply], *, models: Models) -> list[Scored | Reject]:
    """Score replies with the reward model in `model`: what `train.reward` makes.

    Reads a `completion` with or without its `prompt` (texts, or lists of messages), or else
    `messages`, whose last one is the reply. What is longer than the model was trained on is cut as
    it was there. Rejects rows without a reply, and replies without a token.

    - `models`: holds the models in memory.
    """
    found: list[Scored | Reject] = [Reject("no reply to score")] * len(replies)
    groups: dict[str, list[int]] = {}
    for i, reply in enumerate(replies):
        if reply.completion or reply.messages:
            groups.setdefault(reply.model.digest, []).append(i)
    for places in groups.values():
        model = await models.reward(replies[places[0]].model)

        def work(model: RewardModel = model, places: list[int] = places) -> list[Scored | Reject]:
            return _scores(model, [replies[i] for i in places])

        for i, scored in zip(places, await anyio.to_thread.run_sync(work), strict=True):
            found[i] = scored
    return found


def _scores(model: RewardModel, replies: Sequence[Reply]) -> list[Scored | Reject]:
    from engine_train.positions import last_token

    tokens = [model.encode(*_parts(reply)) for reply in replies]
    whole = [i for i, t in enumerate(tokens) if last_token(t.ids, model.pad) is not None]
    found: list[Scored | Reject] = [Reject("a reply without a token")] * len(tokens)
    for i, reward in zip(whole, model.score([tokens[i] for i in whole]), strict=True):
        ids, start = tokens[i]
        read = model.position(ids, start)
        found[i] = Scored(reward, tuple(ids), (read.start, read.stop), read.position)
    return found


def _parts(reply: Reply) -> tuple[Any, Any]:
    """Return the prompt and the reply, both texts or both lists of messages."""
    if reply.completion:
        return plain(reply.prompt), plain(reply.completion)
    *before, last = plain(reply.messages)
    return before, [last]
