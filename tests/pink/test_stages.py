"""The stages: what they add, what they refuse, where their text comes from."""

import contextlib
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import engine_pink_elephant
import pytest
from engine_pink_elephant import axes
from engine_pink_elephant.plans import plans
from engine_pink_elephant.revising import critique, revision
from engine_pink_elephant.rows import Pair, Plan
from engine_pink_elephant.writing import dialogue
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import BadReply, ChatError, Context, Text
from engine.chat import Message
from engine.stages import stage_spec

pytestmark = pytest.mark.anyio
Attempted = Callable[..., Awaitable[Any]]

SAID = (
    "I am thinking about tea. Which one is best?",
    "Green tea is mild and cheap.",
    "What about coffee? Is it stronger?",
    "Yes, coffee is stronger. A latte is mild.",
)
TURNS = [
    " Which one is best?",
    " Green tea is mild and cheap.",
    "? Is it stronger?",
    " " + SAID[-1],
]


def said(*turns: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(
        Message(role=roles[at % 2], content=Text.leaf(turn, f"turn{at}"))
        for at, turn in enumerate(turns)
    )


def sources(text: Text) -> list[str]:
    """The leaf operations that made a text's characters, in order."""
    return [span.leaf.origin.op for span in text.spans() if span.leaf.origin]


async def collected(rows: Any) -> list[Any]:
    return [row async for row in rows]


def test_the_hook_names_all_stages() -> None:
    names = [stage_spec(stage).name for stage in engine_pink_elephant.engine_stages()]
    steps = "topics pairs aliases unique_pairs split plans dialogue critique revision"
    steps += " critique_revision contrast audit principle dedup preference sft kto card browse"
    assert names == [f"pink.{step}" for step in steps.split()]


class TestPlans:
    async def test_each_is_planned_at_another_point(self, scripted: Any, pair: Pair) -> None:
        chat = scripted([" Then the user asks about coffee."] * 3)
        ctx = Context("plans", "row")
        rows = await collected(plans(Text("drinks"), pair, llm=chat, ctx=ctx, per_pair=3))
        assert all(isinstance(row, Plan) for row in rows)
        assert len({request.messages[-1].content for request in chat.requests}) == 3
        assert str(rows[0].plan).startswith(chat.requests[0].prefix)
        assert "source:fixture" not in sources(rows[0].plan)
        assert {"template", "call"} <= set(sources(rows[0].plan))
        assert "tea" in rows[0].opening
        assert "coffee" in rows[0].shift

    async def test_a_bad_plan_is_tried_again_then_left_out(
        self, scripted: Any, attempted: Attempted, pair: Pair
    ) -> None:
        chat = scripted([" No.", " Coffee at last.", " No.", " Never.", " No more."])
        rows = await attempted(
            chat,
            lambda llm, ctx: collected(plans(Text("drinks"), pair, llm=llm, ctx=ctx, per_pair=2)),
        )
        assert [getattr(row, "reason", "plan") for row in rows] == ["plan", "plan_without_pink"]

    def test_the_axes_give_distinct_points_until_they_are_used_up(self) -> None:
        rng = Context("x").rng
        size = len(axes.PERSONAS) * len(axes.GOALS) * len(axes.OPENINGS) * len(axes.SHIFTS)
        points = list(axes.sample(rng, size + 5))
        assert len(set(points[:size])) == size
        assert len(points) == size + 5


@settings(max_examples=50, deadline=None)
@given(
    reply=st.text(max_size=300) | st.sampled_from(("\x00", "{{x}}", '["', "\ud800" * 9, "\n" * 5))
)
async def test_whatever_the_model_says_ends_in_rows_or_a_refusal(
    scripted: Any, pair: Pair, plan: Plan, reply: str
) -> None:
    calls: list[Callable[[Any, Context], Awaitable[Any]]] = [
        lambda llm, ctx: collected(plans(Text("a"), pair, llm=llm, ctx=ctx, per_pair=1)),
        lambda llm, ctx: dialogue(pair, plan, llm=llm, ctx=ctx),
        lambda llm, ctx: dialogue(pair, plan, llm=llm, ctx=ctx, mode="script"),
        lambda llm, ctx: critique(pair, said(*SAID), llm=llm, ctx=ctx),
        lambda llm, ctx: revision(pair, said(*SAID), Text("It."), "model", llm=llm, ctx=ctx),
    ]
    for call, can, attempt in product(calls, (frozenset(), frozenset({"prefix"})), (1, 2)):
        ctx = Context("s", "row", attempt=attempt, attempts=2)
        with contextlib.suppress(BadReply, ChatError):  # no prefix, no turns: that is said, too
            await call(scripted([reply] * 4, can=can), ctx)
