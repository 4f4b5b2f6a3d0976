"""The prompts of `prompts/*.md` as messages, and what all calls share."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache

from engine import Text, chat
from engine.chat import Message, Reply
from engine.text import Template, load_templates
from engine_pink_elephant import prose

__all__ = ["one_of", "prompt", "templates", "transcript", "words"]

SPEAKERS = {"user": "User:", "assistant": "Agent:"}


@cache
def templates() -> Mapping[str, Template]:
    """Return the templates by name."""
    return load_templates(__package__)


def prompt(name: str, /, **values: str | int) -> list[Message]:
    """Return the messages of a template."""
    return chat.prompt(templates()[name], **values)


def one_of(name: str, rng: random.Random, /, **values: str) -> Text:
    """Return one of the wordings that a template's sections hold."""
    return rng.choice(templates()[name].messages(**values))[1]


def transcript(dialogue: Sequence[Message]) -> Text:
    """Return a dialogue with one line for each turn."""
    return Text("\n").join(SPEAKERS[turn.role] + " " + turn.content for turn in dialogue)


def words(
    reply: Reply, *, after: int = 0, lines: bool = False, sentences: int | None = None
) -> Text:
    """Return what a reply says, from character `after`: its first line, or all of its `lines`.

    With `sentences`, the first so many; of a reply that was cut short, the whole ones.
    """
    said = reply.text[after:].strip()
    said = said if lines else said.split("\n", 1)[0].rstrip()
    if sentences is None and reply.finish != "length":
        return said
    return prose.whole(said, sentences=sentences)
