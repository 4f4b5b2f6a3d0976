"""`embedded.chat`: llama.cpp in this process. No server, no key, no network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio import to_thread
from pydantic import PositiveFloat, PositiveInt

from engine.chat.bound import Endpoint
from engine.chat.limiter import Limiter
from engine.chat.llama import Call, Llama, default_threads
from engine.chat.protocol import Answer, Feature, Request, Sampling
from engine.chat.weights import digest_file, find_weights
from engine.errors import ChatError
from engine.hookspecs import hookimpl
from engine.resources import resource

__all__ = ["EmbeddedChat"]

DEFAULTS = Sampling(
    temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, repeat_penalty=1.0, max_tokens=512
)
"""llama.cpp's own defaults, said here so that no release of it changes a reply in silence."""


@resource("embedded.chat")
class EmbeddedChat(Endpoint):
    """A GGUF model through llama.cpp, in this process.

    `model` is a name whose weights a package carries (`smollm2-135m-instruct`), the path of a
    .gguf file, or `org/repo/file.gguf` on the Hugging Face Hub. The model's own chat template
    renders the messages; a `prefix` is continued to the letter, and a grammar or schema describes
    what comes after it.

    The same request and seed give the same text, whatever ran before, as long as `slots` is 1 and
    `cache` is off: decoding several sequences at once (`slots`), or reusing the attention states
    of a shared prompt (`cache`), is faster but changes the last bits, and so, sooner or later,
    a token.

    `context` is how many tokens a prompt and its reply may have together; `threads` are those of
    the computation (left out, one a core); a reply that takes longer than `deadline` seconds is
    tried once more, and then an error. `sampling` holds the defaults of all calls.

    `sampling.banned` takes a token from the model for each term as given, in lower case and
    capitalised, with and without a space before it: the first, or the longest where the first has
    fewer than three letters, or none where all are so short. It thus also forbids other words that
    begin so, and not every spelling of the term: check the reply.
    """

    def __init__(
        self,
        *,
        model: str = "smollm2-135m-instruct",
        slots: PositiveInt = 1,
        threads: PositiveInt | None = None,
        context: PositiveInt = 4096,
        deadline: PositiveFloat = 120.0,
        cache: bool = False,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    ) -> None:
        self.name = model.rpartition("/")[2]
        self.sampling = sampling.over(DEFAULTS)
        self.limiter = Limiter(slots, tries=2)  # a reply past its deadline is late again
        self._model, self._slots, self._threads = model, slots, threads
        self._context, self._deadline, self._cache = context, deadline, cache
        self._llama: Llama | None = None

    @cached_property
    def _weights(self) -> Path:
        return find_weights(self._model)

    @property
    def identity(self) -> str:
        """The digest of the weights (they hold the chat template), and the sampling defaults."""
        sampling = self.sampling.model_dump_json(exclude_defaults=True)
        return f"gguf {digest_file(self._weights)}, its own template, {sampling}"

    @property
    def can(self) -> frozenset[Feature]:
        """All features."""
        return frozenset(("banned", "grammar", "logprobs", "prefix", "schema", "seed"))

    async def __aenter__(self) -> Self:
        """Load the model, off the event loop. Raises ResourceError when it cannot be."""

        def load() -> Llama:
            return Llama(
                self._weights,
                slots=self._slots,
                threads=self._threads or default_threads(),
                context=self._context,
            )

        self._workers = anyio.CapacityLimiter(self._slots)
        self._llama = await to_thread.run_sync(load)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop what runs and free the model."""
        llama, self._llama = self._llama, None
        if llama is not None:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(llama.close)

    async def send(self, request: Request) -> Answer:
        """Generate one reply in a worker thread; past the deadline it is told to stop."""
        if self._llama is None:
            raise ChatError("embedded.chat is not open: use it in a run, or in `async with`")
        call = Call(self._llama, request, cache=self._cache)
        with anyio.move_on_after(self._deadline):
            try:
                return await to_thread.run_sync(
                    call.run, abandon_on_cancel=True, limiter=self._workers
                )
            finally:
                call.stop()
        raise ChatError(f"no reply within {self._deadline:g} s", retryable=True)


@hookimpl
def engine_resources() -> Sequence[type]:
    """Register `embedded.chat`."""
    return [EmbeddedChat]
