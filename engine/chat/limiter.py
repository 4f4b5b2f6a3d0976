"""One limiter for each endpoint: slots, and patient retries of what may pass.

A call that waits here keeps its worker (that is the back-pressure), but no slot, and the stage's
deadline stands still.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

import anyio

from engine.errors import ChatError
from engine.stages import Context

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["Limiter"]

T = TypeVar("T")


class Limiter:
    """At most `slots` calls at a time; a retryable failure waits and tries again.

    Backoff is exponential with full jitter up to `longest` seconds, and at least the
    server's Retry-After. `tries` counts all sends of one call.
    """

    def __init__(self, slots: int = 8, *, tries: int = 6, longest: float = 60.0) -> None:
        self.slots, self.tries, self.longest = slots, tries, longest
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, send: Callable[[], Awaitable[T]], ctx: Context) -> T:
        """Return what `send` returns; raises its last ChatError once the tries are spent."""
        from tenacity import (
            AsyncRetrying,
            retry_if_exception,
            stop_after_attempt,
            wait_random_exponential,
        )

        backoff = wait_random_exponential(multiplier=0.5, max=self.longest)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(getattr(error, "retry_after", 0.0), backoff(state))

        async def pause(seconds: float) -> None:
            ctx.counters.retries += 1
            with ctx.clock_stopped():
                await anyio.sleep(seconds)

        async def attempt() -> T:
            async with AsyncExitStack() as stack:
                with ctx.clock_stopped():
                    await stack.enter_async_context(self._slots())
                return await send()

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.tries),
            retry=retry_if_exception(lambda error: getattr(error, "retryable", False)),
            wait=wait,
            sleep=pause,
            reraise=True,
        )
        return await retrying(attempt)

    def _slots(self) -> anyio.CapacityLimiter:
        if self._limiter is None:  # made inside the event loop that uses it
            self._limiter = anyio.CapacityLimiter(self.slots)
        return self._limiter
