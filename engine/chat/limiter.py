"""One limiter for each endpoint: slots, budgets, and patient retries of what may pass.

A call that waits here keeps its worker (that is the back-pressure), but no slot, and the stage's
deadline stands still.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio

from engine.chat.protocol import Answer
from engine.stages import Context

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["Limiter"]

LONG = 120.0
"""Seconds of a pause beyond which it is said that a run waits, and has not stopped."""


class Limiter:
    """At most `slots` calls at a time; a retryable failure waits and tries again.

    Backoff is exponential with full jitter up to `longest` seconds, and at least the
    server's Retry-After. `tries` counts all sends of one call. A retryable failure halves the
    slots in use, and a window of good replies gives one back (AIMD, as TCP does it). `rpm` and
    `tpm` are requests and tokens a minute: requests are spread evenly, and tokens, which are
    known only afterwards, are waited for by those who come next.
    """

    def __init__(
        self,
        slots: int = 8,
        *,
        tries: int = 6,
        longest: float = 60.0,
        rpm: float | None = None,
        tpm: float | None = None,
    ) -> None:
        self.slots, self.tries, self.longest = slots, tries, longest
        self._per_request = 60 / rpm if rpm else 0.0
        self._per_token = 60 / tpm if tpm else 0.0
        self._limiter: anyio.CapacityLimiter | None = None
        self._window = float(slots)
        self._narrowed = self._request_at = self._tokens_at = -1e9

    async def run(self, send: Callable[[], Awaitable[Answer]], ctx: Context) -> Answer:
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
            asked: float = getattr(error, "retry_after", 0.0)
            if asked > LONG:
                logging.getLogger("engine").warning(
                    "stage %s waits for %.0f s, as the server asks: %s", ctx.stage_key, asked, error
                )
            return max(asked, backoff(state))

        async def pause(seconds: float) -> None:
            ctx.counters.retries += 1
            with ctx.clock_stopped():
                await anyio.sleep(seconds)

        async def attempt() -> Answer:
            async with AsyncExitStack() as stack:
                with ctx.clock_stopped():
                    await self._within_budget()
                    await stack.enter_async_context(self._slots())
                return await self._measured(send)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.tries),
            retry=retry_if_exception(_is_retryable),
            wait=wait,
            sleep=pause,
            reraise=True,
        )
        return await retrying(attempt)

    async def _within_budget(self) -> None:
        now = anyio.current_time()
        start = max(now, self._request_at, self._tokens_at)
        self._request_at = start + self._per_request
        if start > now:
            await anyio.sleep_until(start)

    async def _measured(self, send: Callable[[], Awaitable[Answer]]) -> Answer:
        started = anyio.current_time()
        try:
            answer = await send()
        except Exception as error:
            if _is_retryable(error) and started >= self._narrowed:  # once for all that failed now
                self._narrowed = anyio.current_time()
                self._set_window(self._window / 2)
            raise
        self._set_window(self._window + 1 / self._window)
        tokens = answer.usage.new + answer.usage.out
        self._tokens_at = max(anyio.current_time(), self._tokens_at) + tokens * self._per_token
        return answer

    def _set_window(self, window: float) -> None:
        self._window = min(max(window, 1.0), float(self.slots))
        self._slots().total_tokens = int(self._window)

    def _slots(self) -> anyio.CapacityLimiter:
        if self._limiter is None:  # made inside the event loop that uses it
            self._limiter = anyio.CapacityLimiter(self.slots)
        return self._limiter


def _is_retryable(error: BaseException) -> bool:
    return bool(getattr(error, "retryable", False))
