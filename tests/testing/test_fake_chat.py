"""`FakeChat`: replies from a list or function, or made up to fit the request."""

from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from engine import Artifact, Dialogue, Text
from engine.chat import Answer, ChatError, Message, Request
from engine.testing import FakeChat
from engine.testing.fakes import CannotMakeUp, made_up

ASK = [Message(role="user", content=Text("What is a kayak?"))]


@pytest.mark.anyio
async def test_a_list_is_handed_out_in_order() -> None:
    chat = FakeChat(["one", Answer("two", "length"), ChatError("three")])
    assert (await chat.complete(ASK))[0].text == "one"
    assert (await chat.complete(ASK))[0].finish == "length"
    with pytest.raises(ChatError, match="three"):
        await chat.complete(ASK)
    with pytest.raises(ChatError, match="used up"):
        await chat.complete(ASK)
    with pytest.raises(TypeError, match=r"write FakeChat\(\[text\]\)"):
        FakeChat("one")


@pytest.mark.anyio
async def test_a_function_sees_the_request() -> None:
    def shout(request: Request) -> str:
        return request.messages[-1].content.upper() + request.prefix

    chat = FakeChat(shout)
    (reply,) = await chat.complete(ASK, prefix="Well: ")
    assert reply.text == "Well: WHAT IS A KAYAK?Well: "
    assert (reply.usage.new, reply.usage.out) == (4, 4)
    assert chat.requests[0].messages[0].content == "What is a kayak?"


class Verdict(BaseModel):
    score: Annotated[int, Field(ge=3, le=5)]
    kind: Literal["good", "bad"]
    reasons: list[str]
    parts: tuple["Verdict", ...] = ()
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    note: Annotated[str, Field(min_length=12)] | None = None


@pytest.mark.anyio
async def test_a_made_up_reply_fits_the_request() -> None:
    chat = FakeChat()
    (reply,) = await chat.complete(ASK, schema=Verdict)
    verdict = reply.parse(Verdict)
    assert 3 <= verdict.score <= 5
    assert verdict.reasons
    (reply,) = await chat.complete(ASK, prefix="I think", top_logprobs=1)
    assert reply.text.startswith("I think")
    assert [token.token for token in reply.logprobs] == ["A", "made-up", "reply."]


@pytest.mark.anyio
async def test_it_has_the_features_that_it_was_given() -> None:
    with pytest.raises(ChatError, match="has no schema"):
        await FakeChat(can={"prefix"}).complete(ASK, schema=Verdict)


TYPES: list[Any] = [
    *(bool, int, float, bytes, str, Text, Verdict, Dialogue, Message),
    *(tuple[int, ...], tuple[str, int], list[Verdict], dict[str, float], set[int]),
    *(Literal["a", 3], int | None, Annotated[int, Field(gt=2, multiple_of=7)]),
    *(Annotated[str, Field(max_length=3)], Annotated[float, Field(le=-1)]),
    Annotated[int, Field(lt=-4)],
]


@given(hint=st.sampled_from(TYPES), number=st.integers(1, 50))
def test_a_made_up_value_is_one_of_its_type(hint: Any, number: int) -> None:
    value = made_up(hint, number)
    assert TypeAdapter(hint).validate_python(value) == value
    assert value == made_up(hint, number)


def test_values_of_other_numbers_differ() -> None:
    assert made_up(Text, 1) != made_up(Text, 2)
    assert isinstance(made_up(Text), Text)


@pytest.mark.parametrize("hint", [Artifact, Artifact | None, Annotated[Artifact, "of rows"]])
def test_an_artifact_is_a_small_file(hint: Any) -> None:
    assert made_up(hint, 2).content == '{"text": "made up 2"}\n'
    assert [blob.media_type for blob in made_up(tuple[hint, ...])] == ["application/jsonl"]


class Endless(BaseModel):
    inner: "Endless"


@pytest.mark.parametrize(
    ("hint", "why"),
    [
        (Annotated[str, Field(pattern="^a+$")], "must match '^a+$'"),
        (Endless, "contains itself"),
        (dict[str, Artifact], "it holds an Artifact"),
        (complex.__class__, "can be made up"),
    ],
)
def test_what_cannot_be_made_up_says_why(hint: Any, why: str) -> None:
    with pytest.raises(CannotMakeUp) as raised:
        made_up(hint)
    assert why in str(raised.value)
