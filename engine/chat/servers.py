"""What the servers that `openai.chat` knows can do beyond OpenAI's routes, and how to ask them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from engine.chat.llama import spellings
from engine.chat.protocol import Feature, Request
from engine.errors import ChatError

__all__ = ["SERVERS", "Server", "ServerName", "is_loopback", "response_format"]

ServerName = Literal["llama.cpp", "ollama", "openai", "other", "vllm"]

_ALL: tuple[Feature, ...] = ("banned", "grammar", "logprobs", "prefix", "schema", "seed")
_PLAIN: tuple[Feature, ...] = ("logprobs", "schema", "seed")

_STRICT = {"$defs", "$ref", "additionalProperties", "anyOf", "const", "description", "enum"}
_STRICT |= {"items", "properties", "required", "title", "type"}
"""JSON Schema keywords that OpenAI's strict mode takes for certain; others may be answered 400."""


@dataclass(frozen=True, slots=True)
class Server:
    """One kind of server."""

    name: ServerName
    settings: Mapping[str, str]
    """Settings of `Sampling` that OpenAI does not have -> what the server calls them."""
    features: tuple[Feature, ...] = _PLAIN
    """What it can unless the configuration says otherwise."""
    limit: str = "max_tokens"
    """What it calls `max_tokens`."""
    repeats: bool = True
    """Whether its reply may begin with the prefix that it was asked to go on from."""

    def check(self, features: Sequence[Feature], sampling: Mapping[str, Any]) -> None:
        """Raise ValueError for features and sampling settings that have no form on the wire."""
        for feature in ("grammar", "banned"):
            if feature in features and self.name not in ("vllm", "llama.cpp"):
                raise ValueError(
                    f"how a server of the kind {self.name} is asked for {feature} is not known: "
                    "leave it out of `features`, or say `server: vllm` or `server: llama.cpp`"
                )
        if lacking := self.lacking(sampling):
            raise ValueError(f"{self.name} has no {lacking}: leave it out of `sampling`")

    def lacking(self, sampling: Mapping[str, Any]) -> str:
        """Return a setting that is given but cannot be sent, or ""."""
        named = ("top_k", "min_p", "repeat_penalty")
        return next(
            (n for n in named if sampling.get(n) is not None and n not in self.settings), ""
        )

    def extra(self, request: Request, banned_tokens: Sequence[int] = ()) -> dict[str, Any]:
        """Return what goes into a request's body beside OpenAI's own names.

        Raises ChatError for what the server cannot do.
        """
        sampling = request.sampling.model_dump(exclude_none=True)
        if lacking := self.lacking(sampling):
            raise ChatError(f"a server of the kind {self.name} has no {lacking}")
        extra = {
            theirs: sampling[ours] for ours, theirs in self.settings.items() if ours in sampling
        }
        if self.name == "vllm":
            if request.prefix:
                extra |= {"continue_final_message": True, "add_generation_prompt": False}
            if request.grammar is not None:
                extra["structured_outputs"] = {"grammar": request.grammar}
                extra["guided_grammar"] = request.grammar  # its name before 0.12
            if request.sampling.banned:
                words = {w for term in request.sampling.banned for w in spellings(term)}
                extra["bad_words"] = sorted(words)
        elif self.name == "llama.cpp":
            if request.prefix and request.schema is not None:
                raise ChatError(
                    "llama.cpp's server holds a schema to the whole reply, its prefix included: "
                    "ask for a schema or a prefix, or use embedded.chat"
                )
            if request.grammar is not None:
                extra["grammar"] = request.grammar
            if banned_tokens:
                extra["logit_bias"] = [[token, False] for token in banned_tokens]
        return extra


_COMMON = {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"}
SERVERS: Mapping[ServerName, Server] = {
    server.name: server
    for server in (
        Server("llama.cpp", _COMMON | {"repeat_penalty": "repeat_penalty"}, _ALL),
        Server("ollama", {}),
        Server("openai", {}, limit="max_completion_tokens"),
        Server("other", _COMMON),
        Server("vllm", _COMMON, _ALL, repeats=False),
    )
}


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenAI's form of a JSON Schema; strict where its strict mode takes the schema."""
    name = re.sub(r"\W", "_", str(schema.get("title", "reply")), flags=re.ASCII)[:64]
    inner = {"name": name, "schema": schema, "strict": _is_strict(schema)}
    return {"type": "json_schema", "json_schema": inner}


def _is_strict(schema: Any) -> bool:
    """Return whether all properties are required, objects closed, and no keyword is in doubt."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    if not schema.keys() <= _STRICT or ("$ref" in schema and len(schema) > 1):
        return False
    named = schema.get("properties", {})
    if schema.get("type") == "object" and (
        set(named) != set(schema.get("required", ()))
        or schema.get("additionalProperties") is not False
    ):
        return False
    inner = [*named.values(), *schema.get("$defs", {}).values()]
    return all(map(_is_strict, [*inner, schema.get("items"), schema.get("anyOf")]))


def is_loopback(base_url: str | None) -> bool:
    """Return whether a URL leads to this machine."""
    host = urlsplit(base_url or "").hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
