"""Values and replies made up to fit a type, a JSON Schema or a request."""

from __future__ import annotations

import itertools
import json
import math
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from engine.chat import Answer, Endpoint, Feature, Limiter, Request, TokenLogprob
from engine.chat.fixture_chat import count_words
from engine.errors import ChatError
from engine.rows import Artifact, strip_annotated
from engine.testing.blobs import Blob
from engine.typecheck import show

__all__ = ["CannotMakeUp", "FakeChat", "made_up", "made_up_json"]

Replies = Callable[[Request], str | Answer | Exception] | Iterable[str | Answer | Exception]
_USED_UP = "the fake chat's replies are used up; there is none to"
_DEEPEST = 6
"""Levels of a made-up value after which lists stay empty: a schema may contain itself."""


class FakeChat(Endpoint):
    """A chat without a model; `requests` holds what was asked.

    `replies` is a list, handed out in order of arrival (for what asks one thing at a time), or a
    function of the request. A str or Answer is the reply, an exception is raised. Left out, each
    reply is made up to fit the request's schema and prefix. `can` are the features that it has.
    """

    def __init__(
        self, replies: Replies | None = None, *, can: Collection[Feature] = get_args(Feature)
    ) -> None:
        self.name = "fake"
        self.limiter = Limiter(longest=0)  # nothing to be patient with
        self.requests: list[Request] = []
        self._can = frozenset(can)
        self._reply = _script(replies)

    @property
    def identity(self) -> str:
        """The same for all fakes."""
        return "fake"

    @property
    def can(self) -> frozenset[Feature]:
        """The features that it was given: all, if none were named."""
        return self._can

    async def send(self, request: Request) -> Answer:
        """Answer. Raises what the replies hold, and ChatError where a list is used up."""
        self.requests.append(request)
        reply = self._reply(request)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Answer) else _answer(request, reply)


def _script(replies: Replies | None) -> Callable[[Request], str | Answer | Exception]:
    if replies is None:
        return _made_up_reply
    if callable(replies):
        return replies
    if isinstance(replies, str):
        raise TypeError("replies are a list of texts, or a function: write FakeChat([text])")
    left = iter(replies)
    return lambda request: next(left, ChatError(f"{_USED_UP} {request.messages[-1].content!r}"))


def _made_up_reply(request: Request) -> str:
    if request.schema is not None:
        return json.dumps(made_up_json(request.schema))
    return " A made-up reply."


def _answer(request: Request, text: str) -> Answer:
    """Return an answer that counts words as if each were a token."""
    words = text.split()
    logprobs = tuple(TokenLogprob(w, math.log(0.5), {w: math.log(0.5)}) for w in words)
    return Answer(
        text,
        usage=count_words(request, text),
        logprobs=logprobs if request.top_logprobs else (),
    )


class CannotMakeUp(ValueError):
    """No value could be made up for a type or schema; the message says why."""


def made_up(hint: Any, number: int = 1) -> Any:
    """Return a value of a type, made up from its JSON Schema.

    Values of other `number`s differ where the type allows it. An Artifact is a small file of JSON
    Lines. Raises CannotMakeUp.
    """
    if strip_annotated(hint) is Any:
        return f"made up {number}"
    if _holds_artifact(hint):
        return _made_up_artifact(strip_annotated(hint), number)
    try:
        adapter = TypeAdapter(hint)
        value = made_up_json(adapter.json_schema(), number)
        return adapter.validate_python(value)
    except (PydanticUserError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise CannotMakeUp(f"no {show(hint)} can be made up: {first}") from error


def _holds_artifact(hint: Any) -> bool:
    plain = strip_annotated(hint)
    return plain is Artifact or any(map(_holds_artifact, get_args(plain)))


def _made_up_artifact(hint: Any, number: int) -> Any:
    if hint is Artifact:
        return Blob(f'{{"text": "made up {number}"}}\n', "application/jsonl")
    inner = made_up(next(filter(_holds_artifact, get_args(hint))), number)
    if get_origin(hint) in (Union, types.UnionType):
        return inner
    if get_origin(hint) not in (list, tuple):
        raise CannotMakeUp(f"no {show(hint)} can be made up: it holds an Artifact")
    return get_origin(hint)([inner])


def made_up_json(schema: Mapping[str, Any], number: int = 1) -> Any:
    """Return JSON that fits a JSON Schema; with every property that it names.

    Raises CannotMakeUp for a schema with a pattern, or one that contains itself without an end.
    """
    return _value(schema, schema, number, "made up", 0)


def _value(schema: Any, root: Mapping[str, Any], number: int, name: str, depth: int) -> Any:
    def inner(part: Any, name: str = name) -> Any:
        return _value(part, root, number, name, depth + 1)

    if depth > 4 * _DEEPEST:
        raise CannotMakeUp("its schema contains itself without an end")
    if not isinstance(schema, Mapping):  # `true`: anything
        return f"{name} {number}"
    if "$ref" in schema:
        return inner(_referred(schema["$ref"], root))
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][(number - 1) % len(schema["enum"])]
    if "allOf" in schema:
        parts = [_referred(p["$ref"], root) if "$ref" in p else p for p in schema["allOf"]]
        return inner({k: v for part in parts for k, v in part.items()})
    for union in ("anyOf", "oneOf"):
        if union in schema:
            members = [m for m in schema[union] if m.get("type") != "null"]
            return inner(members[0] if members else schema[union][0])
    match schema.get("type"):
        case "object":
            named = schema.get("properties", {})
            return {key: inner(part, key) for key, part in named.items()}
        case "array":
            return _array(schema, inner, depth)
        case "string":
            return _string(schema, f"{name} {number}")
        case "integer":
            step = schema.get("multipleOf", 1)
            return math.ceil(max(_least(schema, 1), min(number, _most(schema))) / step) * step
        case "number":
            return max(_least(schema, 0.001), min(number / 2, _most(schema)))
        case "boolean":
            return True
        case "null":
            return None
    return f"{name} {number}"


def _referred(ref: str, root: Mapping[str, Any]) -> Any:
    part: Any = root
    for key in ref.removeprefix("#/").split("/"):
        part = part[key]
    return part


def _array(schema: Mapping[str, Any], inner: Callable[..., Any], depth: int) -> list[Any]:
    if "prefixItems" in schema:
        return [inner(part) for part in schema["prefixItems"]]
    least = schema.get("minItems", 0)
    if depth > _DEEPEST and not least:
        return []
    item = inner(schema.get("items", True))
    return list(itertools.repeat(item, max(1, least)))


def _string(schema: Mapping[str, Any], text: str) -> str:
    if "pattern" in schema:
        raise CannotMakeUp(f"its text must match {schema['pattern']!r}")
    text = text.ljust(schema.get("minLength", 0), ".")
    return text[: schema.get("maxLength", len(text))]


def _least(schema: Mapping[str, Any], above: float) -> Any:
    """Return the least number allowed; `above` an exclusive bound."""
    if "exclusiveMinimum" in schema:
        return schema["exclusiveMinimum"] + above
    return schema.get("minimum", -math.inf)


def _most(schema: Mapping[str, Any]) -> Any:
    if "exclusiveMaximum" in schema:
        top = schema["exclusiveMaximum"]
        return top - (1 if schema.get("type") == "integer" else abs(top) / 1000)
    return schema.get("maximum", math.inf)
