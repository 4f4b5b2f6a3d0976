"""What holds of the limiter whatever the server does: simulated servers, seeded, in virtual time."""

import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from engine.chat import Answer, ChatError, Message, Request, Sampling, Usage
from engine.chat.limiter import Limiter
from engine.stages import Context
from engine.text import Text

seeds = st.integers(0, 2**32)
quick = settings(max_examples=20, deadline=None)
Fault = Callable[[float, random.Random], ChatError | None]


@dataclass
class Sent:
    """A request that the server got."""

    at: float
    tokens: tuple[int, int]
    error: ChatError | None


@dataclass
class World:
    """A server and the workers that ask it, each call when the one before it has been answered."""

    limiter: Limiter
    seed: int
    latency: float = 1.0
    fault: Fault = lambda at, draw: None
    tokens: Callable[[random.Random], tuple[int, int]] = lambda draw: (100, 50)
    said: int | None = None
    """The `max_tokens` of requests."""
    sent: list[Sent] = field(default_factory=list)
    running: int = 0
    most: int = 0
    answered: int = 0
    lost: list[ChatError] = field(default_factory=list)
    seconds: float = 0.0

    def run(self, calls: int, workers: int) -> "World":
        clock = MockClock(autojump_threshold=0)
        anyio.run(self._run, calls, workers, backend="trio", backend_options={"clock": clock})
        return self

    async def _run(self, calls: int, workers: int) -> None:
        draw = random.Random(self.seed)
        self.limiter.random = random.Random(self.seed)
        self._began = anyio.current_time()
        numbers = iter(range(calls))

        async def worker() -> None:
            for _ in numbers:
                await self._call(draw)

        async with anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(worker)
        self.seconds = anyio.current_time() - self._began

    async def _call(self, draw: random.Random) -> None:
        new, out = self.tokens(draw)
        message = Message(role="user", content=Text("four" * new))
        asked = Request((message,), "", Sampling(max_tokens=self.said), None, None, 0)

        async def send() -> Answer:
            at = anyio.current_time() - self._began
            error = self.fault(at, draw)
            self.sent.append(Sent(at, (new, out), error))
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await anyio.sleep(self.latency * draw.uniform(0.5, 1.5) if self.latency else 0)
            finally:
                self.running -= 1
            if error is not None:
                raise error
            return Answer("ok", usage=Usage(new=new, out=out))

        try:
            await self.limiter.run(send, Context("s"), asked)
            self.answered += 1
        except ChatError as error:
            self.lost.append(error)

    def most_a_minute(self, amount: Callable[[Sent], int]) -> int:
        """Return the most that began in any minute."""
        at = [one.at for one in self.sent]
        sums = [0, *accumulate(map(amount, self.sent))]
        return max(sums[bisect_left(at, start + 60 - 1e-6)] - sums[i] for i, start in enumerate(at))


def odd(share: float) -> Fault:
    """Fail in all ways that may pass, as often as this."""

    def fault(at: float, draw: random.Random) -> ChatError | None:
        if draw.random() >= share:
            return None
        status = draw.choice((429, 503, 529, 500, 0, None))
        wait = draw.choice((0.0, 0.0, 2.5, 20.0))
        return ChatError(str(status), retryable=True, status=status, retry_after=wait)

    return fault


@quick
@given(seeds, st.integers(1, 24), st.floats(0, 0.6))
def test_never_more_calls_at_once_than_slots_and_none_is_lost(
    seed: int, slots: int, share: float
) -> None:
    limiter = Limiter(slots, start=2, tries=1000, patience=1000)
    world = World(limiter, seed, fault=odd(share)).run(150, 32)
    assert world.most <= slots
    assert (world.answered, limiter.in_flight) == (150, 0)


@quick
@given(seeds, st.floats(1, 5000), st.floats(0, 20), st.floats(0, 0.3))
def test_no_minute_has_more_requests_than_its_budget(
    seed: int, rpm: float, latency: float, share: float
) -> None:
    calls = int(min(600, 3 * rpm)) + 2
    limiter = Limiter(64, rpm=rpm, tries=1000, patience=1000)
    world = World(limiter, seed, latency, odd(share)).run(calls, 64)
    at_once = max(1, rpm / 60)
    assert world.most_a_minute(lambda one: 1) <= rpm + at_once + 1e-3


@quick
@given(seeds, st.sampled_from(["tpm", "input_tpm", "output_tpm"]), st.floats(300, 60_000))
def test_no_minute_has_more_tokens_than_its_budget(seed: int, name: str, budget: float) -> None:
    counted = {"tpm": (1, 1), "input_tpm": (1, 0), "output_tpm": (0, 1)}[name]

    def amount(one: Sent) -> int:
        return sum(count * tokens for count, tokens in zip(counted, one.tokens, strict=True))

    limiter = Limiter(32, **{name: budget})
    world = World(limiter, seed, 2.0, tokens=lambda draw: (draw.randint(1, 400), 50), said=50)
    world.run(200, 32)
    largest = max(map(amount, world.sent))
    assert world.most_a_minute(amount) <= budget + max(budget / 60, largest) + 1


@quick
@given(seeds, st.floats(2000, 25_000), st.sampled_from([None, 4000]))
def test_tokens_that_were_estimated_wrongly_are_made_up_for(
    seed: int, budget: float, said: int | None
) -> None:
    slots = 16
    limiter = Limiter(slots, output_tpm=budget)
    tokens = lambda draw: (10, draw.choice((5, 50, 500)))  # noqa: E731
    world = World(limiter, seed, 5.0, tokens=tokens, said=said).run(400, 32)
    out = sum(one.tokens[1] for one in world.sent)
    assert out <= budget * world.seconds / 60 + budget / 60 + slots * 500


@pytest.mark.parametrize("rpm", [30.0, 600.0, 3000.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_budget_is_used(rpm: float, seed: int) -> None:
    calls = int(rpm * 5)
    world = World(Limiter(128, start=4, rpm=rpm), seed, 1.5).run(calls, 128)
    assert calls / (world.seconds - 1.5) >= 0.9 * rpm / 60


@pytest.mark.parametrize("name", ["tpm", "input_tpm", "output_tpm"])
def test_a_budget_of_tokens_is_used(name: str) -> None:
    tokens = {"tpm": 150, "input_tpm": 100, "output_tpm": 50}[name]
    limiter = Limiter(128, start=4, **{name: 600.0 * tokens})
    world = World(limiter, 0, 1.5).run(3000, 128)
    assert 3000 / (world.seconds - 1.5) >= 0.9 * 600 / 60


@pytest.mark.parametrize("asked", [0.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_ten_minutes_loses_no_call_and_passes(asked: float, seed: int) -> None:
    slots, begins, ends = 16, 60.0, 660.0

    def storm(at: float, draw: random.Random) -> ChatError | None:
        if not begins <= at < ends:
            return None
        return ChatError("429", retryable=True, status=429, retry_after=asked)

    world = World(Limiter(slots), seed, fault=storm).run(3600, 64)
    assert world.lost == []
    assert world.answered == 3600

    def rate(start: float, end: float) -> float:
        return sum(start <= one.at < end for one in world.sent) / (end - start)

    assert rate(begins + 60, ends) < 0.2 * rate(0, begins)
    assert rate(ends + 120, ends + 150) >= 0.9 * rate(0, begins)


@quick
@given(seeds, st.floats(0.5, 5))
def test_one_cut_a_cooldown(seed: int, cooldown: float) -> None:
    """The window is seen to halve as often as cooldowns can have begun, and not more often."""
    limiter, cuts = Limiter(4096, tries=1, patience=0, cooldown=cooldown), []

    def fault(at: float, draw: random.Random) -> ChatError | None:
        if not cuts or limiter.window < cuts[-1][1]:
            cuts.append((at, limiter.window))
        return ChatError("503", retryable=True, status=503)

    World(limiter, seed, 1.0, fault).run(600, 40)
    times = [at for at, _ in cuts[1:]]
    assert len(times) >= 2
    assert [window for _, window in cuts] == [max(1, 4096 >> i) for i in range(len(cuts))]
    # What is sent at the end of a cooldown fails within half a second to one and a half.
    assert all(b - a >= cooldown for a, b in pairwise(times))


@quick
@given(seeds)
def test_the_same_seed_gives_the_same_calls(seed: int) -> None:
    def sent() -> list[float]:
        world = World(Limiter(8, start=2, rpm=300), seed, fault=odd(0.3)).run(60, 16)
        return [round(one.at, 6) for one in world.sent]

    assert sent() == sent()
