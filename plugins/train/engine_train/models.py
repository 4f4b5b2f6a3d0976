"""`train.models`: models that rows name, loaded when they are asked for."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
from anyio import to_thread
from pydantic import BaseModel, PositiveFloat, PositiveInt

from engine import Artifact, Context, InputFile, Resource, Row, resource
from engine.chat import (
    Answer,
    Bound,
    Chat,
    ChatError,
    Endpoint,
    Feature,
    Limiter,
    Message,
    Reply,
    Request,
    Sampling,
)
from engine_train.bases import Base
from engine_train.errors import TrainingError
from engine_train.generating import Decoder
from engine_train.serving import CAN, DEFAULTS, Dtype, Serving, identify, no_bars, pinned

if TYPE_CHECKING:
    from engine_train.rewards import RewardModel

__all__ = ["Models", "Reference"]

Reference = Artifact | Path | str
"""A model Artifact of a row, a folder, a GGUF file or a Hub id."""


@resource("train.models")
class Models(Resource):
    """Models that stages ask for by an Artifact of a row, a folder or a Hub id.

    At most `keep` models are held, and those in use; then the least recently used is dropped.
    Several that ask for one at once wait for one loading.

    `device`, `dtype`, `slots`, `context`, `deadline`, `template` and `sampling` are as in
    `transformers.chat`, for all chats with these models.
    """

    def __init__(
        self,
        *,
        keep: PositiveInt = 2,
        device: str | None = None,
        dtype: Dtype | None = None,
        slots: PositiveInt = 8,
        context: PositiveInt | None = None,
        deadline: PositiveFloat = 120.0,
        template: InputFile | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    ) -> None:
        defaults = sampling.over(DEFAULTS)
        self._serving = Serving(device, dtype, slots, context, deadline, template, defaults)
        self._shelf = _Shelf(keep)
        self._ctx: Context | None = None

    @property
    def identity(self) -> str:
        """What changes a reply; the models themselves stand in the rows, or in the stages."""
        return f"train.models, {self._serving.identity}"

    async def __aenter__(self) -> Self:
        """Do nothing: models are loaded when they are asked for."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop what runs and drop all models."""
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._shelf.clear)

    def bind(self, ctx: Context) -> Self:
        """Return the view of one execution: it finds the run's Artifacts, its chats are the run's.

        All views share the models.
        """
        view = copy.copy(self)
        view._ctx = ctx
        return view

    async def load(self, ref: Reference, *, revision: str | None = None) -> tuple[Any, Any]:
        """Return a causal language model, in evaluation mode, and its tokenizer.

        They are shared: change neither, and compute in `anyio.to_thread`. Raises TrainingError
        for what is no such model.
        """
        async with self._loaded(self._source(ref, revision)) as loaded:
            return loaded.model, loaded.tokenizer

    async def reward(self, ref: Reference, *, revision: str | None = None) -> RewardModel:
        """Return a reward model; it is shared. Raises TrainingError for what is none."""
        source = self._source(ref, revision)

        def load() -> RewardModel:
            from engine_train.places import find
            from engine_train.rewards import RewardModel

            with no_bars():
                place = find(source.base, seed=0, texts=())
                return RewardModel.load(place, self._serving.pick())

        identity = await source.known()
        async with self._shelf.lease(f"reward {identity}", load) as model:
            found: RewardModel = model
            return found

    def chat(self, ref: Reference, *, revision: str | None = None) -> Chat:
        """Return a model as a chat; it is loaded at the first call that is not replayed.

        A call raises ChatError for what is no model, or has no chat template.
        """
        source = self._source(ref, revision)
        endpoint = _ModelChat(self, source, self._shelf.limiter(source.key, self._serving.slots))
        return _View(endpoint, self._ctx or Context(""))

    def _source(self, ref: Reference, revision: str | None) -> _Source:
        if isinstance(ref, Artifact) and self._ctx is None:
            raise TrainingError(
                "an Artifact is found by the run that made it: take `models: Models` in a stage, "
                "or give the folder that holds the model"
            )
        return _Source(ref, revision, self._ctx)

    @asynccontextmanager
    async def _loaded(self, source: _Source) -> AsyncIterator[_Loaded]:
        """Hold a causal model for as long as the block lasts."""

        def load() -> _Loaded:
            model, tokenizer = self._serving.load(source.base)
            try:
                decoder = self._serving.decoder(model, tokenizer, source.base.name)
            except TrainingError as error:  # it cannot chat, and may do all else
                return _Loaded(model, tokenizer, None, str(error))
            return _Loaded(model, tokenizer, decoder)

        identity = await source.known()
        async with self._shelf.lease(identity, load) as loaded:
            yield loaded


@dataclass
class _Loaded:
    model: Any
    tokenizer: Any
    decoder: Decoder | None
    why_not: str = ""
    """Why there is no decoder."""


class _Source:
    """What a stage asked for, found when it is needed."""

    def __init__(self, ref: Reference, revision: str | None, ctx: Context | None) -> None:
        self._ref, self._revision, self._ctx = ref, revision, ctx
        self._identity: str | None = None
        self._base: Base | None = None

    @property
    def key(self) -> str:
        """What is the same for all that ask in this way."""
        ref = self._ref
        return ref.digest if isinstance(ref, Artifact) else f"{ref}@{self._revision}"

    @property
    def base(self) -> Base:
        """The model as the loader knows it; blocks. Raises TrainingError."""
        if self._base is None:
            if isinstance(self._ref, Artifact):
                assert self._ctx is not None
                self._base = Base.of(None, self._ref, self._ctx.blobs)
            else:
                self._base = pinned(Base(model=self._ref, revision=self._revision))
        return self._base

    @property
    def identity(self) -> str:
        """What tells the model from every other; blocks. Raises TrainingError."""
        if self._identity is None:
            self._identity = identify(self.base)
        return self._identity

    async def known(self) -> str:
        """Return the identity, found off the event loop."""
        if self._identity is None:
            await to_thread.run_sync(lambda: self.identity)
        return self.identity


class _Shelf:
    """Loaded models by what they are, the least recently used first."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._loading = anyio.Lock()
        self._limiters: dict[str, Limiter] = {}

    def limiter(self, key: str, slots: int) -> Limiter:
        """Return the limiter of a model's calls."""
        return self._limiters.setdefault(key, Limiter(slots, tries=2))

    @asynccontextmanager
    async def lease(self, key: str, load: Callable[[], Any]) -> AsyncIterator[Any]:
        """Hold a model for as long as the block lasts; `load` it, in a thread, if it is gone."""
        if key not in self._held:
            async with self._loading:  # one at a time: two at once may not fit the memory
                if key not in self._held:
                    self._drop(self._keep - 1)
                    self._held[key] = _Held(await to_thread.run_sync(load))
        held = self._held[key]
        self._held.move_to_end(key)
        held.users += 1
        try:
            yield held.value
        finally:
            held.users -= 1
            self._drop(self._keep)

    def clear(self) -> None:
        """Drop all; blocks until nothing runs."""
        while self._held:
            _close(self._held.popitem()[1].value, wait=True)

    def _drop(self, most: int) -> None:
        """Drop models that nobody uses until at most so many are held."""
        idle = [key for key, held in self._held.items() if not held.users]
        for key in idle[: max(0, len(self._held) - most)]:
            _close(self._held.pop(key).value, wait=False)


@dataclass
class _Held:
    value: Any
    users: int = 0


def _close(value: Any, *, wait: bool) -> None:
    if isinstance(value, _Loaded) and value.decoder is not None:
        value.decoder.close(wait=wait)


class _ModelChat(Endpoint):
    """A model of the shelf as an endpoint."""

    def __init__(self, models: Models, source: _Source, limiter: Limiter) -> None:
        self._models, self.source, self.limiter = models, source, limiter
        self.name = "model"
        self.sampling = models._serving.sampling

    @property
    def identity(self) -> str:
        """The digest or commit of the model, and what else changes a reply."""
        return f"transformers {self.source.identity}, {self._models._serving.identity}"

    @property
    def can(self) -> frozenset[Feature]:
        """As `transformers.chat`."""
        return CAN

    async def send(self, request: Request) -> Answer:
        """Generate one reply; the model is loaded if it is not."""
        try:
            async with self._models._loaded(self.source) as loaded:
                if loaded.decoder is None:
                    raise ChatError(loaded.why_not)
                return await loaded.decoder.reply(request, self._models._serving.deadline)
        except TrainingError as error:
            raise ChatError(str(error)) from error


class _View(Bound):
    """An execution's view of a model of the shelf, which is identified before the first call."""

    def __init__(self, model: _ModelChat, ctx: Context, row_id: str | None = None) -> None:
        super().__init__(model, ctx, row_id)
        self._model = model

    def for_row(self, row: Row) -> Chat:
        """Return the view that books its calls on `row`."""
        return _View(self._model, self._ctx, row.row_id)

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
        """See `Chat.complete`."""
        try:
            await self._model.source.known()
        except TrainingError as error:
            raise ChatError(str(error)) from error
        self._model.name = self._model.source.base.name
        return await super().complete(
            messages,
            prefix=prefix,
            n=n,
            sampling=sampling,
            schema=schema,
            grammar=grammar,
            top_logprobs=top_logprobs,
            key=key,
        )
