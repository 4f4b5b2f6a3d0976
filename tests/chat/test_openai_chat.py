"""`openai.chat` against a server on the loopback that misbehaves on demand."""

import email.utils
import gzip
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from pydantic import BaseModel

from engine.chat import Answer, ChatError, Message, Request, Sampling, Usage
from engine.chat.connection import retry_after
from engine.chat.openai_chat import OpenAIChat
from engine.errors import ResourceError
from engine.text import Text

pytestmark = pytest.mark.anyio
KEY = "sk-secret-4711"
NOWHERE = "http://localhost:1/v1"


def reply(status: int, body: str | bytes, *, cut: int = 0, **headers: str) -> bytes:
    """Return an HTTP response; `cut` bytes of its body never come."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(data)}", "connection: close"]
    lines += ["content-type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data[: len(data) - cut]


def completion(text: str | None, **message: Any) -> str:
    return json.dumps(
        {
            "choices": [{"message": {"content": text} | message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 60},
            },
        }
    )


class Server:
    """Its address, and the requests that it got: (headers, body)."""

    def __init__(self, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self.requests: list[tuple[Mapping[str, str], dict[str, Any]]] = []


@asynccontextmanager
async def serving(*responses: bytes) -> AsyncIterator[Server]:
    """Serve these responses in order; after the last one, requests hang."""
    left = list(responses)

    async def handle(stream: SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")[1:]
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
            while len(body) < int(headers["content-length"]):
                body += await stream.receive()
            server.requests.append((headers, json.loads(body)))
            if not left:
                await anyio.sleep_forever()
            await stream.send(left.pop(0))

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        server = Server(listener.extra(SocketAttribute.local_port))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, handle)
            yield server
            tasks.cancel_scope.cancel()


GOOD = reply(200, completion("hello"))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def ask(text: str = "hi") -> list[Message]:
    return [Message(role="user", content=Text(text))]


def request(**settings: object) -> Request:
    defaults = {"prefix": "", "sampling": Sampling(), "schema": None, "grammar": None}
    return Request(tuple(ask()), **defaults | {"top_logprobs": 0} | settings)  # type: ignore[arg-type]


async def refused(*responses: bytes, **settings: Any) -> ChatError:
    async with serving(*responses) as server:
        async with OpenAIChat(model="m", base_url=server.base_url, **settings) as chat:
            with pytest.raises(ChatError) as caught:
                await chat.send(request())
    return caught.value


async def sent(chat: OpenAIChat, **settings: object) -> dict[str, object]:
    """Return the JSON that a request becomes."""
    async with serving(GOOD) as server:
        chat._base_url = server.base_url
        async with chat:
            await chat.send(request(**settings))
    return server.requests[0][1]


async def test_a_reply_with_its_usage_and_price() -> None:
    async with serving(GOOD) as server:
        prices = (1.0, 0.5, 10.0)
        async with OpenAIChat(model="m", base_url=server.base_url, prices=prices) as chat:
            answer = await chat.send(request())
    cost = (40 * 1.0 + 60 * 0.5 + 10 * 10.0) / 1e6
    assert answer == Answer("hello", "stop", Usage(new=40, cached=60, out=10, cost=cost))
    headers, body = server.requests[0]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def test_what_may_pass_is_tried_again_until_it_is_good() -> None:
    responses = [
        reply(429, '{"error": {"message": "slow down"}}', retry_after_ms="1"),
        reply(500, "oops"),
        reply(200, completion("cut"), cut=20),
        reply(200, "<html>proxy</html>"),
        GOOD,
    ]
    async with serving(*responses) as server:
        async with OpenAIChat(model="m", base_url=server.base_url) as chat:
            chat.limiter.longest = 0  # no backoff
            (answer,) = await chat.complete(ask())
    assert answer.text == "hello"
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("response", "says", "retryable"),
    [
        (reply(429, '{"error": {"message": "slow"}}', retry_after="7"), "429: .*slow", True),
        (reply(503, "busy"), "503", True),
        (reply(408, "{}"), "408", True),
        (reply(400, '{"error": {"message": "no such\\nmodel"}}'), "400: .*no such", False),
        (reply(403, "no"), "403", False),
        (reply(200, completion("cut"), cut=1), "connection", True),
        (reply(200, "{"), "not a chat completion: '{'", True),
        (reply(200, '{"choices": []}'), "not a chat completion", True),
        (reply(200, "[1]"), "not a chat completion", True),
        (reply(200, b"\xff\xfe"), "not a chat completion", True),
        (b"garbage\r\n\r\n", "connection", True),
        (b"", "connection", True),
    ],
)
async def test_errors(response: bytes, says: str, retryable: bool) -> None:
    error = await refused(response)
    assert error.retryable is retryable, error
    with pytest.raises(ChatError, match=says):
        raise error
    if "retry-after" in response.decode("latin-1"):
        assert error.retry_after == 7


@pytest.mark.parametrize(
    ("response", "says"),
    [
        (reply(401, '{"error": {"message": "bad key"}}'), "401: .*bad key.*OPENAI_API_KEY"),
        (reply(404, '{"error": {"message": "no model m"}}'), "404: .*no model m.*base_url"),
        (reply(429, '{"error": {"code": "insufficient_quota"}}'), "429: .*credit"),
    ],
)
async def test_what_concerns_every_row_is_no_rows_error(response: bytes, says: str) -> None:
    async with serving(response) as server:
        async with OpenAIChat(model="m", base_url=server.base_url) as chat:
            with pytest.raises(ResourceError, match=says) as caught:
                await chat.complete(ask())
    assert "m at 127.0.0.1:" in str(caught.value)
    assert len(server.requests) == 1


async def test_a_server_that_hangs_is_left() -> None:
    error = await refused(timeout=0.05)
    assert error.retryable
    assert "no reply within 0.05 s" in str(error)


async def test_no_server_at_all() -> None:
    async with serving() as server:
        pass
    async with OpenAIChat(model="m", base_url=server.base_url) as chat:
        with pytest.raises(ChatError, match="connection") as caught:
            await chat.send(request())
    assert caught.value.retryable


@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize("key", [KEY, "0123456789abcdef"])
async def test_errors_never_repeat_the_key(
    status: int, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    # At any place: what is cut off must not leave half a key.
    for before in (0, 48, 470):
        body = json.dumps({"error": {"message": f"{'x' * before} {key}, or sk-other-1"}})
        async with serving(reply(status, body)) as server:
            async with OpenAIChat(model="m", base_url=server.base_url) as chat:
                with pytest.raises((ChatError, ResourceError)) as caught:
                    await chat.send(request())
        assert key[:8] not in str(caught.value)
        assert "sk-" not in str(caught.value)
        assert caught.value.__cause__ is None or key[:8] not in repr(caught.value.__cause__)


def test_retry_after_in_all_its_forms() -> None:
    def date(seconds: float) -> str:
        return email.utils.formatdate(1e9 + seconds, usegmt=True)

    assert retry_after({}) == 0
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": date(30), "date": date(0)}) == 30
    assert retry_after({"retry-after": date(0), "date": date(30)}) == 0
    assert retry_after({"retry-after": date(0)}) == 0
    assert retry_after({"retry-after": "soon"}) == 0
    assert retry_after({"retry-after": "-3"}) == 0
    assert retry_after({"retry-after": "inf"}) == 0


class Pair(BaseModel):
    a: str
    b: str


EVERYTHING = Sampling(
    temperature=0.5,
    top_p=0.9,
    top_k=5,
    min_p=0.1,
    max_tokens=7,
    stop=("x",),
    repeat_penalty=1.1,
    seed=3,
    banned=("cello",),
)
PLAIN = {"temperature": 0.5, "top_p": 0.9, "stop": ["x"], "seed": 3}


async def test_what_openai_is_sent() -> None:
    sampling = EVERYTHING.model_copy(update=dict.fromkeys(("top_k", "min_p", "repeat_penalty")))
    body = await sent(
        OpenAIChat(model="m"),
        sampling=sampling,
        schema=Pair.model_json_schema() | {"additionalProperties": False},
        top_logprobs=2,
    )
    schema = body.pop("response_format")
    assert schema["json_schema"]["name"] == "Pair"
    assert schema["json_schema"]["strict"] is True
    assert body.pop("messages") == [{"role": "user", "content": "hi"}]
    said = {"model": "m", "max_completion_tokens": 7, "logprobs": True, "top_logprobs": 2}
    assert body == PLAIN | said  # it cannot ban strings, so nothing is said of them


async def test_what_vllm_is_sent() -> None:
    body = await sent(
        OpenAIChat(model="m", server="vllm"),
        prefix="So",
        sampling=EVERYTHING,
        grammar="root ::= [a]",
    )
    assert body.pop("messages")[-1] == {"role": "assistant", "content": "So"}
    settings = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "max_tokens": 7}
    prefix = {"continue_final_message": True, "add_generation_prompt": False}
    grammar = {"structured_outputs": {"grammar": "root ::= [a]"}, "guided_grammar": "root ::= [a]"}
    banned = {"bad_words": ["Cello", "cello"]}
    assert body == {"model": "m"} | PLAIN | settings | prefix | grammar | banned


async def test_what_llama_cpp_is_sent() -> None:
    def tokens(*pieces: str) -> bytes:
        return reply(200, json.dumps({"tokens": [{"id": len(p), "piece": p} for p in pieces]}))

    responses = [tokens(*pieces) for pieces in (("c", "ello"), (" cello",)) * 2]
    async with serving(*responses, GOOD, GOOD) as server:
        chat = OpenAIChat(model="m", server="llama.cpp", base_url=server.base_url)
        async with chat:
            for _ in range(2):
                asked = request(prefix="So", sampling=EVERYTHING, grammar="root ::= [a]")
                assert (await chat.send(asked)).text == "hello"
    *_, body = [body for _, body in server.requests]
    assert len(server.requests) == 4 + 2  # what stands for a term is asked once
    assert body.pop("messages")[-1] == {"role": "assistant", "content": "So"}
    settings = {"top_k": 5, "min_p": 0.1, "repeat_penalty": 1.1, "max_tokens": 7}
    banned = {"logit_bias": [[4, False], [6, False]]}
    assert body == {"model": "m", "grammar": "root ::= [a]"} | PLAIN | settings | banned


async def test_llama_cpp_cannot_hold_a_schema_to_what_follows_a_prefix() -> None:
    async with OpenAIChat(model="m", server="llama.cpp", base_url=NOWHERE) as chat:
        with pytest.raises(ChatError, match="a schema or a prefix"):
            await chat.send(request(prefix="So", schema=Pair.model_json_schema()))


async def test_a_setting_that_a_server_lacks_is_no_silence() -> None:
    async with OpenAIChat(model="m", server="openai", base_url=NOWHERE) as chat:
        with pytest.raises(ChatError, match="openai has no min_p"):
            await chat.send(request(sampling=Sampling(min_p=0.1)))
    with pytest.raises(ValueError, match="ollama has no top_k: leave it out of `sampling`"):
        OpenAIChat(model="m", server="ollama", sampling=Sampling(top_k=3))
    with pytest.raises(ValueError, match="how a server of the kind other is asked for grammar"):
        OpenAIChat(model="m", base_url=NOWHERE, features=("grammar",))


@pytest.mark.parametrize(
    ("server", "features"),
    [
        ("llama.cpp", {"banned", "grammar", "logprobs", "prefix", "schema", "seed"}),
        ("vllm", {"banned", "grammar", "logprobs", "prefix", "schema", "seed"}),
        ("ollama", {"logprobs", "schema", "seed"}),
        ("openai", {"logprobs", "schema", "seed"}),
        (None, {"logprobs", "schema", "seed"}),
    ],
)
async def test_a_kind_of_server_says_what_it_can(server: Any, features: set[str]) -> None:
    assert OpenAIChat(model="m", server=server).can == features
    assert OpenAIChat(model="m", server=server, features=("prefix",)).can == {"prefix"}


async def test_left_out_it_is_openai_or_any_other() -> None:
    short = Sampling(max_tokens=3)
    assert "max_completion_tokens" in await sent(OpenAIChat(model="m"), sampling=short)
    chat = OpenAIChat(model="m", base_url=NOWHERE, sampling=Sampling(top_k=3))
    body = await sent(chat, sampling=Sampling(max_tokens=3, top_k=3))
    assert (body["max_tokens"], body["top_k"]) == (3, 3)


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "string"}, True),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        ({"type": "array", "items": {"type": "string", "maxLength": 3}}, False),
        ({"type": "object", "additionalProperties": {"type": "string"}}, False),
        ({"$defs": {"maxLength": {"type": "string"}}, "$ref": "#/$defs/maxLength"}, False),
        ({"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 3}]}, False),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {}}}, True),
    ],
)
async def test_strict_is_said_where_openai_takes_it(schema: Any, strict: bool) -> None:
    body = await sent(OpenAIChat(model="m"), schema=schema)
    assert body["response_format"]["json_schema"]["strict"] is strict


@pytest.mark.parametrize("kind", ["llama.cpp", "other"])
async def test_a_prefix_is_not_repeated_whether_the_server_does_or_not(kind: Any) -> None:
    responses = [reply(200, completion(text)) for text in ("So be it.", " be it.")]
    async with serving(*responses) as server:
        chat = OpenAIChat(model="m", base_url=server.base_url, server=kind, features=("prefix",))
        async with chat:
            for _ in responses:
                (whole,) = await chat.complete(ask(), prefix="So")
                assert whole.text == "So be it."


async def test_vllm_repeats_no_prefix_so_its_reply_may_begin_like_it() -> None:
    async with serving(reply(200, completion("ha, so!"))) as server:
        async with OpenAIChat(model="m", base_url=server.base_url, server="vllm") as chat:
            (whole,) = await chat.complete(ask(), prefix="ha")
    assert whole.text == "haha, so!"


async def test_a_server_without_seeds_gets_none_and_optional_fields_are_not_strict() -> None:
    class Maybe(BaseModel):
        a: str = ""

    body = await sent(
        OpenAIChat(model="m", features=("schema",)),
        sampling=Sampling(seed=3, banned=("x",)),
        schema=Maybe.model_json_schema(),
    )
    assert "seed" not in body
    assert body["response_format"]["json_schema"]["strict"] is False


async def test_replies_of_every_kind() -> None:
    logprobs = {
        "content": [
            {"token": "a", "logprob": -1, "top_logprobs": [{"token": "b", "logprob": -2}]},
        ]
    }
    whole = json.loads(completion("a"))
    whole["choices"][0] |= {"logprobs": logprobs, "finish_reason": "length"}
    responses = [
        reply(200, json.dumps(whole)),
        reply(200, completion(None, refusal="I cannot")),
        reply(200, completion(None)),
        reply(200, completion("\ud800")),
        reply(200, '{"choices": [{"message": {"content": "no usage"}}]}'),
        reply(
            200, '{"choices": [{"message": {"tool_calls": [{}]}, "finish_reason": "tool_calls"}]}'
        ),
        reply(200, completion("a page"), content_type="text/html"),
    ]
    async with serving(*responses) as server:
        async with OpenAIChat(model="m", base_url=server.base_url) as chat:
            answers = [await chat.send(request()) for _ in responses]
    assert [a.text for a in answers] == [*("a", "I cannot", "", "\ud800", "no usage", "", "a page")]
    assert [a.finish for a in answers] == [
        *("length", "refusal", "stop", "stop", "stop", "tool_calls", "stop")
    ]
    assert answers[0].logprobs[0].top == {"b": -2.0}
    assert answers[4].usage == Usage()


async def test_lone_surrogates_are_replaced_and_counted() -> None:
    async with serving(GOOD) as server:
        async with OpenAIChat(model="m", base_url=server.base_url) as chat:
            await chat.complete(ask("a\ud800\udc00\ud800b"))
    assert (
        server.requests[0][1]["messages"][0]["content"]
        == "a" + "\N{REPLACEMENT CHARACTER}" * 3 + "b"
    )
    assert chat.surrogates == 3


def test_a_key_is_needed_but_on_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    for url in (None, "https://example.com/v1", "http://10.0.0.1/v1"):
        with pytest.raises(ResourceError, match="set OPENAI_API_KEY"):
            OpenAIChat(model="m", base_url=url)
    for url in ("http://localhost:1/v1", "http://[::1]:1/v1", "http://127.0.0.2/v1"):
        OpenAIChat(model="m", base_url=url)


async def test_a_key_that_has_gone_is_missed_on_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = OpenAIChat(model="m")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ResourceError, match="set OPENAI_API_KEY"):
        async with chat:
            raise AssertionError("opened without a key")


@pytest.mark.parametrize(
    "url",
    ["localhost:8000/v1", "", "ftp://x/v1", "https://me:secret@x/v1", "https://x/?key=secret"],
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url: ") as caught:
        OpenAIChat(model="m", base_url=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [200, 500])
async def test_an_endless_reply_is_left(status: int) -> None:
    long = reply(status, completion("x" * (2 << 20)))
    error = await refused(long, max_reply=1 << 20)
    assert str(error) == "the reply is longer than 1.0MiB: see `max_reply`"
    assert not error.retryable  # it would be as long again
    assert (error.usage is not None) is (status == 200)  # paid, however much it was


async def test_a_reply_is_measured_once_it_is_unpacked() -> None:
    packed = gzip.compress(completion("x" * (2 << 20)).encode())
    assert len(packed) < 1 << 14
    error = await refused(reply(200, packed, content_encoding="gzip"), max_reply=1 << 20)
    assert "longer than 1.0MiB" in str(error)


async def test_a_schema_and_a_grammar_are_one_too_many() -> None:
    async with OpenAIChat(model="m", server="vllm", base_url=NOWHERE) as chat:
        with pytest.raises(ValueError, match="a schema or a grammar"):
            await chat.complete(ask(), schema=Pair, grammar="root ::= [a]")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
async def test_a_server_on_this_machine_is_asked_without_a_proxy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, NOWHERE)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with serving(GOOD) as server:
        async with OpenAIChat(model="m", base_url=server.base_url) as chat:
            assert (await chat.send(request())).text == "hello"


async def test_openais_address_is_not_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", NOWHERE)
    async with OpenAIChat(model="m") as chat:
        assert chat._connection is not None
        assert chat._connection._base_url == "https://api.openai.com/v1"


async def test_closed_it_cannot_be_asked() -> None:
    async with OpenAIChat(model="m", base_url=NOWHERE) as chat:
        pass
    with pytest.raises(ChatError, match="not open"):
        await chat.send(request())


def test_identity_is_what_changes_a_reply() -> None:
    plain = OpenAIChat(model="m").identity
    assert plain == OpenAIChat(model="m", base_url="http://x/", slots=2, prices=(1, 1, 1)).identity
    assert plain != OpenAIChat(model="n").identity
    assert plain != OpenAIChat(model="m", sampling=Sampling(temperature=0)).identity
