"""Lists that a model is asked for, in several calls: of topics, and of pairs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, create_model

from engine import Estimate, Reject, Text
from engine.chat import Chat, Message, Sampling
from engine.text import TextError, find_json, parse_json
from engine_pink_elephant.prompts import prompt

__all__ = ["Mode", "Search", "chosen", "estimate", "known", "lines", "needed", "objects", "tokens"]

T = TypeVar("T")
Mode = Literal["lines", "json"]
KNOWN = 60
"""The most entries that a prompt names as known: it stays short, however long the list."""

_NUMBER = re.compile(r"(?:\d{1,3}[.)]|[-*•])\s+")


def chosen(mode: Mode | None, llm: Chat) -> Mode:
    """Return the mode; where none is given, lines if the endpoint keeps to grammars."""
    if mode is None:
        mode = "json" if "schema" in llm.can and "grammar" not in llm.can else "lines"
    return mode


class Search:
    """The search for `count` new entries: it yields how many to ask for, until they are found.

    It gives up after `calls` calls; left out, three times as many as would do if each entry were
    new, and two.
    """

    def __init__(self, count: int, per_call: int, calls: int | None) -> None:
        self.count, self.per_call, self.found, self.spent = count, per_call, 0, 0
        self.calls = calls or 3 * -(-count // per_call) + 2

    def __iter__(self) -> Iterator[int]:
        while self.found < self.count and self.spent < self.calls:
            self.spent += 1
            yield min(self.per_call, self.count - self.found)

    def missing(self, reason: str) -> Iterator[Reject]:
        """Yield a Reject for each entry that was not found."""
        span = f"{self.spent} calls gave {self.found} of {self.count}"
        return (Reject(reason, span=span) for _ in range(self.count - self.found))


def known(told: Sequence[Text]) -> Text:
    """Return the last entries for the end of a prompt."""
    return Text("; ").join(told[-KNOWN:]) or Text("none")


async def lines(
    llm: Chat, name: str, told: Sequence[Text], wanted: int, line: str, **values: Text
) -> list[Text]:
    """Return the lines of a list, [] if there is none; `line` is the grammar of one.

    What is known stands before as an answer to the same question: small models do not understand
    "not these".
    """
    messages = prompt(name, count=wanted, **values)
    if told := told[-KNOWN:]:
        answer = Message(role="assistant", content=Text("\n").join(told))
        messages = [*prompt(name, count=len(told), **values), answer, messages[-1]]
    grammar = f'root ::= line ("\\n" line){{{wanted - 1}}}\nline ::= {line}'
    [reply] = await llm.complete(
        messages,
        sampling=Sampling(max_tokens=24 * wanted),
        grammar=grammar if "grammar" in llm.can else None,
    )
    found = [line.strip() for line in reply.text[: 200 * wanted].split("\n") if line.strip()]
    if reply.finish == "length":
        found = found[:-1]  # cut in the middle
    return [
        line[number.end() :] if (number := _NUMBER.match(line)) else line for line in found[:wanted]
    ]


async def objects(
    llm: Chat,
    messages: Sequence[Message],
    name: str,
    item: type[BaseModel],
    most: int,
    wanted: int,
) -> list[Mapping[str, Any]]:
    """Return the objects of a JSON reply, `{"<name>": [<item>, ...]}`, [] if there is none.

    Of a reply that was cut short, the whole ones. `most` are the tokens of one object.
    """
    schema = _schema(name, item, wanted)
    [reply] = await llm.complete(
        messages,
        sampling=Sampling(max_tokens=40 + most * wanted),
        schema=schema if "schema" in llm.can else None,
    )
    text = reply.text
    if reply.finish == "length":
        text = text[: text.rfind("}") + 1] + "]}"
    try:
        value = parse_json(find_json(text))
    except TextError:
        return []
    if isinstance(value, dict):  # {"topics": [...]}; without a schema, it may come by another name
        value = next((inner for inner in value.values() if isinstance(inner, list)), [])
    return [item for item in value[:wanted] if isinstance(item, dict)]


def estimate(
    made: int, lists: int, count: int, per_call: int, *, each: int, static: Sequence[Message]
) -> Estimate:
    """Return what it takes to make some rows, for which `lists` times `count` entries are asked.

    Four of five entries are assumed to be new, and a server to keep the static messages.
    """
    asked = count / 0.8
    calls = lists * math.ceil(asked / per_call)
    kept = tokens(static)
    new = 40 * calls + min(calls, 1) * kept
    return Estimate(made, calls, new, cached=kept * max(calls - 1, 0), out=lists * asked * each)


def tokens(messages: Sequence[Message]) -> int:
    """Return roughly how many tokens messages have: four characters each."""
    return sum(len(message.content) for message in messages) // 4


def needed(llm: T | None, parameter: str) -> T:
    """Return the model. Raises ValueError where there is none to make what is asked for."""
    if llm is None:
        raise ValueError(
            f"{parameter!r} asks for new ones, which a model makes: give `llm`, or {parameter}: 0"
        )
    return llm


@cache
def _schema(name: str, item: type[BaseModel], count: int) -> type[BaseModel]:
    """Return the schema of a list: a small model that may leave it empty does."""
    bounds = Field(json_schema_extra={"minItems": count, "maxItems": count})
    # pydantic's own types of `create_model` do not know of a name that is no constant
    fields: dict[str, Any] = {name: (list[item], bounds)}  # type: ignore[valid-type]
    return create_model("Items", **fields)
