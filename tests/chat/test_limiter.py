"""The limiter, in virtual time: slots, backoff, Retry-After, and the stage's clock."""

import random
from collections.abc import Awaitable, Callable
from email.utils import formatdate

import anyio
import pytest
from trio.testing import MockClock

from engine.chat import Answer, ChatError, Usage
from engine.chat.connection import retry_after
from engine.chat.limiter import Limiter
from engine.services import Gate
from engine.stages import Context

pytestmark = pytest.mark.anyio
Send = Callable[[], Awaitable[Answer]]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def busy(seconds: float = 0.0, status: int = 429) -> ChatError:
    return ChatError(f"{status}", retryable=True, retry_after=seconds, status=status)


def failing(times: int, error: Exception) -> Send:
    left = [error] * times

    async def send() -> Answer:
        if left:
            raise left.pop()
        return Answer("ok")

    return send


async def crowd(limiter: Limiter, send: Send, calls: int) -> list[ChatError]:
    """Make calls at once; return the errors of those that failed."""
    errors: list[ChatError] = []

    async def call() -> None:
        try:
            await limiter.run(send, Context("s"))
        except ChatError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(calls):
            tasks.start_soon(call)
    return errors


class Server:
    """It takes a second for each request, and counts how many it has at once."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.error: ChatError | None = None
        self.started: list[float] = []

    async def send(self) -> Answer:
        self.started.append(anyio.current_time())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await anyio.sleep(1)
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return Answer("ok", usage=Usage(new=80, out=20))

    async def most_of(self, limiter: Limiter, calls: int) -> int:
        self.most = 0
        await crowd(limiter, self.send, calls)
        return self.most


async def test_retries_wait_at_least_as_long_as_the_server_asks() -> None:
    ctx = Context("s")
    started = anyio.current_time()
    answer = await Limiter().run(failing(2, busy(30)), ctx)
    assert answer.text == "ok"
    assert 60 <= anyio.current_time() - started < 70
    assert ctx.counters.retries == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "90"},
        {"retry-after-ms": "90000"},
        {"retry-after": formatdate(1e9 + 90, usegmt=True), "date": formatdate(1e9, usegmt=True)},
    ],
    ids=["seconds", "milliseconds", "a date"],
)
async def test_while_the_server_asks_to_wait_no_call_is_sent(headers: dict[str, str]) -> None:
    limiter, sent, began = Limiter(8), [], anyio.current_time()

    async def send() -> Answer:
        sent.append(anyio.current_time() - began)
        await anyio.sleep(1)
        if len(sent) == 1:
            raise busy(retry_after(headers))
        return Answer("ok")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(limiter.run, send, Context("s"))
        for seconds in (2, 20, 89.999):
            await anyio.sleep(seconds + began - anyio.current_time())
            tasks.start_soon(limiter.run, send, Context("another"))
    assert sent[0] == 0
    assert len(sent) == 5
    assert sent[1:] == [pytest.approx(91, abs=0.01)] * 4  # from the end of the reply


async def test_a_long_pause_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for seconds in (30, 3600):
        started = anyio.current_time()
        await Limiter().run(failing(1, busy(seconds)), Context("plans"))
        assert anyio.current_time() - started >= seconds
    said = "stage plans waits for 3600 s, as the server asks: 429"
    assert caplog.messages == [said]
    server = Server()
    server.error = busy(3600)
    await crowd(Limiter(8, patience=0), server.send, 8)
    assert caplog.messages == [said]  # nobody waits: the tries are spent
    await crowd(Limiter(8, patience=1), server.send, 8)
    assert len(caplog.messages) == 2


async def test_what_no_waiting_cures_is_not_tried_again() -> None:
    ctx = Context("s")
    with pytest.raises(ChatError, match="401"):
        await Limiter().run(failing(1, ChatError("401", status=401)), ctx)
    assert ctx.counters.retries == 0


async def test_the_tries_end() -> None:
    ctx = Context("s")
    with pytest.raises(ChatError, match="odd"):
        await Limiter(tries=3).run(failing(9, ChatError("odd", retryable=True)), ctx)
    assert ctx.counters.retries == 2


@pytest.mark.parametrize("status", [429, 503, 529])
async def test_a_busy_server_costs_patience_and_no_try(status: int) -> None:
    ctx = Context("s")
    limiter = Limiter(tries=1, patience=5)
    assert (await limiter.run(failing(5, busy(status=status)), ctx)).text == "ok"
    with pytest.raises(ChatError, match=str(status)):
        await limiter.run(failing(6, busy(status=status)), ctx)
    assert ctx.counters.retries == 10


async def test_waiting_stops_the_stages_clock() -> None:
    limiter = Limiter(1)

    async def ten_seconds() -> Answer:
        await anyio.sleep(10)
        return Answer("ok")

    async def stage() -> None:
        ctx = Context("s")
        with anyio.fail_after(15) as ctx.scope:
            await limiter.run(ten_seconds, ctx)

    async with anyio.create_task_group() as tasks:  # the last one waits for 30 seconds
        for _ in range(4):
            tasks.start_soon(stage)
    assert anyio.current_time() >= 40


async def test_a_call_that_backs_off_stops_the_stages_clock() -> None:
    ctx = Context("s")
    with anyio.fail_after(15) as ctx.scope:
        await Limiter().run(failing(2, busy(600)), ctx)
    assert anyio.current_time() >= 1200


async def test_overload_narrows_the_window_and_good_replies_widen_it() -> None:
    limiter, server = Limiter(8, tries=1, patience=0), Server()
    server.error = busy()
    assert await server.most_of(limiter, 8) == 8  # they fail together: one overload
    assert limiter.window == 4
    server.error = None
    assert await server.most_of(limiter, 4) == 4
    assert await server.most_of(limiter, 100) == 8
    await server.most_of(limiter, 1000)
    assert limiter.window == 8  # and never more


@pytest.mark.parametrize(
    ("error", "cuts"),
    [
        (ChatError("429", retryable=True, status=429), True),
        (ChatError("503", retryable=True, status=503), True),
        (ChatError("529", retryable=True, status=529), True),
        (ChatError("no reply within 120 s", retryable=True, status=0), True),
        (ChatError("500", retryable=True, status=500), False),
        (ChatError("not a chat completion", retryable=True), False),
        (ChatError("400", status=400), False),
    ],
    ids=str,
)
async def test_what_fewer_calls_would_not_cure_narrows_nothing(
    error: ChatError, cuts: bool
) -> None:
    limiter, server = Limiter(8, tries=1, patience=0), Server()
    server.error = error
    assert len(await crowd(limiter, server.send, 8)) == 8
    assert limiter.window == (4 if cuts else 8)


async def test_one_cut_a_cooldown() -> None:
    limiter, server = Limiter(64, tries=1, patience=0, cooldown=10), Server()
    server.error = busy()
    seen = [limiter.window]
    for _ in range(44):  # of a second each: what is sent at 0, 11, 22 and 33 cuts
        await server.most_of(limiter, 64 if len(seen) == 1 else 1)
        if limiter.window != seen[-1]:
            seen.append(limiter.window)
        if len(server.started) == 64:
            assert seen == [64, 32]  # 64 failures, one cut
    assert seen == [64, 32, 16, 8, 4]


async def test_the_window_is_at_least_one() -> None:
    limiter, server = Limiter(4, tries=1, patience=0), Server()
    server.error = busy()
    for _ in range(20):
        await server.most_of(limiter, 4)
    assert limiter.window == 1
    assert limiter.in_flight == 0


async def test_it_starts_slowly_and_doubles_until_the_first_cut() -> None:
    limiter, server = Limiter(64, start=2, tries=1, patience=0), Server()
    began = anyio.current_time()
    await crowd(limiter, server.send, 2 + 4 + 8 + 16 + 32 + 64)
    at = [round(start - began) for start in server.started]
    assert [at.count(second) for second in range(6)] == [2, 4, 8, 16, 32, 64]
    server.error = busy()
    await crowd(limiter, server.send, 1)
    server.error, server.started = None, []
    await anyio.sleep(limiter.cooldown)
    began = anyio.current_time()
    await crowd(limiter, server.send, 32 + 33 + 34)
    at = [round(start - began) for start in server.started]
    assert [at.count(second) for second in range(3)] == [32, 32, 33]  # a window of them, one more


async def test_a_window_that_is_not_used_does_not_grow() -> None:
    limiter, server = Limiter(64, start=4), Server()
    for _ in range(100):
        await crowd(limiter, server.send, 1)
    assert limiter.window == 4


async def test_calls_start_in_the_order_in_which_they_came() -> None:
    limiter, order = Limiter(1), []

    async def call(number: int) -> None:
        async def send() -> Answer:
            order.append(number)
            await anyio.sleep(1)
            return Answer("ok")

        await limiter.run(send, Context("s"))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(call, number)
            await anyio.sleep(0.01)
    assert order == list(range(20))


async def test_who_leaves_takes_nothing_along() -> None:
    limiter, server = Limiter(2), Server()
    for patience in (0.5, 1.5, 0.0):  # in flight, in the queue, before it came
        with anyio.move_on_after(patience):
            await crowd(limiter, server.send, 8)
    assert limiter.in_flight == 0
    assert await server.most_of(limiter, 8) == 2


async def test_behind_a_closed_gate_no_call_is_sent() -> None:
    limiter, server, ctx = Limiter(2), Server(), Context("s", gate=Gate())
    ctx.gate.close()
    with anyio.move_on_after(60):
        await limiter.run(server.send, ctx)
    assert server.started == []
    assert limiter.in_flight == 0
    assert ctx.counters.parked == 0


async def test_a_call_behind_a_closed_gate_keeps_no_slot_from_other_runs() -> None:
    limiter, server, ctx = Limiter(1), Server(), Context("s", gate=Gate())
    ctx.gate.close()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(limiter.run, server.send, ctx)
        await anyio.wait_all_tasks_blocked()
        assert (await limiter.run(server.send, Context("s"))).text == "ok"
        tasks.cancel_scope.cancel()
    assert len(server.started) == 1


async def test_the_same_seed_waits_as_long() -> None:
    async def times(seed: int) -> list[float]:
        limiter, server = Limiter(4, patience=8), Server()
        limiter.random = random.Random(seed)
        server.error = busy()
        began = anyio.current_time()
        await crowd(limiter, server.send, 16)
        return [round(start - began, 6) for start in server.started]

    assert await times(1) == await times(1) != await times(2)


async def test_requests_and_tokens_a_minute() -> None:
    async def send() -> Answer:
        return Answer("ok", usage=Usage(new=80, out=20))

    started = anyio.current_time()
    limiter = Limiter(rpm=60)
    for _ in range(3):
        await limiter.run(send, Context("s"))
    assert anyio.current_time() - started == pytest.approx(2)

    for budget, taken in (("tpm", 100), ("input_tpm", 80), ("output_tpm", 20)):
        started = anyio.current_time()
        limiter = Limiter(**{budget: 600.0})
        for _ in range(3):
            await limiter.run(send, Context("s"))
        at_once = 10  # a second's worth
        assert anyio.current_time() - started == pytest.approx((2 * taken - at_once) / 10)
