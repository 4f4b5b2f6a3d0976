"""`openai.chat`: any server that speaks OpenAI's chat completions, through the openai SDK."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
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
from engine.chat.llama import key_token, spellings
from engine.chat.protocol import Answer, Feature, Request, Sampling, TokenLogprob
from engine.chat.servers import SERVERS, ServerName, is_loopback, response_format
from engine.errors import ChatError, ResourceError
from engine.hookspecs import hookimpl
from engine.resources import resource
from engine.services import Usage

if TYPE_CHECKING:
    import openai

__all__ = ["OpenAIChat"]

LARGEST = 64 * 2**20
"""Bytes of a reply beyond which it is none: with 20 log-probabilities a token has two thousand."""


@resource("openai.chat")
class OpenAIChat(Endpoint):
    """A model behind an OpenAI-compatible server: OpenAI, vLLM, llama.cpp, Ollama, ...

    `model` is the name that the server knows, `base_url` where it is (left out, OpenAI). The key
    stands in the environment variable that `api_key_env` names, and nowhere else; a server on the
    loopback needs none.

    `server` says what kind it is, and with it what it can and how it is asked for what OpenAI does
    not have; left out, it is `openai` without a `base_url`, `other` with one. `features` takes the
    place of what that kind can: nothing checks the claim.

    At most `slots` calls run at once, fewer while the server is overloaded. `rpm` and `tpm` are
    budgets of requests and tokens a minute. `timeout` bounds each try, in seconds. `sampling` holds
    the defaults of all calls. `prices` are per million new, cached and generated tokens: the
    summary then shows the cost.

    A key that is refused, a model or URL that is not found and a quota that is used up end the run:
    they concern every row.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        server: ServerName | None = None,
        features: tuple[Feature, ...] | None = None,
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
        self._server = SERVERS[server or ("other" if base_url else "openai")]
        self._features = frozenset(self._server.features if features is None else features)
        self._server.check(sorted(self._features), sampling.model_dump())
        self._timeout, self._prices = timeout, prices
        self._host = _host(base_url)
        self._client: openai.AsyncOpenAI | None = None
        self._banned: dict[str, frozenset[int]] = {}
        self._key = self._found_key()

    @property
    def identity(self) -> str:
        """The model, the features used, and the sampling defaults."""
        sampling = self.sampling.model_dump_json(exclude_defaults=True)
        return f"openai {self._model}, {' '.join(sorted(self._features))}, {sampling}"

    @property
    def can(self) -> frozenset[Feature]:
        """The features of the kind of server, or those that the configuration claims for it."""
        return self._features

    def _found_key(self) -> str:
        """Return the key, or "" on the loopback. Raises ResourceError where one is missing."""
        key = os.environ.get(self._key_env, "").strip()
        if not key and not is_loopback(self._base_url):
            raise ResourceError(
                f"openai.chat needs a key for {self._host}: set {self._key_env} in the "
                "environment (only a server on the loopback needs none)"
            )
        return key

    async def __aenter__(self) -> Self:
        """Open the client. Raises ResourceError without the SDK or a key."""
        self._key = self._found_key()
        try:
            sdk = await to_thread.run_sync(import_module, "openai")  # a second of imports
        except ImportError as error:
            raise ResourceError(
                "openai.chat needs the openai SDK: `pip install 'st-engine[openai]'`"
            ) from error
        self._client = sdk.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._base_url or "https://api.openai.com/v1",  # whatever OPENAI_BASE_URL says
            timeout=self._timeout,
            max_retries=0,  # our limiter retries, so that each try is counted
            # What is on this machine is not asked through a proxy, whatever the environment says.
            http_client=sdk.DefaultAsyncHttpxClient(trust_env=False)
            if is_loopback(self._base_url)
            else None,
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

        try:
            with anyio.fail_after(self._timeout):  # the SDK's own timeout is per read
                body = await self._body(self._client, request)
                # Raw, because the SDK builds its models without checking what it was sent; and in
                # pieces, because a server that went mad must not fill the memory.
                create = self._client.chat.completions.with_streaming_response.create
                async with create(**body) as reply:
                    data = await self._read(reply.iter_bytes())
        except (openai.APITimeoutError, TimeoutError):
            raise ChatError(f"no reply within {self._timeout:g} s", retryable=True) from None
        except openai.APIStatusError as error:
            raise self._refusal(error) from None  # the SDK's error may repeat the key
        except openai.APIConnectionError as error:
            raise self._broken(error.__cause__ or error) from None
        try:
            answer = self._answer(json.loads(data))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            start = self._safe(data[:2000].decode("utf-8", "replace"), 80)
            raise ChatError(f"not a chat completion: {start!r}", retryable=True) from error
        if self._server.repeats:
            answer = replace(answer, text=answer.text.removeprefix(request.prefix))
        return answer

    async def _read(self, chunks: AsyncIterator[bytes]) -> bytes:
        data = bytearray()
        try:
            # Cancelled rather than left: the SDK's generators then end from the innermost outwards.
            with anyio.CancelScope() as scope:
                async for chunk in chunks:
                    data += chunk
                    if len(data) > LARGEST:
                        scope.cancel()
        except Exception as error:  # the transport's own, another in each major version of the SDK
            raise self._broken(error) from None
        if len(data) > LARGEST:
            raise ChatError(f"the reply is longer than {LARGEST >> 20} MiB")
        return bytes(data)

    def _broken(self, error: BaseException) -> ChatError:
        said = str(error) or type(error).__name__
        return ChatError(self._safe(f"connection to {self._host}: {said}"), retryable=True)

    async def _body(self, client: openai.AsyncOpenAI, request: Request) -> dict[str, Any]:
        sampling, server = request.sampling, self._server
        if "banned" not in self._features and sampling.banned:
            sampling = sampling.model_copy(update={"banned": ()})
            request = replace(request, sampling=sampling)
        tokens: set[int] = set()
        if server.name == "llama.cpp":
            for term in sampling.banned:
                tokens |= await self._banned_tokens(client, term)
        messages = [{"role": m.role, "content": str(m.content)} for m in request.messages]
        if request.prefix:
            messages.append({"role": "assistant", "content": str(request.prefix)})
        body = {
            "model": self._model,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            server.limit: sampling.max_tokens,
            "stop": list(sampling.stop) or None,
            "seed": sampling.seed if "seed" in self._features else None,
            "response_format": response_format(request.schema) if request.schema else None,
            "logprobs": True if request.top_logprobs else None,
            "top_logprobs": request.top_logprobs or None,
            "extra_body": server.extra(request, sorted(tokens)) or None,
        }
        return {name: value for name, value in body.items() if value is not None}

    async def _banned_tokens(self, client: openai.AsyncOpenAI, term: str) -> frozenset[int]:
        """Return the tokens that stand for a term: llama.cpp's server bans tokens, not words."""
        if term not in self._banned:
            root = str(client.base_url).rstrip("/").removesuffix("/v1")
            keys = set()
            for text in (lead + word for word in spellings(term) for lead in ("", " ")):
                asked = {"content": text, "add_special": False, "with_pieces": True}
                found: Any = await client.post(f"{root}/tokenize", body=asked, cast_to=object)
                tokens = [(t["id"], t["piece"]) for t in found["tokens"]]
                keys.add(key_token([(i, p if isinstance(p, str) else "") for i, p in tokens]))
            self._banned[term] = frozenset(key for key in keys if key is not None)
        return self._banned[term]

    def _answer(self, found: Mapping[str, Any]) -> Answer:
        choice, usage = found["choices"][0], found.get("usage") or {}
        message = choice["message"]
        refusal = message.get("refusal")
        # A reply that only calls tools may come without content; any other must have it.
        content = message.get("content") if message.get("tool_calls") else message["content"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        new = (usage.get("prompt_tokens") or 0) - cached
        out = usage.get("completion_tokens") or 0
        cost = sum(
            price * tokens / 1e6
            for price, tokens in zip(self._prices or (), (new, cached, out), strict=False)
        )
        return Answer(
            str(refusal or content or ""),
            "refusal" if refusal else str(choice.get("finish_reason") or "stop"),
            Usage(new, cached, out, cost),
            tuple(_logprobs(choice)),
        )

    def _refusal(self, error: openai.APIStatusError) -> ChatError | ResourceError:
        status, spent = error.status_code, error.code == "insufficient_quota"
        body = error.body  # OpenAI's `error`, or whatever it was
        message = body.get("message") if isinstance(body, Mapping) else None
        said = f"{status}: {self._safe(str(message or body or error.message))}"
        if status in (401, 404) or spent:  # as it is for this row, so for every row
            hint = {
                401: f"is the key in {self._key_env} right",
                404: "are model and base_url right",
            }
            asked = hint.get(status, "is there credit left")
            return ResourceError(f"{self._model} at {self._host}: {said} ({asked}?)")
        if status in (408, 409, 429) or status >= 500:
            wait = retry_after(error.response.headers)
            return ChatError(said, retryable=True, retry_after=wait)
        return ChatError(said)

    def _safe(self, text: str, longest: int = 500) -> str:
        """Return what a server said in one line, without keys."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(re.sub(r"\bsk-[\w*.-]+", "***", text).split())[:longest]


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


def _logprobs(choice: Mapping[str, Any]) -> Iterator[TokenLogprob]:
    for token in (choice.get("logprobs") or {}).get("content") or ():
        top = {t["token"]: float(t["logprob"]) for t in token.get("top_logprobs") or ()}
        yield TokenLogprob(token["token"], float(token["logprob"]), top)


def _host(base_url: str | None) -> str:
    """Return the host of a URL, which is all that messages say of it. Raises ValueError."""
    if base_url is None:
        return "api.openai.com"
    url = urlsplit(base_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("base_url: write it like http://localhost:8000/v1")
    if url.username or url.password or url.query:
        raise ValueError(
            "base_url: no user, password or query, please: a key comes from the environment "
            "variable that `api_key_env` names"
        )
    return url.netloc


@hookimpl
def engine_resources() -> Sequence[type]:
    """Register `openai.chat`."""
    return [OpenAIChat]
