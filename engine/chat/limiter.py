"""One limiter for each endpoint: slots, budgets, and patient retries of what may pass.

A call that waits here keeps its worker (that is the back-pressure), but no slot, and the stage's
deadline stands still.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import anyio

from engine.chat.protocol import Answer, Request
from engine.errors import ChatError
from engine.services import Usage
from engine.stages import Context

__all__ = ["Limiter"]

LONG = 120.0
"""Seconds of a pause beyond which it is said that a run waits, and has not stopped."""

BUSY = frozenset((429, 503, 529))
"""A server that would not even begin: no fault of the request, which waits until it is taken."""

OVERLOADED = BUSY | {0, 408, 504}
"""What fewer calls at once may cure: BUSY, late, or a connection that broke (0)."""

FIRST_BACKOFF = 0.5
SHORTEST_WAIT = 0.001
"""Seconds: below them, adding a wait to a clock may not change it."""


class Need(NamedTuple):
    """What a call is thought to take: requests, tokens in, tokens out."""

    requests: int = 1
    new: float = 0.0
    out: float = 0.0
    characters: int = 0
    """What `new` is estimated from."""


class Budget:
    """So much a minute, coming back evenly.

    At most a second's worth (or 1) is there at once, so that in any minute no more is taken than
    the budget, that burst, and the excess of one single call: what is larger than the burst
    begins once the burst is there, and leaves a debt for those who come next.
    """

    def __init__(self, a_minute: float) -> None:
        self._rate = a_minute / 60
        self.burst = max(1.0, self._rate)
        self._left, self._at = self.burst, -math.inf

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until this much may be taken."""
        self._left = min(self.burst, self._left + self._rate * (now - self._at))
        self._at = now
        short = min(amount, self.burst) - self._left
        return max(short / self._rate, SHORTEST_WAIT) if short > 1e-6 else 0.0

    def take(self, amount: float) -> None:
        """Take this much, or give back what was taken in excess, where it is negative."""
        self._left -= amount


class Limiter:
    """At most `slots` calls at a time, within budgets; a retryable failure waits and tries again.

    Calls start in the order in which they came. The slots in use begin at `start` (left out, all)
    and grow with good replies: doubling with each window of them until the server is overloaded
    for the first time, by one thereafter. An overload (see OVERLOADED) halves them; failures of
    requests that were sent before the end of the `cooldown`, in seconds, belong to the same one.

    `rpm`, `input_tpm`, `output_tpm` and `tpm` are requests, prompt tokens, generated tokens and
    both together, a minute. A call's tokens are estimated when it starts, from its characters, its
    `max_tokens` and earlier replies, and put right by what the reply says.

    A retryable failure is sent again, `tries` times in all, or up to `patience` times beside them
    where the server was only busy (see BUSY). Backoff is exponential with full jitter, drawn from
    `random`, up to `longest` seconds. While the server asks to wait, no call is sent.
    """

    def __init__(
        self,
        slots: int = 8,
        *,
        start: int | None = None,
        tries: int = 6,
        patience: int = 60,
        longest: float = 60.0,
        cooldown: float = 1.0,
        rpm: float | None = None,
        tpm: float | None = None,
        input_tpm: float | None = None,
        output_tpm: float | None = None,
    ) -> None:
        self.slots, self.tries, self.patience = slots, tries, patience
        self.longest, self.cooldown = longest, cooldown
        self.random = random.Random()
        self.in_flight = 0
        self.a_minute = {"rpm": rpm, "input_tpm": input_tpm, "output_tpm": output_tpm, "tpm": tpm}
        """The budgets, as they were given."""
        self._budgets: list[tuple[Budget, Callable[[Need], float]]] = [
            (Budget(limit), amount)
            for limit, amount in (
                (rpm, lambda need: need.requests),
                (input_tpm, lambda need: need.new),
                (output_tpm, lambda need: need.out),
                (tpm, lambda need: need.new + need.out),
            )
            if limit
        ]
        self._window = float(min(start or slots, slots))
        self._slow_start = True
        self._cut_until = self._paused_until = self._full_at = -math.inf
        self._tokens_a_char, self._out = 0.25, 0.0  # running means
        self._queue = anyio.Lock()
        self._changed: anyio.Event | None = None  # what the head of the queue waits for

    @property
    def window(self) -> int:
        """How many calls may run at once, as things stand."""
        return int(self._window)

    async def run(
        self,
        send: Callable[[], Awaitable[Answer]],
        ctx: Context,
        request: Request | None = None,
    ) -> Answer:
        """Return what `send` returns; raises its last ChatError once the tries are spent.

        `request` is what the tokens are estimated from, where there is a budget of them.
        """
        tries = busy = 0
        while True:
            try:
                need = self._need(request)
                await self._enter(need, ctx)
                with self._measured(need) as replied:
                    answer = await send()
                    replied(answer.usage)
                return answer
            except ChatError as error:
                if not error.retryable:
                    raise
                if error.status in BUSY:
                    busy += 1
                else:
                    tries += 1
                if tries >= self.tries or busy > self.patience:
                    raise
                self._pause(error, ctx)
            ctx.counters.retries += 1
            with ctx.waiting():
                backoff = min(self.longest, FIRST_BACKOFF * 2 ** (tries + busy - 1))
                await anyio.sleep(self.random.uniform(0, backoff))

    # --- before a call ------------------------------------------------------------------------

    async def _enter(self, need: Need, ctx: Context) -> None:
        """Wait for a slot, the budgets and the end of a pause; take them."""
        with ctx.waiting():
            async with self._queue:  # first come, first served
                while wait := self._wait(need):
                    self._changed = anyio.Event()
                    with anyio.move_on_after(wait):
                        await self._changed.wait()
                if not ctx.gate.closed:
                    self.in_flight += 1
                    if self.in_flight >= self.window:
                        self._full_at = anyio.current_time()
                    self._take(need)
                    return
            await ctx.gate.admit()  # without a slot: another run may share the endpoint

    def _wait(self, need: Need) -> float:
        """Return the seconds until a call may start, or infinity while no slot is free."""
        if self.in_flight >= self.window:
            return math.inf
        now = anyio.current_time()
        waits = [budget.wait(amount(need), now) for budget, amount in self._budgets]
        pause = self._paused_until - now
        return max(*waits, max(pause, SHORTEST_WAIT) if pause > 0 else 0.0, 0.0)

    def _need(self, request: Request | None) -> Need:
        if request is None or not self._budgets:
            return Need()
        characters = len(request.prefix) + sum(len(m.content) for m in request.messages)
        longest = request.sampling.max_tokens
        out = self._out or longest or 0
        return Need(1, self._tokens_a_char * characters, min(out, longest or out), characters)

    def _take(self, need: Need) -> None:
        for budget, amount in self._budgets:
            budget.take(amount(need))

    # --- after it -----------------------------------------------------------------------------

    @contextmanager
    def _measured(self, need: Need) -> Iterator[Callable[[Usage], None]]:
        """Hold a slot; learn from how the call ends, and from the usage that the block is told."""
        started = anyio.current_time()
        used: list[Usage] = []
        try:
            yield used.append
        except ChatError as error:
            if error.retryable and error.status in OVERLOADED and started >= self._cut_until:
                self._cut_until = anyio.current_time() + self.cooldown
                self._window, self._slow_start = max(1.0, self._window / 2), False
            self._take(Need(0, 0.0, -need.out))
            raise
        else:
            if self._full_at >= started:  # else it is not known whether it may be wider
                more = 1.0 if self._slow_start else 1 / self._window
                self._window = min(float(self.slots), self._window + more)
            self._settle(need, used[0])
        finally:
            self._leave()

    def _settle(self, need: Need, usage: Usage) -> None:
        """Put right what was estimated, and estimate better."""
        new, out = usage.new + usage.cached, usage.out
        if not self._budgets or not new + out:  # or the server says nothing of its tokens
            return
        self._take(Need(0, new - need.new, out - need.out))
        self._out += (out - self._out) * (0.1 if self._out else 1.0)
        if need.characters:
            self._tokens_a_char += 0.1 * (new / need.characters - self._tokens_a_char)

    def _leave(self) -> None:
        self.in_flight -= 1
        if self._changed is not None:
            self._changed.set()

    def _pause(self, error: ChatError, ctx: Context) -> None:
        """Send nothing for as long as the server asks."""
        now, asked = anyio.current_time(), error.retry_after
        if asked > LONG and now >= self._paused_until:
            logging.getLogger("engine").warning(
                "stage %s waits for %.0f s, as the server asks: %s", ctx.stage_key, asked, error
            )
        self._paused_until = max(self._paused_until, now + asked)
