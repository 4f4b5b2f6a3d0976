"""Both transports of `openai.chat` against servers that leave, redirect, ask to wait, or bill."""

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from engine.chat import ChatError, Message, Usage
from engine.chat.openai_chat import OpenAIChat
from engine.errors import ResourceError
from engine.stages import Context
from engine.text import Text

pytestmark = pytest.mark.anyio
ASK = [Message(role="user", content=Text("hi"))]


@pytest.fixture(params=[("asyncio", True), ("asyncio", False), ("trio", True)], ids=str)
def transport(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def anyio_backend(transport: tuple[str, bool], monkeypatch: pytest.MonkeyPatch) -> str:
    backend, aiohttp = transport
    if not aiohttp:  # as where the extra is not installed
        monkeypatch.setitem(sys.modules, "aiohttp", None)
    return backend


def reply(status: int, body: Any, **headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def completion(content: Any = "hello", finish: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"message": {"content": content}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}} | more


class Server:
    """What it does with the n-th request on any connection: bytes to send, or None to hang up."""

    def __init__(self, port: int, answer: Callable[[int], bytes | None]) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.answer, self.asked, self.connections, self.left = answer, 0, 0, 0

    async def handle(self, stream: SocketStream) -> None:
        self.connections += 1
        async with stream:
            data = b""
            while True:
                head, found, body = data.partition(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                if not found or len(body) < int(length):
                    try:
                        data += await stream.receive()
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        self.left += 1
                        return
                    continue
                data = body[int(length) :]
                self.asked += 1
                said = self.answer(self.asked)
                if said is None:
                    return
                await stream.send(said)


@asynccontextmanager
async def serving(answer: Callable[[int], bytes | None]) -> AsyncIterator[Server]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        server = Server(listener.extra(SocketAttribute.local_port), answer)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, server.handle)
            yield server
            tasks.cancel_scope.cancel()


def chat_at(server: Server, **settings: Any) -> OpenAIChat:
    chat = OpenAIChat(model="m", base_url=server.url, **settings)
    chat.limiter.longest = 0
    return chat


async def paid(chat: OpenAIChat) -> tuple[str, Context]:
    ctx = Context("s")
    (answer,) = await chat.bind(ctx).complete(ASK)
    return str(answer.text), ctx


async def test_a_connection_is_kept_and_closed_at_the_end() -> None:
    async with serving(lambda n: reply(200, completion())) as server:
        async with chat_at(server) as chat:
            for _ in range(5):
                assert (await paid(chat))[0] == "hello"
            assert (server.connections, server.left) == (1, 0)
        with anyio.fail_after(5):
            while server.left < 1:
                await anyio.lowlevel.checkpoint()


async def test_who_hangs_up_between_requests_is_asked_again_and_paid_once() -> None:
    """On a kept connection, whose end the client may learn of only as it sends."""
    async with serving(lambda n: None if n == 2 else reply(200, completion())) as server:
        async with chat_at(server) as chat:
            await paid(chat)
            text, ctx = await paid(chat)
    assert text == "hello"
    assert (server.asked, ctx.counters.retries, ctx.counters.calls) == (3, 1, 1)


async def test_who_is_cancelled_leaves_no_connection_behind() -> None:
    async with serving(lambda n: b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\n{") as server:
        async with chat_at(server) as chat:
            with anyio.move_on_after(0.05) as scope:
                await paid(chat)
            assert scope.cancelled_caught
            with anyio.fail_after(5):
                while server.left < 1:
                    await anyio.lowlevel.checkpoint()
            assert chat.limiter.in_flight == 0


async def test_a_redirect_is_not_followed() -> None:
    async with serving(lambda n: reply(307, b"", location="http://127.0.0.1:1/v1")) as server:
        async with chat_at(server) as chat:
            with pytest.raises(ResourceError, match="307.*it redirects: is base_url right"):
                await paid(chat)
    assert server.asked == 1


PAGE = b"<html><h1>oops</h1></html>"


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
async def test_what_passes_is_tried_again_page_or_not(status: int) -> None:
    answers = [reply(status, PAGE), reply(status, {"error": {"message": "later"}})]
    async with serving(lambda n: [*answers, reply(200, completion())][n - 1]) as server:
        async with chat_at(server) as chat:
            text, ctx = await paid(chat)
    assert (text, server.asked, ctx.counters.calls) == ("hello", 3, 1)


@pytest.mark.parametrize("status", [400, 403, 413, 422])
async def test_what_does_not_pass_is_not(status: int) -> None:
    for body in (PAGE, {"error": {"message": "your prompt", "code": "content_policy_violation"}}):
        said = reply(status, body)
        async with serving(lambda n, said=said: said) as server:  # type: ignore[misc]
            async with chat_at(server) as chat:
                with pytest.raises(ChatError, match=str(status)) as caught:
                    await paid(chat)
        assert (caught.value.retryable, caught.value.status) == (False, status)
        assert server.asked == 1


@pytest.mark.parametrize("finish", ["length", "content_filter", "tool_calls"])
async def test_a_finish_is_passed_on(finish: str) -> None:
    async with serving(lambda n: reply(200, completion("so", finish))) as server:
        async with chat_at(server) as chat:
            (answer,) = await chat.complete(ASK)
    assert (answer.text, answer.finish) == ("so", finish)


async def test_what_was_billed_and_came_broken_is_counted() -> None:
    def answer(number: int) -> bytes:
        return reply(200, completion(choices=[]) if number == 1 else completion())

    async with serving(answer) as server:
        async with chat_at(server, prices=(1.0, 1.0, 10.0)) as chat:
            _, ctx = await paid(chat)
    spent = ctx.counters.spent
    assert (spent.calls, spent.new, spent.out, spent.unmetered) == (2, 200, 20, 0)
    assert ctx.cost == spent.cost == pytest.approx(2 * (100 + 10 * 10) / 1e6)


@pytest.mark.parametrize("usage", [None, {}, [], "many", {"prompt_tokens": "x"}])
async def test_a_reply_whose_usage_says_nothing_is_kept_and_counted_as_such(usage: Any) -> None:
    async with serving(lambda n: reply(200, completion(usage=usage))) as server:
        async with chat_at(server) as chat:
            (answer,) = await chat.complete(ASK)
            text, ctx = await paid(chat)
    assert (text, answer.usage, server.asked) == ("hello", Usage(), 2)
    assert (ctx.counters.spent.calls, ctx.counters.spent.unmetered) == (1, 1)


async def test_many_at_once_take_no_more_connections_than_slots() -> None:
    async with serving(lambda n: reply(200, completion())) as server:
        async with chat_at(server, slots=8) as chat:
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(paid, chat)
    assert server.asked == 100
    assert server.connections <= 8
