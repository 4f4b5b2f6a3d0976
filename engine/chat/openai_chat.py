"""`openai.chat`: any server that speaks OpenAI's chat completions, through the openai SDK."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import anyio
from anyio import to_thread
from pydantic import PositiveFloat, PositiveInt

from engine.chat.bound import Endpoint
from engine.chat.limiter import Limiter
from engine.chat.protocol import Answer, Feature, Request, Sampling, TokenLogprob
from engine.errors import ChatError, ResourceError
from engine.hookspecs import hookimpl
from engine.resources import resource
from engine.services import Usage

if TYPE_CHECKING:
    import openai

__all__ = ["OpenAIChat"]


@resource("openai.chat")
class OpenAIChat(Endpoint):
    """A model behind an OpenAI-compatible server: OpenAI, vLLM, llama.cpp, TGI, Ollama, ...

    The key comes from the environment only (`api_key_env`); a server on the loopback needs none.
    `features` says what the server has beyond plain completion: `grammar`, `prefix` and `banned`
    are sent as vLLM and llama.cpp read them. At most `slots` calls run at once, fewer while the
    server is overloaded, within `rpm` requests and `tpm` tokens a minute; `timeout` bounds each
    try as a whole. `prices` are per million new, cached and generated tokens.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        features: tuple[Feature, ...] = ("schema", "seed", "logprobs"),
        slots: PositiveInt = 8,
        rpm: PositiveFloat | None = None,
        tpm: PositiveFloat | None = None,
        timeout: PositiveFloat = 120.0,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        prices: tuple[float, float, float] | None = None,
    ) -> None:
        self.sampling, self.limiter = sampling, Limiter(slots, rpm=rpm, tpm=tpm)
        self.name = model
        self._model, self._base_url, self._key_env = model, base_url, api_key_env
        self._features, self._timeout, self._prices = frozenset(features), timeout, prices
        self._client: openai.AsyncOpenAI | None = None
        self._key = ""

    @property
    def identity(self) -> str:
        """The model, the features used, and the sampling defaults."""
        sampling = self.sampling.model_dump_json(exclude_defaults=True)
        return f"openai {self._model}, {' '.join(sorted(self._features))}, {sampling}"

    @property
    def can(self) -> frozenset[Feature]:
        """The features that the configuration claims for the server."""
        return self._features

    async def __aenter__(self) -> Self:
        """Open the client. Raises ResourceError without the SDK or a key."""
        self._key = os.environ.get(self._key_env, "")
        if not self._key and not _is_loopback(self._base_url):
            raise ResourceError(
                f"openai.chat needs a key for {self._base_url or 'api.openai.com'}: "
                f"set {self._key_env} in the environment (only a loopback server needs none)"
            )
        try:
            sdk = await to_thread.run_sync(import_module, "openai")  # a second of imports
        except ImportError as error:
            raise ResourceError(
                "openai.chat needs the openai SDK: `pip install 'st-engine[openai]'`"
            ) from error
        self._client = sdk.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._base_url,
            timeout=self._timeout,
            max_retries=0,  # our limiter retries, so that each try is counted
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the client."""
        client, self._client = self._client, None
        if client is not None:
            with anyio.CancelScope(shield=True):
                await client.close()

    async def send(self, request: Request) -> Answer:
        """Ask the server once; the limiter decides whether to ask again."""
        if self._client is None:
            raise ChatError("openai.chat is not open: use it in a run, or in `async with`")
        import openai

        body = self._body(request)
        try:
            with anyio.fail_after(self._timeout):  # the SDK's own timeout is per read
                # Raw, because the SDK builds its models without checking what it was sent.
                reply = await self._client.chat.completions.with_raw_response.create(**body)
        except (openai.APITimeoutError, TimeoutError):
            raise ChatError(f"no reply within {self._timeout:g} s", retryable=True) from None
        except openai.APIStatusError as error:
            raise self._refusal(error) from None  # the SDK's error may repeat the key
        except openai.APIConnectionError as error:
            raise ChatError(
                self._safe(f"connection: {error.__cause__ or error}"), retryable=True
            ) from None
        try:
            answer = self._answer(json.loads(reply.content))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            start = self._safe(reply.content[:80].decode("utf-8", "replace"))
            raise ChatError(f"not a chat completion: {start!r}", retryable=True) from error
        # llama.cpp's server repeats the prefix in its reply, vLLM does not.
        return replace(answer, text=answer.text.removeprefix(request.prefix))

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        # Every server reads its own names here and ignores the others', except OpenAI's.
        extra: dict[str, Any] = {
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repeat_penalty,  # vLLM
            "repeat_penalty": sampling.repeat_penalty,  # llama.cpp
        }
        messages = [{"role": m.role, "content": str(m.content)} for m in request.messages]
        if request.prefix:
            messages.append({"role": "assistant", "content": str(request.prefix)})
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.grammar is not None:
            extra |= {
                "grammar": request.grammar,  # llama.cpp
                "guided_grammar": request.grammar,  # vLLM before 0.12
                "structured_outputs": {"grammar": request.grammar},  # vLLM
            }
        if sampling.banned and "banned" in self._features:
            extra["bad_words"] = list(sampling.banned)  # vLLM
        limit = "max_tokens" if self._base_url else "max_completion_tokens"
        body = {
            "model": self._model,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            limit: sampling.max_tokens,
            "stop": list(sampling.stop) or None,
            "seed": sampling.seed if "seed" in self._features else None,
            "response_format": _response_format(request.schema) if request.schema else None,
            "logprobs": True if request.top_logprobs else None,
            "top_logprobs": request.top_logprobs or None,
            "extra_body": {k: v for k, v in extra.items() if v is not None} or None,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _answer(self, found: Mapping[str, Any]) -> Answer:
        choice, usage = found["choices"][0], found.get("usage") or {}
        message = choice["message"]
        refusal = message.get("refusal")
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        new, out = usage.get("prompt_tokens", 0) - cached, usage.get("completion_tokens", 0)
        cost = sum(
            price * tokens / 1e6
            for price, tokens in zip(self._prices or (), (new, cached, out), strict=False)
        )
        return Answer(
            str(refusal or message["content"] or ""),
            "refusal" if refusal else str(choice.get("finish_reason") or "stop"),
            Usage(new, cached, out, cost),
            tuple(_logprobs(choice)),
        )

    def _refusal(self, error: openai.APIStatusError) -> ChatError:
        status, code = error.status_code, error.code
        said = f"{status}: {self._safe(error.message)}"
        passing = status in (408, 409, 429) or status >= 500
        if passing and code != "insufficient_quota":  # a 429 that no waiting cures
            wait = retry_after(error.response.headers)
            return ChatError(said, retryable=True, retry_after=wait)
        return ChatError(said)

    def _safe(self, text: str) -> str:
        """Return what a server said in one line, without keys."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(re.sub(r"\bsk-[\w*.-]+", "***", text).split())[:500]


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait: `retry-after-ms`, seconds, or a date."""
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return ms / 1000
    said = headers.get("retry-after")
    if (seconds := _number(said)) is not None:
        return seconds
    until = _timestamp(said)
    if until is None:
        return 0.0
    now = _timestamp(headers.get("date"))  # the server's own clock, if it says
    return max(0.0, until - (time.time() if now is None else now))


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _timestamp(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except ValueError:
        return None


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    name = re.sub(r"\W", "_", str(schema.get("title", "reply")), flags=re.ASCII)[:64]
    inner = {"name": name, "schema": schema, "strict": _is_strict(schema)}
    return {"type": "json_schema", "json_schema": inner}


def _is_strict(schema: Any) -> bool:
    """Return whether OpenAI's strict mode takes the schema: all properties are required."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    named = schema.get("properties")
    optional = isinstance(named, Mapping) and set(named) != set(schema.get("required", ()))
    return not optional and all(map(_is_strict, schema.values()))


def _logprobs(choice: Mapping[str, Any]) -> Iterator[TokenLogprob]:
    for token in (choice.get("logprobs") or {}).get("content") or ():
        top = {t["token"]: float(t["logprob"]) for t in token.get("top_logprobs") or ()}
        yield TokenLogprob(token["token"], float(token["logprob"]), top)


def _is_loopback(base_url: str | None) -> bool:
    host = urlsplit(base_url or "").hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@hookimpl
def engine_resources() -> Sequence[type]:
    """Register `openai.chat`."""
    return [OpenAIChat]
