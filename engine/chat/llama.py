"""llama.cpp in this process, through xllamacpp: blocking calls, to be made from worker threads.

xllamacpp wraps llama.cpp's own server. Completions go through its Python calls, streamed, because
the callback between two tokens is the one place where a running generation can be stopped. What
has no Python call (templates, tokens) goes over the server's HTTP port on the loopback, which
a random key closes to everyone else.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.chat.protocol import Answer, Request, TokenLogprob
from engine.errors import ChatError, ResourceError
from engine.services import Usage

__all__ = ["Call", "Llama", "default_threads", "key_token", "spellings"]

CLOSING = 10.0
"""Seconds that closing waits for calls that were told to stop: a batch of prompt ends in less."""


def default_threads() -> int:
    """Return 1 on a small or busy machine, where OpenMP's barriers stall, else half the cores."""
    cores = os.cpu_count() or 1
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > cores
    return 1 if cores <= 2 or busy else min(cores // 2, 8)


class Llama:
    """A loaded model. Loads in the constructor; all methods block and may be called in parallel."""

    def __init__(self, path: Path, *, slots: int, threads: int, context: int) -> None:
        # Read when OpenMP starts: threads that spin at barriers starve each other on busy cores.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        try:
            xllamacpp = import_module("xllamacpp")
        except ImportError as error:
            raise ResourceError(
                "embedded.chat needs xllamacpp: `pip install 'st-engine[embedded]'`"
            ) from error
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ResourceError(f"{path} is not a GGUF file")
        self._key = secrets.token_hex(16)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context * slots
        params.n_parallel = slots
        params.n_batch = params.n_ubatch = 256  # how often a prompt can be stopped
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_threads_http = 2
        params.api_keys = [self._key]
        params.ui = False
        params.verbosity = 0
        params.prefill_assistant = False  # a dialogue may end with the assistant; prefixes are ours
        params.fit_params = False  # take the context that was asked for, or fail
        params.cache_ram_mib = 0
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise ResourceError(
                f"llama.cpp cannot load {path}: a broken file, an architecture that it does not "
                f"know, or no memory for {slots} x {context} tokens of context"
            ) from error
        self._address = urlsplit(self._server.listening_address).netloc
        self._banned: dict[str, frozenset[int]] = {}
        self._running: set[Call] = set()

    def close(self) -> None:
        """Stop what runs, then the server."""
        running = list(self._running)
        for call in running:
            call.stop()
        for call in running:
            call.ended.wait(CLOSING)
        del self._server  # its destructor joins llama.cpp's thread

    def prompt(self, request: Request) -> str:
        """Return the request as the model reads it: its own chat template, then the prefix."""
        messages = [{"role": m.role, "content": str(m.content)} for m in request.messages]
        rendered: str = self._post("/apply-template", {"messages": messages})["prompt"]
        return rendered + str(request.prefix)

    def banned(self, term: str) -> frozenset[int]:
        """Return the tokens whose absence keeps `term` out; see `EmbeddedChat`."""
        if term not in self._banned:
            texts = [lead + word for word in spellings(term) for lead in ("", " ")]
            keys = {key_token(self.tokens(text)) for text in texts}
            self._banned[term] = frozenset(key for key in keys if key is not None)
        return self._banned[term]

    def tokens(self, text: str) -> list[tuple[int, str]]:
        """Return the tokens of a text as (id, piece)."""
        body = {"content": text, "add_special": False, "with_pieces": True}
        found = self._post("/tokenize", body)["tokens"]
        return [(t["id"], t["piece"] if isinstance(t["piece"], str) else "") for t in found]

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
            connection.request("POST", path, json.dumps(body).encode(), headers)
            response = connection.getresponse()
            found = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ChatError(f"llama.cpp, {path}: {error}", retryable=True) from error
        finally:
            connection.close()
        if response.status != 200:
            raise _error(found)
        return found


class Call:
    """One completion: `run` in a worker thread, `stop` from anywhere."""

    def __init__(self, llama: Llama, request: Request, *, cache: bool) -> None:
        self._llama, self._request, self._cache = llama, request, cache
        self._stopped = False
        self.ended = threading.Event()

    def stop(self) -> None:
        """End the generation at its next token, or its next 256 tokens of prompt."""
        self._stopped = True

    def run(self) -> Answer:
        """Generate; raises ChatError for what llama.cpp refuses, and when stopped."""
        running, server = self._llama._running, self._llama._server
        running.add(self)
        try:
            chunks: list[dict[str, Any]] = []

            def receive(chunk: dict[str, Any]) -> bool:
                chunks.append(chunk)
                return self._stopped

            server.handle_completions(self._body(), receive)
            return _answer(chunks)
        finally:
            running.discard(self)
            self.ended.set()

    def _body(self) -> dict[str, Any]:
        request, sampling = self._request, self._request.sampling
        settings = sampling.model_dump(
            include={"temperature", "top_p", "min_p", "top_k", "repeat_penalty", "max_tokens"},
            exclude_none=True,
        )
        tokens = sorted(t for term in sampling.banned for t in self._llama.banned(term))
        body = {
            **settings,
            "prompt": self._llama.prompt(request),
            "seed": (sampling.seed or 0) & 0x7FFFFFFF,
            "stop": list(sampling.stop),
            "logit_bias": [[token, False] for token in tokens],
            "logprobs": request.top_logprobs,
            "cache_prompt": self._cache,
            "stream": True,
            "return_progress": True,
        }
        if request.grammar is not None:
            body["grammar"] = request.grammar
        if request.schema is not None:
            body["json_schema"] = request.schema
        return body


def spellings(term: str) -> set[str]:
    """Return a banned term as given, in lower case and capitalised."""
    return {term.strip(), term.strip().lower(), term.strip().capitalize()} - {""}


def key_token(tokens: Sequence[tuple[int, str]]) -> int | None:
    """Return the token that stands for a word: its first, its longest, or none if all are short.

    Fewer than three letters stand for nothing: without `te`, half the language is gone.
    """
    first, longest = tokens[0], max(tokens, key=lambda t: len(t[1].strip()))
    for token, piece in (first, longest):
        if len(piece.strip()) >= 3 or len(tokens) == 1:
            return token
    return None


def _answer(chunks: Sequence[Mapping[str, Any]]) -> Answer:
    if not chunks or "error" in chunks[-1]:
        raise _error(chunks[-1] if chunks else {})
    last = chunks[-1]
    choices = [chunk["choices"][0] for chunk in chunks if chunk.get("choices")]
    timings = last.get("timings")
    if timings is None:
        raise ChatError("llama.cpp stopped before the reply was whole", retryable=True)
    return Answer(
        "".join(choice["text"] for choice in choices),
        choices[-1]["finish_reason"] or "stop",
        Usage(new=timings["prompt_n"], cached=timings["cache_n"], out=timings["predicted_n"]),
        tuple(_logprobs(choices)),
    )


def _logprobs(choices: Sequence[Mapping[str, Any]]) -> Iterator[TokenLogprob]:
    for choice in choices:
        for token in (choice.get("logprobs") or {}).get("content", ()):
            top = {t["token"]: t["logprob"] for t in token["top_logprobs"]}
            yield TokenLogprob(token["token"], token["logprob"], top)


def _error(found: Mapping[str, Any]) -> ChatError:
    error = found.get("error") or {}
    if error.get("type") == "exceed_context_size_error":
        return ChatError(
            f"the prompt has {error['n_prompt_tokens']} tokens, the context {error['n_ctx']}: "
            "shorten it, or raise `context` of embedded.chat"
        )
    return ChatError(
        f"llama.cpp: {error.get('message', 'no answer')}", retryable=error.get("code", 500) >= 500
    )
