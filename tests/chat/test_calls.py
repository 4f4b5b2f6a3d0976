"""Calls as a stage makes them: paid once, replayed, refused, and traced to their prompts."""

from dataclasses import replace
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from engine.chat import Answer, BadReply, Chat, ChatError, Endpoint, Message, Request, Sampling
from engine.rows import Row
from engine.services import MemoryCalls
from engine.stages import Context
from engine.testing import FakeChat
from engine.text import Text

pytestmark = pytest.mark.anyio


def ask(text: str) -> list[Message]:
    return [Message(role="user", content=Text(text))]


def by_seed(request: Request) -> str:
    return f"{request.messages[-1].content} {request.sampling.seed}"


class Stage:
    """The attempts of one row: a context each, the records shared."""

    def __init__(self, chat: Endpoint, **settings: object) -> None:
        self.chat, self.calls = chat, MemoryCalls()
        self.settings = {"stage_key": "s", "row_id": "r", "fingerprint": b"f"} | settings

    def attempt(self, **settings: object) -> Chat:
        self.context = Context(**self.settings | {"calls": self.calls} | settings)  # type: ignore[arg-type]
        return self.chat.bind(self.context)


async def test_a_second_attempt_pays_for_nothing_that_the_first_one_paid() -> None:
    stage = Stage(FakeChat(by_seed))
    first = await stage.attempt().complete(ask("a"), n=3)
    again = await stage.attempt().complete(ask("a"), n=3)
    assert [reply.text for reply in first] == [reply.text for reply in again]
    assert len({reply.text for reply in first}) == 3
    assert len(stage.chat.requests) == 3
    assert stage.context.counters.replayed == 3
    assert stage.context.counters.calls == 0


async def test_garbage_garbage_good_is_three_paid_calls() -> None:
    stage = Stage(FakeChat(["garbage", "garbage", '{"word": "good"}', "never asked"]))

    class Word(BaseModel):
        word: Text

    for _ in range(2):
        (reply,) = await stage.attempt().complete(ask("a"))
        with pytest.raises(BadReply, match="bad_json"):
            reply.parse(Word)
    (reply,) = await stage.attempt().complete(ask("a"))
    assert reply.parse(Word).word == "good"
    assert len(stage.chat.requests) == 3
    assert len({request.sampling.seed for request in stage.chat.requests}) == 3

    (reply,) = await stage.attempt().complete(ask("a"))  # the good one stays
    assert reply.text == '{"word": "good"}'
    assert len(stage.chat.requests) == 3


async def test_of_n_samples_only_the_refused_one_is_drawn_again() -> None:
    stage = Stage(FakeChat(by_seed))
    replies = await stage.attempt().complete(ask("a"), n=3)
    with pytest.raises(BadReply, match="dull"):
        replies[1].refuse("dull")
    again = await stage.attempt().complete(ask("a"), n=3)
    assert [r.text for r in again[:2]] == [replies[0].text, replies[2].text]
    assert len(stage.chat.requests) == 4


async def test_a_new_gate_starts_again_from_the_stored_samples() -> None:
    stage = Stage(FakeChat(by_seed))
    (first,) = await stage.attempt().complete(ask("a"))
    with pytest.raises(BadReply):
        first.refuse("too long")
    (reply,) = await stage.attempt(fingerprint=b"new code").complete(ask("a"))
    assert reply.text == first.text
    assert len(stage.chat.requests) == 1


async def test_equal_requests_are_told_apart_by_count_or_by_key() -> None:
    stage = Stage(FakeChat(by_seed))
    chat = stage.attempt()
    one, two = [(await chat.complete(ask("a")))[0].text for _ in range(2)]
    left, right = [(await chat.complete(ask("a"), key=key))[0].text for key in ("left", "right")]
    assert len({one, two, left, right}) == 4
    chat = stage.attempt()
    assert (await chat.complete(ask("a"), key="right"))[0].text == right  # in any order
    assert (await chat.complete(ask("a")))[0].text == one
    assert len(stage.chat.requests) == 4


async def test_views_of_rows_book_on_their_row_and_count_on() -> None:
    stage = Stage(FakeChat(by_seed))
    chat = stage.attempt()
    rows = [Row.of({}, row_id) for row_id in (b"1", b"2")]
    texts = [(await chat.for_row(row).complete(ask("a")))[0].text for row in rows + rows]
    assert len(set(texts)) == 4, "the second view of a row makes the row's second call"
    (alone,) = await stage.attempt(row_id=b"2".hex()).complete(ask("a"))
    assert alone.text == texts[1], "the call is the row's, not the batch's"


async def test_two_names_of_one_chat_make_two_calls_of_one_request() -> None:
    stage = Stage(FakeChat(by_seed))
    said = []
    for _ in range(2):
        first = stage.attempt()
        second = stage.chat.bind(stage.context)
        said.append([(await chat.complete(ask("a")))[0].text for chat in (first, second)])
    assert said[0] == said[1]
    assert len(set(said[0])) == len(stage.chat.requests) == 2


async def test_seeds_depend_on_the_call_and_the_pipelines_seed() -> None:
    def seeds(chat: FakeChat) -> list[int | None]:
        return [request.sampling.seed for request in chat.requests]

    runs = []
    for seed, row_id in [(0, "r"), (0, "r"), (1, "r"), (0, "q")]:
        stage = Stage(FakeChat(by_seed), seed=seed, row_id=row_id)
        await stage.attempt().complete(ask("a"), n=2)
        runs.append(tuple(sorted(map(int, map(str, seeds(stage.chat))))))
    assert runs[0] == runs[1]
    assert len(set(runs)) == 3

    stage = Stage(FakeChat(by_seed))
    await stage.attempt().complete(ask("a"), n=3, sampling=Sampling(seed=7))
    assert sorted(map(int, map(str, seeds(stage.chat)))) == [7, 8, 9]


async def test_defaults_are_merged_before_the_call_is_named() -> None:
    chat = FakeChat(by_seed)
    chat.sampling = Sampling(temperature=0.5, max_tokens=9)
    stage = Stage(chat)
    (said,) = await stage.attempt().complete(ask("a"), sampling=Sampling(temperature=0.5))
    (silent,) = await stage.attempt().complete(ask("a"))
    assert said.text == silent.text
    assert len(chat.requests) == 1
    assert chat.requests[0].sampling.max_tokens == 9


async def test_a_failing_sample_does_not_lose_the_paid_ones() -> None:
    slow = anyio.Event()
    answered = 0

    class Mixed(FakeChat):
        async def send(self, request: Request) -> Answer:
            nonlocal answered
            self.requests.append(request)
            if len(self.requests) == 2:
                slow.set()
                raise ChatError("no such model")
            await slow.wait()
            answered += 1
            return Answer("ok")

    stage = Stage(Mixed([]))
    with pytest.raises(ChatError, match="no such model"):  # not a group of them
        await stage.attempt().complete(ask("a"), n=3)
    assert answered == 2
    await stage.attempt().complete(ask("a"), n=3)
    assert len(stage.chat.requests) == 4


async def test_a_timeout_does_not_lose_a_reply_that_was_paid() -> None:
    class Slow(MemoryCalls):
        async def record(self, key: bytes, sample: int, reply: bytes) -> None:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            await super().record(key, sample, reply)

    stage = Stage(FakeChat(by_seed))
    stage.calls = Slow()
    with anyio.CancelScope() as scope:
        await stage.attempt().complete(ask("a"))
    (reply,) = await stage.attempt().complete(ask("a"))
    assert len(stage.chat.requests) == 1
    assert reply.text.startswith("a ")


async def test_a_reply_knows_its_prompt_and_its_prefix() -> None:
    term, start = Text.leaf("cello", "source:terms"), Text.leaf("I would say", "source:starts")
    prompt = "Do not say " + term + "."
    stage = Stage(FakeChat([" viola."]))
    (reply,) = await stage.attempt().complete([Message(role="user", content=prompt)], prefix=start)
    assert reply.text == "I would say viola."
    first, second = reply.text.spans()
    assert (first.stop, first.leaf.did) == (11, start.did)
    origin = second.leaf.origin
    assert origin is not None
    assert origin.op == "call"
    assert [text.did for text in origin.inputs] == [prompt.did, start.did]
    assert term.did in {node.did for node in reply.text.graph().nodes}


async def test_lone_surrogates_come_in_and_go_out() -> None:
    stage = Stage(FakeChat(["caf\udce9"]))
    for _ in range(2):  # paid, then replayed from bytes
        (reply,) = await stage.attempt().complete([Message(role="user", content="a\ud800b")])
        assert reply.text == "caf\udce9"
    (sent,) = stage.chat.requests
    assert sent.messages[0].content == "a\N{REPLACEMENT CHARACTER}b"
    assert stage.chat.surrogates == 1


@pytest.mark.parametrize(
    ("feature", "wish"),
    [
        ("prefix", {"prefix": "x"}),
        ("grammar", {"grammar": "root ::= [a]"}),
        ("logprobs", {"top_logprobs": 1}),
    ],
)
async def test_what_the_endpoint_cannot_do_costs_nothing(feature: str, wish: Any) -> None:
    chat = FakeChat(by_seed, can={"seed"})
    with pytest.raises(ChatError, match=f"has no {feature}"):
        await chat.complete(ask("a"), **wish)
    assert chat.requests == []


async def test_a_schema_leaves_no_room_for_other_properties() -> None:
    class Inner(BaseModel):
        properties: str
        type: int = 0

    class Outer(BaseModel):
        inner: list[Inner]

    chat = FakeChat(["{}"])
    await chat.complete(ask("a"), schema=Outer)
    schema = chat.requests[0].schema
    assert schema is not None
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Inner"]["additionalProperties"] is False
    assert set(schema["$defs"]["Inner"]["properties"]) == {"properties", "type"}


async def test_a_strangers_exception_becomes_a_chat_error() -> None:
    chat = FakeChat([ZeroDivisionError("oops")])
    with pytest.raises(ChatError, match="ZeroDivisionError: oops"):
        await chat.complete(ask("a"))


async def test_an_answer_survives_its_bytes() -> None:
    answer = Answer("\ud800 \N{SNOWMAN}", "length")
    assert Answer.loads(answer.dumps()) == answer
    assert Answer.loads(replace(answer, text="").dumps()).text == ""


def test_an_answer_keeps_lone_surrogates_apart() -> None:
    answer = Answer("\ud83d\ude00 \udc00")
    assert Answer.loads(answer.dumps()) == answer
