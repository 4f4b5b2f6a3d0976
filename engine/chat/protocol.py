"""The protocol of a chat model, and the values that cross it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NoReturn, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from engine.errors import BadReply, ChatError
from engine.resources import Resource
from engine.rows import Message, Row
from engine.services import Usage
from engine.text import Template, Text, TextError, find_json, parse_json

__all__ = [
    "Answer",
    "Chat",
    "Feature",
    "Reply",
    "Request",
    "Sampling",
    "TokenLogprob",
    "prompt",
]

Feature = Literal["banned", "grammar", "logprobs", "prefix", "schema", "seed"]
"""What an endpoint may have beyond plain completion; `chat.can` says which."""


_SURROGATES = re.compile("[\ud800-\udfff]")


class Sampling(BaseModel):
    """How a reply is drawn; what is None is left to the endpoint's defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: NonNegativeInt | None = None
    max_tokens: PositiveInt | None = None
    """The most tokens a reply may have."""
    stop: tuple[str, ...] = ()
    repeat_penalty: Annotated[float, Field(gt=0)] | None = None
    seed: NonNegativeInt | None = None
    """Left out, it is derived from the pipeline's seed and the call's key."""
    banned: tuple[str, ...] = ()
    """Strings that the model should not produce; ignored where the endpoint cannot (see `can`)."""

    def over(self, defaults: Sampling) -> Sampling:
        """Return these settings where they are set, and `defaults` elsewhere."""
        return Sampling.model_validate(defaults.model_dump() | self.model_dump(exclude_unset=True))


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent to an endpoint: one sample of one completion, defaults merged in."""

    messages: tuple[Message, ...]
    prefix: str
    """How the reply must begin; the endpoint returns only what comes after it."""
    sampling: Sampling
    schema: Mapping[str, Any] | None
    """JSON Schema of what comes after the prefix."""
    grammar: str | None
    """GBNF grammar of what comes after the prefix."""
    top_logprobs: int

    def canonical(self) -> dict[str, Any]:
        """Return the JSON form that stands in call keys."""
        return {
            "messages": [[m.role, m.content] for m in self.messages],
            "prefix": self.prefix,
            "sampling": self.sampling.model_dump(exclude={"seed"}, exclude_defaults=True),
            "schema": self.schema,
            "grammar": self.grammar,
            "top_logprobs": self.top_logprobs,
        } | ({} if self.sampling.seed is None else {"seed": self.sampling.seed})

    def sendable(self) -> tuple[Request, int]:
        """Return the request as UTF-8 can carry it, and how many lone surrogates became U+FFFD."""
        sampling = self.sampling
        texts = (self.prefix, self.grammar or "", *sampling.stop, *sampling.banned)
        if not any(map(_SURROGATES.search, (*texts, *(m.content for m in self.messages)))):
            return self, 0
        replaced = 0

        def clean(text: str) -> str:
            nonlocal replaced
            cleaned, count = _SURROGATES.subn("\N{REPLACEMENT CHARACTER}", text)
            replaced += count
            return cleaned

        cleaned = {
            "stop": tuple(map(clean, sampling.stop)),
            "banned": tuple(map(clean, sampling.banned)),
        }
        request = replace(
            self,
            messages=tuple(
                Message(role=m.role, content=Text(clean(m.content))) for m in self.messages
            ),
            prefix=clean(self.prefix),
            sampling=sampling.model_copy(update=cleaned),
            grammar=None if self.grammar is None else clean(self.grammar),
        )
        return request, replaced


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of a reply with its log-probability (nats) and the likeliest alternatives."""

    token: str
    logprob: float
    top: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint gave for one Request: kept as it came, before anything parses it."""

    text: str
    finish: str = "stop"
    """Why it ended: `stop`, `length`, `content_filter`, ..."""
    usage: Usage = field(default_factory=Usage)
    logprobs: tuple[TokenLogprob, ...] = ()

    def dumps(self) -> bytes:
        """Return it as JSON that keeps lone surrogates, which UTF-8 cannot carry."""
        usage, logprobs = self.usage, self.logprobs  # by hand: `asdict` costs more than all of it
        value = {
            "text": self.text,
            "finish": self.finish,
            "usage": {name: getattr(usage, name) for name in Usage.__slots__},
            "logprobs": [{"token": t.token, "logprob": t.logprob, "top": t.top} for t in logprobs],
        }
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")

    @classmethod
    def loads(cls, data: bytes) -> Answer:
        """Return the answer that `dumps` wrote."""
        value = json.loads(data.decode("utf-8", "surrogatepass"))
        return cls(
            value["text"],
            value["finish"],
            Usage(**value["usage"]),
            tuple(TokenLogprob(**token) for token in value["logprobs"]),
        )


M = TypeVar("M", bound=BaseModel)


def _unbound(reason: str, span: str | None) -> None:
    """Refuse outside a run: there is nothing to record."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply; `text` knows its prompt, and begins with the `prefix` that was asked for."""

    text: Text
    finish: str = "stop"
    usage: Usage = field(default_factory=Usage)
    logprobs: tuple[TokenLogprob, ...] = ()
    on_refuse: Callable[[str, str | None], None] = _unbound

    def refuse(self, reason: str, *, span: str | None = None) -> NoReturn:
        """Refuse this reply and end the attempt: the next attempt draws the next sample.

        Raises BadReply, always. `reason` is short and stable: rejects are counted by it. `span` is
        the part of the reply that shows why. The next attempt finds both in `ctx.refused`, and may
        ask in other words, which is another call.
        """
        self.on_refuse(reason, span)
        raise BadReply(reason, span)

    def parse(self, model: type[M]) -> M:
        """Return the pydantic model in this reply, its Text fields aligned to its characters.

        Raises BadReply, refusing the reply, where it holds no JSON or not the model's.
        """
        try:
            value = parse_json(find_json(self.text))
        except TextError:
            self.refuse("bad_json")
        try:
            return model.model_validate(value)
        except ValidationError as error:
            place = [  # of a union, pydantic tells the member that was tried, too
                part
                for part in error.errors()[0]["loc"]
                if isinstance(part, str) and part.isidentifier()
            ]
            self.refuse(f"bad_{'_'.join(place) or 'json'}")


class Chat(Resource, Protocol):
    """A chat model; one `complete` for samples, prefixes, structured replies, log-probabilities."""

    @property
    def can(self) -> frozenset[Feature]:
        """The features that the endpoint has."""
        ...

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        prefix: str = "",
        n: int = 1,
        sampling: Sampling | None = None,
        schema: type[BaseModel] | None = None,
        grammar: str | None = None,
        top_logprobs: int = 0,
        key: str | None = None,
    ) -> Sequence[Reply]:
        """Return `n` replies that continue `messages`.

        `prefix` is how each reply must begin (a Text keeps its graph); a `schema` or `grammar`
        holds for what comes after it. Equal requests made at once by one row must pass distinct
        `key`s; made one after the other they are told apart by count.
        Raises ChatError when the endpoint cannot do it or fails for good.
        """
        ...

    def for_row(self, row: Row) -> Chat:
        """Return the view that books calls on one row: what a batch stage uses."""
        ...


def prompt(template: Template, /, **values: str | int | float) -> list[Message]:
    """Return the messages of a prompt file: one for each of its sections, or one of the user's.

    Raises TextError where the values are not the template's fields, and ValueError for a section
    that is not `system`, `user` or `assistant`.
    """
    return [
        Message.model_validate({"role": role, "content": text})
        for role, text in template.messages(**values)
    ]


def need(chat: Chat, feature: Feature) -> None:
    """Raise ChatError if the endpoint lacks a feature."""
    if feature not in chat.can:
        have = ", ".join(sorted(chat.can)) or "none"
        raise ChatError(f"{chat.identity} has no {feature} (it has: {have})")


def closed(schema: Any) -> Any:
    """Return a JSON Schema whose objects have no other properties than they name.

    Without this, a model that is held to the schema may add properties until its tokens end.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(value) for name, value in schema.items()}
    named = schema.get("type") == "object" and "properties" in schema
    return {"additionalProperties": False} | inner if named else inner
