"""The limiter, in virtual time: slots, backoff, Retry-After, budgets, and the stage's clock."""

from collections.abc import Awaitable, Callable

import anyio
import pytest
from trio.testing import MockClock

from engine.chat import Answer, ChatError, Usage
from engine.chat.limiter import Limiter
from engine.stages import Context

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def failing(times: int, error: Exception) -> Callable[[], Awaitable[Answer]]:
    left = [error] * times

    async def send() -> Answer:
        if left:
            raise left.pop()
        return Answer("ok")

    return send


async def test_retries_wait_at_least_as_long_as_the_server_asks() -> None:
    ctx = Context("s")
    busy = ChatError("429", retryable=True, retry_after=30)
    started = anyio.current_time()
    answer = await Limiter().run(failing(2, busy), ctx)
    assert answer.text == "ok"
    assert 60 <= anyio.current_time() - started < 70
    assert ctx.counters.retries == 2


async def test_a_long_pause_is_said(caplog: pytest.LogCaptureFixture) -> None:
    for seconds in (30, 3600):
        busy = ChatError("429: tokens of the day", retryable=True, retry_after=seconds)
        started = anyio.current_time()
        await Limiter().run(failing(1, busy), Context("plans"))
        assert anyio.current_time() - started >= seconds
    said = "stage plans waits for 3600 s, as the server asks: 429: tokens of the day"
    assert caplog.messages == [said]


async def test_what_no_waiting_cures_is_not_tried_again() -> None:
    ctx = Context("s")
    with pytest.raises(ChatError, match="401"):
        await Limiter().run(failing(1, ChatError("401")), ctx)
    assert ctx.counters.retries == 0


async def test_the_tries_end() -> None:
    ctx = Context("s")
    with pytest.raises(ChatError, match="busy"):
        await Limiter(tries=3).run(failing(9, ChatError("busy", retryable=True)), ctx)
    assert ctx.counters.retries == 2


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


async def test_overload_narrows_the_window_and_good_replies_widen_it() -> None:
    limiter, running, most = Limiter(8), 0, 0
    overloaded = True

    async def send() -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1
        if overloaded:
            raise ChatError("503", retryable=True)
        return Answer("ok")

    async def crowd(calls: int) -> int:
        nonlocal most
        most = 0
        async with anyio.create_task_group() as tasks:
            for _ in range(calls):
                tasks.start_soon(call)
        return most

    async def call() -> None:
        try:
            await Limiter.run(limiter, send, Context("s"))
        except ChatError:
            assert overloaded

    limiter.tries = 1
    assert await crowd(8) == 8  # they fail together, which halves the window once
    overloaded = False
    assert await crowd(4) == 4
    assert await crowd(100) == 8


async def test_requests_and_tokens_a_minute() -> None:
    async def send() -> Answer:
        return Answer("ok", usage=Usage(new=80, out=20))

    started = anyio.current_time()
    limiter = Limiter(rpm=60)
    for _ in range(3):
        await limiter.run(send, Context("s"))
    assert anyio.current_time() - started == pytest.approx(2)

    started = anyio.current_time()
    limiter = Limiter(tpm=600)
    for _ in range(3):
        await limiter.run(send, Context("s"))
    assert anyio.current_time() - started == pytest.approx(20)
