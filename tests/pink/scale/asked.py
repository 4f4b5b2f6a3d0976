"""What a request asks for, and what a reply is made of."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

import orjson

__all__ = ["Asked", "Made", "as_json"]

RETRY = "That will not do: "
"""How the message begins that asks again, as `prompts/retry.md` words it."""


class Asked:
    """A request. All draws for its reply hang on its bytes: the same request, the same reply."""

    def __init__(self, body: bytes) -> None:
        self.body: Mapping[str, Any] = orjson.loads(body)
        self.key = blake2b(body, digest_size=16).digest()
        self.messages: list[tuple[str, str]] = [
            (m["role"], m["content"]) for m in self.body["messages"]
        ]

    @cached_property
    def fields(self) -> frozenset[str]:
        """The fields that its JSON Schema asks for; none, if it has no schema."""
        told = self.body.get("response_format") or {}
        schema = told.get("json_schema", {}).get("schema", {})
        return frozenset(schema.get("properties", ()))

    @cached_property
    def attempt(self) -> int:
        """Which attempt it is, from 1: each but the first says what was wrong with the last."""
        return 1 + sum(r == "user" and text.startswith(RETRY) for r, text in self.messages)

    @property
    def opening(self) -> Sequence[tuple[str, str]]:
        """The messages of the first attempt."""
        return self.messages[: len(self.messages) - 2 * (self.attempt - 1)]

    @property
    def question(self) -> str:
        """The last message of the first attempt."""
        return self.opening[-1][1]

    @cached_property
    def rng(self) -> random.Random:
        """Draws that hang on all of the request."""
        return random.Random(self.key)


@dataclass(slots=True)
class Made:
    """A reply, and what must become of it."""

    kind: str
    text: str
    finish: str = "stop"
    counts: list[str] = field(default_factory=list)
    """What is to be counted once for this request."""
    facts: list[tuple[str, Hashable]] = field(default_factory=list)
    """What is to be counted once, however many requests tell it: a name, and which one it is."""


def as_json(value: Any) -> str:
    """Return a value as a model writes JSON."""
    return orjson.dumps(value).decode()
