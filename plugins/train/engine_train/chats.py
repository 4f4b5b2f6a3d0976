"""`transformers.chat`: any causal language model of transformers, as a chat."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from types import TracebackType
from typing import Self

import anyio
from anyio import to_thread
from pydantic import PositiveFloat, PositiveInt

from engine import InputFile, ResourceError, hookimpl, resource
from engine.chat import Answer, ChatError, Endpoint, Feature, Limiter, Request, Sampling
from engine_train.bases import Base, Name
from engine_train.errors import TrainingError
from engine_train.generating import Decoder
from engine_train.serving import CAN, DEFAULTS, Dtype, Serving, identify, pinned

__all__ = ["TransformersChat"]


@resource("transformers.chat")
class TransformersChat(Endpoint):
    """A causal language model through torch and transformers, in this process.

    `model` is a Hub id, a folder (`./model`; one with LoRA adapters is merged), a GGUF file or
    a name that `embedded.chat` knows; `revision` is of a Hub id. Its tokenizer's chat template
    renders the messages, or the Jinja `template` in a file; a `prefix` is continued to the letter.

    Up to `slots` calls are answered together: they join and leave between two tokens (for models
    with sliding windows or running states, those that wait begin together). Each draws from its own
    seed, so a reply does not depend on who shares the batch, but for the last bits of the
    arithmetic, and so, in rare cases, a token; with `slots: 1` not even for these. Prompts that are
    equal and begin together are read once.

    `device` is torch's name of one (left out, `cuda` where there is one, else `cpu`), `dtype` what
    the weights are held in (left out, bfloat16 on a CUDA device that has it, else float32).
    `context` is how many tokens a prompt and its reply may have together (left out, what the model
    was made for); a reply that takes longer than `deadline` seconds is tried once more, and then an
    error. `sampling` holds the defaults of all calls.

    Log-probabilities (nats) are the model's own, before sampling settings, of the tokens that make
    up the text: the end token has none. `sampling.banned` takes tokens as `embedded.chat` does.
    """

    def __init__(
        self,
        *,
        model: Name,
        revision: str | None = None,
        device: str | None = None,
        dtype: Dtype | None = None,
        slots: PositiveInt = 8,
        context: PositiveInt | None = None,
        deadline: PositiveFloat = 120.0,
        template: InputFile | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    ) -> None:
        self._given = Base(model=model, revision=revision)
        self.name = self._given.name.rpartition("/")[2]
        self.sampling = sampling.over(DEFAULTS)
        self.limiter = Limiter(slots, tries=2)  # a reply past its deadline is late again
        self._serving = Serving(device, dtype, slots, context, deadline, template, self.sampling)
        self._decoder: Decoder | None = None

    @cached_property
    def _base(self) -> Base:
        return pinned(self._given)

    @cached_property
    def identity(self) -> str:
        """The digest or commit of the model, and what else changes a reply."""
        try:
            return f"transformers {identify(self._base)}, {self._serving.identity}"
        except TrainingError as error:
            raise ResourceError(str(error)) from error

    @property
    def can(self) -> frozenset[Feature]:
        """Prefixes, log-probabilities, seeds and banned strings."""
        return CAN

    async def __aenter__(self) -> Self:
        """Load the model, off the event loop. Raises ResourceError when it cannot be."""

        def load() -> Decoder:
            model, tokenizer = self._serving.load(self._base)
            return self._serving.decoder(model, tokenizer, self._base.name)

        try:
            self._decoder = await to_thread.run_sync(load)
        except TrainingError as error:
            raise ResourceError(str(error)) from error
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop what runs and free the model."""
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(decoder.close)

    async def send(self, request: Request) -> Answer:
        """Generate one reply, together with those of other calls."""
        if self._decoder is None:
            raise ChatError("transformers.chat is not open: use it in a run, or in `async with`")
        return await self._decoder.reply(request, self._serving.deadline)


@hookimpl
def engine_resources() -> Sequence[type]:
    """Register `transformers.chat`."""
    return [TransformersChat]
