r"""hh-rlhf's transcripts, `"\n\nHuman: ...\n\nAssistant: ..."`, as dialogues.

A pair of them becomes what TRL calls the conversational preference format: `prompt`, the turns
that both share, and `chosen` and `rejected`, the turns that differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.rows import Dialogue, Message, Reject
from engine.text import Text

__all__ = ["preference", "preference_fields"]

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def preference(fields: Mapping[str, Any], where: str) -> dict[str, Any] | Reject:
    """Return the fields with `prompt`, `chosen` and `rejected` as dialogues, or why there are none.

    Contents are slices of the two texts, so their spans lead to the source. `where` is the
    example that a reject shows: a place, as the texts themselves may be offensive.
    """
    pair: list[Dialogue] = []
    for name in ("chosen", "rejected"):
        turns = _turns(fields.get(name))
        if isinstance(turns, str):
            return Reject(f"{name}: {turns}", span=where)
        pair.append(turns)
    chosen, rejected = pair
    shared = 0
    while shared < min(map(len, pair)) and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared:
        return Reject("no common prompt", span=where)
    if chosen == rejected:
        return Reject("chosen and rejected are equal", span=where)
    if shared == min(map(len, pair)):
        return Reject("one goes on where the other ends", span=where)
    if chosen[shared - 1].role != "user":
        return Reject("they part at a turn of Human", span=where)
    return {
        **fields,
        "prompt": chosen[:shared],
        "chosen": chosen[shared:],
        "rejected": rejected[shared:],
    }


def preference_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields after `preference`. Raises ValueError where they hold no pair."""
    for name in ("chosen", "rejected"):
        if fields.get(name) is not Text:
            raise ValueError(
                f"convert: hh-rlhf reads the texts `chosen` and `rejected`, and {name!r} is not "
                f"a text in all first rows (they have: {', '.join(fields)})"
            )
    if "prompt" in fields:
        raise ValueError("convert: hh-rlhf makes the field 'prompt', which the rows have already")
    return {"prompt": Dialogue, **fields, "chosen": Dialogue, "rejected": Dialogue}


def _turns(text: Any) -> Dialogue | str:
    """Return a transcript's turns, or what is odd about it."""
    if not isinstance(text, Text):
        return "no text"
    marks = list(_TURN.finditer(text))
    if not marks or text[: marks[0].start()].strip() or marks[0][1] != "Human":
        return "does not begin with Human"
    turns: list[Message] = []
    for mark, end in zip(marks, [*(m.start() for m in marks[1:]), len(text)], strict=True):
        content = text[mark.end() : end].strip()
        if not content:
            return "an empty turn"
        role = _ROLES[mark[1]]
        if turns and turns[-1].role == role:
            return "two turns of one speaker"
        turns.append(Message.model_construct(role=role, content=content))
    return tuple(turns) if turns[-1].role == "assistant" else "ends with Human"
