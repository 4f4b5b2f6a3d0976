"""From a stage's `complete` to an endpoint's `send`: call keys, replay, refusals, limits.

A paid reply is never paid for again: it is durable before it is parsed, and found by its call key,
H(model identity, canonical request, stage key, row id, `key=` or occurrence, sample index). The
key holds no fingerprint, so new code, a new parser or a new gate never pays again.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import anyio
from pydantic import BaseModel

from engine.chat.limiter import Limiter
from engine.chat.protocol import Answer, Chat, Feature, Reply, Request, Sampling, closed, need
from engine.errors import ChatError, ResourceError
from engine.keys import canonical, digest
from engine.rows import Message, Row
from engine.services import Refusal, Usage
from engine.stages import Context
from engine.text import Text

__all__ = ["Bound", "Endpoint"]


class Endpoint(Chat, abc.ABC):
    """The base of chat resources: an endpoint implements `send`, `identity` and `can`.

    `sampling` holds its defaults (they stand in `identity`); `limiter` its slots and retries.
    """

    name: str = ""
    """What people call the model; it stands in traces beside the identity."""
    sampling: Sampling = Sampling()
    limiter: Limiter
    prices: tuple[float, float, float] | None = None
    """What a million new, cached and generated tokens cost, where that is known."""
    surrogates: int = 0
    """Lone surrogates in prompts that were sent as U+FFFD, because UTF-8 cannot carry them."""

    @abc.abstractmethod
    async def send(self, request: Request) -> Answer:
        """Return the answer to one request, which holds no lone surrogates.

        Raises ChatError, `retryable` where trying again may help, and ResourceError where no call
        can succeed (a wrong key, say): it ends the run.
        """

    async def __aenter__(self) -> Self:
        """Open the endpoint."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the endpoint."""

    def bind(self, ctx: Context) -> Self:
        """Return the view of one execution; it is a Chat, though not of this class."""
        return Bound(self, ctx)  # type: ignore[return-value]

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
        """Complete outside a run: nothing is recorded."""
        return await Bound(self, Context("")).complete(
            messages,
            prefix=prefix,
            n=n,
            sampling=sampling,
            schema=schema,
            grammar=grammar,
            top_logprobs=top_logprobs,
            key=key,
        )

    def for_row(self, row: Row) -> Chat:
        """Return the view for one row, outside a run."""
        return Bound(self, Context("")).for_row(row)


@lru_cache(256)
def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return what a reply must be; to make it costs as much as all else here, so once a class."""
    schema: dict[str, Any] = closed(model.model_json_schema())
    return schema


class Bound(Chat):
    """An endpoint as one execution of a stage sees it: its calls are booked, replayed, refused."""

    def __init__(self, endpoint: Endpoint, ctx: Context, row_id: str | None = None) -> None:
        self._endpoint, self._ctx = endpoint, ctx
        self._row_id = ctx.row_id if row_id is None else row_id

    @property
    def identity(self) -> str:
        """The endpoint's identity."""
        return self._endpoint.identity

    @property
    def can(self) -> frozenset[Feature]:
        """The endpoint's features."""
        return self._endpoint.can

    async def __aenter__(self) -> Self:
        """Do nothing: the run opens and closes the endpoint."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing."""

    def bind(self, ctx: Context) -> Self:
        """Return the view of another execution."""
        return self._endpoint.bind(ctx)  # type: ignore[return-value]

    def for_row(self, row: Row) -> Chat:
        """Return the view that books its calls on `row`."""
        return Bound(self._endpoint, self._ctx, row.row_id)

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
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        if schema is not None and grammar is not None:
            raise ValueError("give a schema or a grammar: a reply is held to one of them")
        for feature, wanted in (
            ("prefix", prefix),
            ("schema", schema),
            ("grammar", grammar),
            ("logprobs", top_logprobs),
        ):
            if wanted:
                need(self, feature)  # type: ignore[arg-type]
        request = Request(
            messages=tuple(messages),
            prefix=prefix,
            sampling=(sampling or Sampling()).over(self._endpoint.sampling),
            schema=_schema_of(schema) if schema else None,
            grammar=grammar,
            top_logprobs=top_logprobs,
        )
        call = self._call_key(request, key)
        ctx = self._ctx
        refused = ctx.calls.refusals(call, ctx.fingerprint)
        samples: list[int] = []
        index = 0
        while len(samples) < n:  # the first n samples not refused under this fingerprint
            if index not in refused:
                samples.append(index)
            index += 1
        if n == 1:
            return (await self._sample(request, prefix, call, samples[0]),)
        replies: dict[int, Reply] = {}
        errors: list[Exception] = []

        async def one(sample: int) -> None:
            try:
                replies[sample] = await self._sample(request, prefix, call, sample)
            except Exception as error:  # let the others finish: what they return is paid
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for sample in samples:
                tasks.start_soon(one, sample)
        if errors:
            raise errors[0]
        return tuple(replies[sample] for sample in samples)

    def _call_key(self, request: Request, key: str | None) -> bytes:
        asked = digest("request", self.identity, canonical(request.canonical()))
        if key is None:
            occurrence = f"#{self._ctx.asked[self._row_id, asked]}"
            self._ctx.asked[self._row_id, asked] += 1
        else:
            occurrence = f"={key}"
        return digest("call", asked, self._ctx.stage_key, self._row_id, occurrence)

    async def _sample(self, request: Request, prefix: str, call: bytes, sample: int) -> Reply:
        ctx, sampling = self._ctx, request.sampling
        if sampling.seed is None:
            drawn = int.from_bytes(digest("seed", str(ctx.seed), call, str(sample))[:4], "little")
            sampling = sampling.model_copy(update={"seed": drawn & 0x7FFFFFFF})
        elif sample:
            sampling = sampling.model_copy(update={"seed": sampling.seed + sample})
        stored = ctx.calls.replay(call, sample)
        if stored is None:
            with ExitStack() as in_flight:
                answer = await self._pay(dataclasses.replace(request, sampling=sampling), in_flight)
                with anyio.CancelScope(shield=True):  # it is paid: a timeout must not lose it
                    await ctx.calls.record(call, sample, answer.dumps())
        else:
            answer = Answer.loads(stored)
            ctx.counters.replayed += 1

        generated = Text.leaf(
            answer.text,
            "call",
            inputs=[Text(m.content) for m in request.messages] + ([Text(prefix)] if prefix else []),
            params={
                "model": self.identity,
                "name": self._endpoint.name,
                "stage": ctx.stage_key,
                "roles": [m.role for m in request.messages],
                "sampling": sampling.model_dump(exclude_defaults=True, mode="json"),
                "sample": sample,
                "finish": answer.finish,
                "call": call.hex(),
            },
        )

        text = Text(prefix) + generated if prefix else generated

        def on_refuse(reason: str, span: str | None) -> None:
            ctx.counters.refused += 1
            ctx.refused.append(Refusal(reason, span, text))
            ctx.calls.refuse(call, sample, ctx.fingerprint, reason)

        return Reply(
            text,
            answer.finish,
            answer.usage,
            answer.logprobs,
            on_refuse,
        )

    async def _pay(self, request: Request, in_flight: ExitStack) -> Answer:
        """Return the answer; the call counts as in flight until `in_flight` is closed."""
        request, surrogates = request.sendable()
        if surrogates:
            self._endpoint.surrogates += surrogates
            self._ctx.counters.sanitised["prompt"] += surrogates

        async def attempt() -> Answer:
            with ExitStack() as sent:
                sent.enter_context(self._ctx.gate.call())
                try:
                    answer = await self._endpoint.send(request)
                except ChatError as error:
                    if error.usage is not None:  # no reply, and billed all the same
                        self._spend(error.usage)
                    raise
                self._spend(answer.usage)
                in_flight.push(sent.pop_all())
            return answer

        try:
            return await self._endpoint.limiter.run(attempt, self._ctx, request)
        except (ChatError, ResourceError):
            raise
        except Exception as error:
            raise ChatError(f"{self.identity}: {type(error).__name__}: {error}") from error

    def _spend(self, usage: Usage) -> None:
        self._ctx.counters.spend(usage, self._endpoint.name or self.identity)
        self._ctx.cost += usage.cost
        self._ctx.gate.spend(usage.cost)
