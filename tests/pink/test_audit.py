"""The audit: which rows a judge looks at, and what it says."""

import json
from typing import Any

import pytest
from engine_pink_elephant.judging import audit
from engine_pink_elephant.rows import Pair

from engine import BadReply, Context, Text
from engine.chat import Message

pytestmark = pytest.mark.anyio

TURNS = (
    Message(role="user", content=Text("Coffee?")),
    Message(role="assistant", content=Text("Yes.")),
)
OPINION = {"natural_shift": True, "useful_answer": False, "natural_return": True, "mentions": False}


async def test_a_sampled_row_gets_an_opinion(scripted: Any, pair: Pair) -> None:
    judge = scripted([json.dumps(OPINION)])
    made = await audit(pair, TURNS, TURNS, judge=judge, ctx=Context("a", "row"), fraction=1)
    assert made.fields == {
        "natural_shift": True,
        "useful_answer": False,
        "natural_return": True,
        "judged_mention": False,
    }
    assert "Keep to: tea. Leave out: coffee." in judge.requests[0].messages[-1].content


async def test_the_sample_is_drawn_by_seed_and_row(scripted: Any, pair: Pair) -> None:
    judge = scripted([json.dumps(OPINION)] * 400)

    async def sampled(row: int, seed: int = 1) -> bool:
        ctx = Context("a", f"{row}", seed=seed)
        made = await audit(pair, TURNS, TURNS, judge=judge, ctx=ctx, fraction=0.1)
        return made.natural_shift is not None

    first = [await sampled(row) for row in range(400)]
    assert 20 <= sum(first) <= 65
    assert first == [await sampled(row) for row in range(400)]
    assert len(judge.requests) == 2 * sum(first)


async def test_a_reply_that_cannot_be_read_is_refused(scripted: Any, pair: Pair) -> None:
    with pytest.raises(BadReply, match="judge_unreadable"):
        await audit(pair, TURNS, TURNS, judge=scripted(["Fine!"]), ctx=Context("a"), fraction=1)
