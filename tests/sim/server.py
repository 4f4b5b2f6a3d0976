"""The simulated model server: its reply is a function of the prompt and the sample; it keeps books.

A prompt is `kind|stage|row|n`. Faults pass: at most two for one sample in one life, so that every
call succeeds in the end, and the output does not depend on them.
"""

from __future__ import annotations

import random

import anyio

from engine import Text, resource
from engine.chat import Answer, Endpoint, Feature, Limiter, Request
from engine.errors import ChatError
from engine.services import Usage
from tests.sim.world import World, world

SLOTS = 4
BAD = ((), (0,), (0, 1), (0, 1, 2), (1,))
"""n modulo 5 -> samples that are garbage."""


def is_poison(n: int) -> bool:
    """Whether the server refuses to answer about this number, whatever is tried."""
    return n % 17 == 13


def value_of(n: int, sample: int) -> int:
    """Return what the server says about a number."""
    return (7 * n + 3 * sample) % 50


@resource("sim.chat")
class SimChat(Endpoint):
    """The endpoint of one life: its limiter is the process's, its books are the world's."""

    def __init__(self, *, model: str = "sim") -> None:
        self.name = self._model = model
        self.limiter = Limiter(SLOTS)
        self.limiter.random = random.Random(repr((world().seed, world().life)))

    @property
    def identity(self) -> str:
        return self._model

    @property
    def can(self) -> frozenset[Feature]:
        return frozenset({"seed"})

    async def send(self, request: Request) -> Answer:
        here, prompt, seed = world(), str(request.messages[-1].content), request.sampling.seed
        assert seed is not None
        call = (f"{prompt}@{self._model}", seed)
        here.note("sent", call)
        if anyio.current_time() < here.not_before:
            here.find(f"{call} was sent while the server asked to wait")
        if here.failed_for(1.0):
            here.find(f"{call} was sent a second after the disk had failed")
        with here.at_most(SLOTS, "the server"):
            here.in_flight[call] += 1
            try:
                answer = await self._answer(here, prompt, call)
                if not here.dead:
                    here.unseen[call] += 1
                here.note("answered", call)
                return answer
            finally:
                here.in_flight[call] -= 1

    async def _answer(self, here: World, prompt: str, call: tuple[str, int]) -> Answer:
        seed = call[1]
        kind, _, _, number = prompt.split("|")[:4]
        n = int(number)
        here.arrivals[here.life, *call] += 1
        arrival = here.arrivals[here.life, *call]
        names = ("call", here.life, call, arrival)
        seconds = 5 * here.draw("latency", *names) ** 3
        fault = here.draw("fault", *names) if arrival <= 2 else 1.0
        if here.draw("calm", here.life) < 0.5:
            fault *= 4  # a life with few faults
        if kind == "ask" and is_poison(n):
            raise ChatError("400: no", status=400)
        if fault < 0.03:
            asked = (0.0, 0.5, 200.0)[int(here.draw("asked", *names) * 3)]
            here.not_before = max(here.not_before, anyio.current_time() + asked)
            raise ChatError("429: too fast", retryable=True, retry_after=asked, status=429)
        if fault < 0.05:
            await anyio.sleep(seconds)
            raise ChatError("503: overloaded", retryable=True, status=503)
        if fault < 0.10 and kind == "slow":
            await anyio.sleep_forever()
        await anyio.sleep(seconds)
        if fault < 0.12:
            raise ChatError("reset", retryable=True, status=0)
        if not here.dead:
            here.billed[call] += 1
        if fault < 0.15:
            if not here.dead:
                here.broken[call] += 1
            raise ChatError("reset after billing", retryable=True, status=0)
        await anyio.sleep(seconds / 4)
        word = "garbage" if kind == "ask" and seed in BAD[n % 5] else "good"
        value = value_of(n, seed if kind == "ask" else 0)
        return Answer(f"{word} {value} {seed} {self._model}", usage=Usage(1, 0, 1, 0.5))


def seen(prompt: str, text: Text) -> int:
    """Tell the auditor that a stage has seen this reply; return its value."""
    _, value, seed, model = text.split(" ")
    world().unseen[f"{prompt}@{model}", int(seed)] = 0
    return int(value)
