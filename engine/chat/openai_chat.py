"""`openai.chat`: any server that speaks OpenAI's chat completions, through the openai SDK."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import ByteSize, PositiveFloat, PositiveInt

from engine.chat.bound import Endpoint
from engine.chat.connection import Connection
from engine.chat.limiter import Limiter
from engine.chat.llama import key_token, spellings
from engine.chat.protocol import Answer, Feature, Request, Sampling, TokenLogprob
from engine.chat.servers import SERVERS, ServerName, is_loopback, response_format
from engine.errors import ChatError, ResourceError
from engine.hookspecs import hookimpl
from engine.resources import resource
from engine.services import Usage

__all__ = ["OpenAIChat"]

MAX_REPLY = ByteSize(16 * 2**20)
"""With 20 log-probabilities a token takes two thousand bytes: room for eight thousand tokens."""

START = 4
"""Calls at once in the beginning, until good replies allow more."""

OPENAI = "https://api.openai.com/v1"


@resource("openai.chat")
class OpenAIChat(Endpoint):
    """A model behind an OpenAI-compatible server: OpenAI, vLLM, llama.cpp, Ollama, ...

    `model` is the name that the server knows, `base_url` where it is (left out, OpenAI). The key
    stands in the environment variable that `api_key_env` names, and nowhere else; a server on the
    loopback needs none.

    `server` says what kind it is, and with it what it can and how it is asked for what OpenAI does
    not have; left out, it is `openai` without a `base_url`, `other` with one. `features` takes the
    place of what that kind can: nothing checks the claim.

    At most `slots` calls run at once, fewer in the beginning and while the server is overloaded.
    `rpm`, `tpm`, `input_tpm` and `output_tpm` are budgets a minute: of requests, of tokens, of
    prompt tokens, of generated tokens. `timeout` bounds each try, in seconds, and `max_reply` each
    reply, in bytes or as `16 MiB`. `sampling` holds the defaults of all calls. `prices` are per
    million new, cached and generated tokens: the summary then shows the cost.

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
        input_tpm: PositiveFloat | None = None,
        output_tpm: PositiveFloat | None = None,
        max_reply: ByteSize = MAX_REPLY,
        timeout: PositiveFloat = 120.0,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        prices: tuple[float, float, float] | None = None,
    ) -> None:
        self.sampling = sampling
        self.limiter = Limiter(
            slots, start=START, rpm=rpm, tpm=tpm, input_tpm=input_tpm, output_tpm=output_tpm
        )
        self.name = model
        self._model, self._base_url, self._key_env = model, base_url, api_key_env
        self._server = SERVERS[server or ("other" if base_url else "openai")]
        self._features = frozenset(self._server.features if features is None else features)
        self._server.check(sorted(self._features), sampling.model_dump())
        self._timeout, self.prices, self._max_reply = timeout, prices, ByteSize(max_reply)
        self._host = _host(base_url)
        self._connection: Connection | None = None
        self._banned: dict[str, frozenset[int]] = {}
        self._found_key()

    @property
    def identity(self) -> str:
        """The model, the features used, and the sampling defaults."""
        sampling = self.sampling.model_dump_json(exclude_defaults=True)
        return f"openai {self._model}, {' '.join(sorted(self._features))}, {sampling}"

    @property
    def can(self) -> frozenset[Feature]:
        """The features of the kind of server, or those that the configuration claims for it."""
        return self._features

    @property
    def _root(self) -> str:
        return (self._base_url or OPENAI).rstrip("/")  # whatever OPENAI_BASE_URL says

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
        """Open the connection. Raises ResourceError without the SDK or a key."""
        connection = Connection(
            name=self._model,
            host=self._host,
            base_url=self._root,
            key=self._found_key(),
            key_env=self._key_env,
            slots=self.limiter.slots,
            timeout=self._timeout,
            max_reply=self._max_reply,
        )
        await connection.open()
        self._connection = connection
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def send(self, request: Request) -> Answer:
        """Ask the server once; the limiter decides whether to ask again."""
        connection = self._connection
        if connection is None:
            raise ChatError("openai.chat is not open: use it in a run, or in `async with`")
        body = await self._body(connection, request)
        data = await connection.post(f"{self._root}/chat/completions", body)
        found: Any = None
        try:
            found = json.loads(data)
            answer = self._answer(found)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            start = connection.safe(data[:2000].decode("utf-8", "replace"), 80)
            billed = self._usage(found)
            raise ChatError(
                f"not a chat completion: {start!r}",
                retryable=True,
                usage=billed if billed.known else None,
            ) from error
        if request.prefix and self._server.repeats:
            answer = replace(answer, text=answer.text.removeprefix(request.prefix))
        return answer

    async def _body(self, connection: Connection, request: Request) -> dict[str, Any]:
        sampling, server = request.sampling, self._server
        if "banned" not in self._features and sampling.banned:
            sampling = sampling.model_copy(update={"banned": ()})
            request = replace(request, sampling=sampling)
        tokens: set[int] = set()
        if server.name == "llama.cpp":
            for term in sampling.banned:
                tokens |= await self._banned_tokens(connection, term)
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
        }
        said = {name: value for name, value in body.items() if value is not None}
        return said | server.extra(request, sorted(tokens))

    async def _banned_tokens(self, connection: Connection, term: str) -> frozenset[int]:
        """Return the tokens that stand for a term: llama.cpp's server bans tokens, not words."""
        if term not in self._banned:
            url = f"{self._root.removesuffix('/v1')}/tokenize"
            keys = set()
            for text in (lead + word for word in spellings(term) for lead in ("", " ")):
                asked = {"content": text, "add_special": False, "with_pieces": True}
                found: Any = json.loads(await connection.post(url, asked))
                tokens = [(t["id"], t["piece"]) for t in found["tokens"]]
                keys.add(key_token([(i, p if isinstance(p, str) else "") for i, p in tokens]))
            self._banned[term] = frozenset(key for key in keys if key is not None)
        return self._banned[term]

    def _answer(self, found: Mapping[str, Any]) -> Answer:
        choice = found["choices"][0]
        message = choice["message"]
        refusal = message.get("refusal")
        # A reply that only calls tools may come without content; any other must have it.
        content = message.get("content") if message.get("tool_calls") else message["content"]
        return Answer(
            str(refusal or content or ""),
            "refusal" if refusal else str(choice.get("finish_reason") or "stop"),
            self._usage(found),
            tuple(_logprobs(choice)),
        )

    def _usage(self, found: Any) -> Usage:
        """Return what a reply says that it took: nothing, where it says nothing readable."""
        try:
            said = found["usage"]
            prompt = int(said.get("prompt_tokens") or 0)
            out = int(said.get("completion_tokens") or 0)
            cached = int((said.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            return Usage()
        tokens = (max(0, prompt - cached), max(0, cached), max(0, out))
        prices = self.prices or (0.0, 0.0, 0.0)
        cost = sum(price * count / 1e6 for price, count in zip(prices, tokens, strict=True))
        return Usage(*tokens, cost)


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
