r"""autocrit's transcripts as dialogues, with their critiques and revisions.

A text `"USER: ...\nASSISTANT: ...\nCRITIQUE: ...\nREVISION: ..."` becomes the dialogue, its
critiques and revisions, and the dialogue with the last revision as its answer. See
docs/from-autocrit.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.rows import Dialogue, Message, Reject
from engine.text import Text

__all__ = ["critique", "critique_fields"]

_HEADER = re.compile(
    r"^(USER|ASSISTANT|CRITIQUE REQUEST|CRITIQUE|REVISION REQUEST|REVISION):", re.MULTILINE
)
_AFTER = {
    "USER": {"ASSISTANT"},
    "ASSISTANT": {"USER", "CRITIQUE REQUEST", "CRITIQUE"},
    "CRITIQUE REQUEST": {"CRITIQUE"},
    "CRITIQUE": {"REVISION REQUEST", "REVISION"},
    "REVISION REQUEST": {"REVISION"},
    "REVISION": {"CRITIQUE REQUEST", "CRITIQUE"},
}
"""What may follow what in a transcript of autocrit; it may end anywhere, but for a user's turn."""
_ROUNDS = ("iterations", "output")
_WHOLE = ("context", "transcript", "text")
_MADE = {
    "dialogue": Dialogue,
    "critiques": tuple[Text, ...],
    "revisions": tuple[Text, ...],
    "revised": Dialogue,
}


def critique(fields: Mapping[str, Any], where: str) -> dict[str, Any] | Reject:
    """Return the fields with `dialogue`, `critiques`, `revisions` and `revised`, or why not.

    The transcript is the last round's `context` in `iterations` or `output`, as autocrit writes
    them, else the text `context`, `transcript` or `text`. Contents are its slices. A round that
    ends before its revision, as autocrit's last one does, leaves a critique more than revisions.
    `where` is the example that a reject shows.
    """
    parts = _parts(_transcript(fields))
    if isinstance(parts, str):
        return Reject(parts, span=where)
    said = tuple(
        Message.model_construct(role="user" if name == "USER" else "assistant", content=text)
        for name, text in parts
        if name in ("USER", "ASSISTANT")
    )
    revisions = tuple(text for name, text in parts if name == "REVISION")
    if not revisions:
        return Reject("no REVISION", span=where)
    last = Message.model_construct(role="assistant", content=revisions[-1])
    return {
        **fields,
        "dialogue": said,
        "critiques": tuple(text for name, text in parts if name == "CRITIQUE"),
        "revisions": revisions,
        "revised": (*said[:-1], last),
    }


def critique_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields after `critique`. Raises ValueError where they hold no transcript."""
    if not any(name in fields for name in _ROUNDS) and not any(
        fields.get(name) is Text for name in _WHOLE
    ):
        raise ValueError(
            "convert: autocrit reads transcripts: the rounds `iterations` or `output`, or "
            "the text `context`, `transcript` or `text`, and not all first rows have one of these "
            f"(they have: {', '.join(fields)})"
        )
    if there := [name for name in _MADE if name in fields]:
        raise ValueError(
            f"convert: autocrit makes the field {there[0]!r}, which the rows have already"
        )
    return {**fields, **_MADE}


def _transcript(fields: Mapping[str, Any]) -> Any:
    """Return what should be a transcript of autocrit: the longest that a row has."""
    for name in _ROUNDS:
        rounds = fields.get(name)
        if isinstance(rounds, (list, tuple)) and rounds and isinstance(rounds[-1], Mapping):
            return rounds[-1].get("context")
    return next((fields[name] for name in _WHOLE if isinstance(fields.get(name), Text)), None)


def _parts(text: Any) -> list[tuple[str, Text]] | str:
    """Return the parts of a transcript of autocrit by their headers, or what is odd about it."""
    if not isinstance(text, Text):
        return "no text"
    marks = list(_HEADER.finditer(text))
    if not marks or text[: marks[0].start()].strip() or marks[0][1] != "USER":
        return "does not begin with USER"
    parts: list[tuple[str, Text]] = []
    for mark, end in zip(marks, [*(m.start() for m in marks[1:]), len(text)], strict=True):
        name, content = mark[1], text[mark.end() : end].strip()
        if parts and name not in _AFTER[parts[-1][0]]:
            return f"{name} after {parts[-1][0]}"
        if not content:
            return f"an empty {name}"
        parts.append((name, content))
    return "ends with USER" if parts[-1][0] == "USER" else parts
