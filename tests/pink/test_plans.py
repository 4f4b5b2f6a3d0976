"""Plans: spread over the axes, several a call or one, asked for again, unlike one another."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from math import gcd
from typing import Any

import pytest
from engine_pink_elephant import axes, vectors
from engine_pink_elephant.plans import plans, plans_estimate
from engine_pink_elephant.rows import Pair, Plan
from hypothesis import given
from hypothesis import strategies as st

from engine import Context, Reject, Text
from engine.chat import Feature, Request
from engine.services import MemoryCalls
from engine.testing import FakeChat

pytestmark = pytest.mark.anyio
STRONG: tuple[Feature, ...] = ("schema",)


async def planned(llm: Any, pair: Pair, attempts: int = 1, **config: Any) -> list[Plan | Reject]:
    ctx = Context("plans", "row", attempts=attempts)
    return [row async for row in plans(Text("drinks"), pair, llm=llm, ctx=ctx, **config)]


def reasons(rows: Sequence[Plan | Reject]) -> list[str]:
    return [row.reason if isinstance(row, Reject) else "plan" for row in rows]


def points(request: Request) -> list[str]:
    """The numbered lines of a call."""
    lines = request.messages[-1].content.split("\n")[1:]
    return [line for line in lines if line[:1].isdigit()]


def written(request: Request) -> str:
    """What a good model says: a plan of its own for each point."""
    made = [
        {"plan": f"A {line.split('. ')[1]} asks about tea. Then comes coffee."}
        for line in points(request)
    ]
    return json.dumps({"plans": made})


class TestAxes:
    def test_sizes_are_coprime(self) -> None:
        sizes = [len(axis) for axis in axes.AXES]
        assert [gcd(*two) for two in combinations(sizes, 2)] == [1] * 21
        assert all(len(set(axis)) == len(axis) for axis in axes.AXES)

    @given(st.integers(), st.integers(0, 50))
    def test_two_points_share_two_levels_of_seven_at_most(self, seed: int, count: int) -> None:
        design = axes.sample(random.Random(seed), 50)
        assert axes.sample(random.Random(seed), count) == design[:count]
        for one, other in combinations(design, 2):
            assert sum(a == b for a, b in zip(one, other, strict=True)) <= 2

    def test_another_pair_has_another_design(self) -> None:
        lines = [{p.line for p in axes.sample(random.Random(seed), 50)} for seed in (1, 2)]
        assert len(lines[0] | lines[1]) == 100


class TestManyPlansACall:
    async def test_fifty_take_five_calls_that_share_their_beginning(self, pair: Pair) -> None:
        chat = FakeChat(written, can=STRONG)
        rows = await planned(chat, pair)
        assert reasons(rows) == ["plan"] * 50
        assert len(chat.requests) == 5
        assert len({line for request in chat.requests for line in points(request)}) == 50
        heads = {request.messages[-1].content.split("\n")[0] for request in chat.requests}
        assert heads == {"Topic: drinks. First term: tea. Second term: coffee."}
        assert len({request.messages[:-1] for request in chat.requests}) == 1
        schema = chat.requests[0].schema
        assert schema is not None
        assert schema["properties"]["plans"]["minItems"] == 10

    @pytest.mark.parametrize(("per_pair", "per_call"), [(50, None), (7, 3), (2, 50), (3, 1)])
    async def test_the_estimate_counts_the_same_calls(
        self, pair: Pair, per_pair: int, per_call: int | None
    ) -> None:
        chat = FakeChat(lambda request: written(request) if request.schema else "-", can=STRONG)
        rows = await planned(chat, pair, per_pair=per_pair, per_call=per_call)
        said = plans_estimate(4, per_pair=per_pair, per_call=per_call)
        assert (said.rows, said.calls) == (4 * len(rows), 4 * len(chat.requests))

    async def test_a_plan_is_a_slice_of_the_reply_with_the_words_of_its_point(
        self, pair: Pair
    ) -> None:
        [row] = await planned(FakeChat(written, can=STRONG), pair, per_pair=1)
        assert isinstance(row, Plan)
        assert [span.leaf.origin.op for span in row.plan.spans() if span.leaf.origin] == ["call"]
        assert "tea" in row.opening
        assert "coffee" in row.shift

    @pytest.mark.parametrize(
        ("plan", "reason"),
        [
            ("Tea, and nothing else.", "plan_without_pink"),
            ("Nothing but coffee.", "plan_without_desired"),
            ("Tea, then coffee. " * 99, "plan_too_long"),
            ("Tea, then coffee, then Adidas.", "copied_example"),
            ("Tea is the first term, then coffee.", "debris"),
            ("", "empty"),
        ],
    )
    async def test_a_bad_plan_is_asked_for_again_then_left_out(
        self, pair: Pair, plan: str, reason: str
    ) -> None:
        bad: list[str] = []

        def reply(request: Request) -> str:
            made = json.loads(written(request))
            bad.append(points(request)[-1].partition(" ")[2])
            made["plans"][-1]["plan"] = plan
            return json.dumps(made)

        chat = FakeChat(reply, can=STRONG)
        rows = await planned(chat, pair, attempts=3, per_pair=4, per_call=2)
        assert sorted(reasons(rows)) == sorted(["plan"] * 3 + [reason])
        # Two calls of two, one for both that failed, one for the one that failed again.
        assert [len(points(request)) for request in chat.requests] == [2, 2, 2, 1]
        assert bad[2] == bad[3] == bad[1]

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            ("I would rather not.", "bad_json"),
            ('{"plans": "tea"}', "bad_plans"),
            ('{"plans": []}', "plan_missing"),
        ],
    )
    async def test_a_reply_without_plans_costs_its_own_points_only(
        self, pair: Pair, reply: str, reason: str
    ) -> None:
        said = iter([None, reply, reply, None])
        chat = FakeChat(lambda request: next(said) or written(request), can=STRONG)
        assert reasons(await planned(chat, pair, per_pair=4, per_call=2)) == [
            *("plan", "plan"),
            *(reason, reason),
        ]
        said = iter([None, reply, reply, None])
        rows = await planned(chat, pair, attempts=3, per_pair=4, per_call=2)
        assert reasons(rows) == ["plan"] * 4

    async def test_a_plan_too_few_or_too_many_shifts_no_other_row(self, pair: Pair) -> None:
        def reply(request: Request) -> str:
            made = json.loads(written(request))["plans"]
            return json.dumps({"plans": made[:-1] if len(made) == 3 else made * 2})

        rows = await planned(FakeChat(reply, can=STRONG), pair, 2, per_pair=3, per_call=3)
        assert reasons(rows) == ["plan"] * 3

    async def test_a_repeated_plan_is_named_when_asked_again(self, pair: Pair) -> None:
        same = "A nurse on a double shift asks about tea and then about coffee."
        first = json.dumps({"plans": [{"plan": same}, {"plan": same}]})
        said = iter([first])
        chat = FakeChat(lambda request: next(said, None) or written(request), can=STRONG)
        rows = await planned(chat, pair, attempts=2, per_pair=2, per_call=2)
        assert reasons(rows) == ["plan"] * 2
        assert chat.requests[1].messages[-1].content.endswith(f"\n- {same}")
        rows = await planned(FakeChat(lambda _: first, can=STRONG), pair, 2, per_pair=2, per_call=2)
        assert reasons(rows) == ["plan", "plan_repeated"]
        assert isinstance(rows[1], Reject)
        assert rows[1].span == same

    async def test_paraphrases_are_found_where_there_is_an_embedding(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import numpy as np

        def load(name: str) -> Any:
            assert name == "mine"
            return lambda texts: np.array(
                [[5, *np.eye(4)[text.count("!")]] for text in texts], np.float32
            )

        monkeypatch.setattr(vectors, "load", load)
        made = [{"plan": f"{who} wants tea, then coffee{'!' * at}"} for at, who in enumerate("ABC")]
        made.append({"plan": "Another person altogether talks of tea and goes on to coffee!"})
        chat = FakeChat([json.dumps({"plans": made})] * 2, can=STRONG)
        rows = await planned(chat, pair, per_pair=4, embedding="mine")
        assert reasons(rows) == ["plan", "plan", "plan", "plan_paraphrased"]
        assert reasons(await planned(chat, pair, per_pair=4)) == ["plan"] * 4

    async def test_descriptions_need_not_be_named(self, pair: Pair) -> None:
        described = replace(pair, kind="topic", desired=Text("board games"), pink=Text("gambling"))
        rows = await planned(FakeChat(written, can=STRONG), described, per_pair=2)
        assert reasons(rows) == ["plan"] * 2

    async def test_run_again_it_gives_the_same_and_pays_nothing(self, pair: Pair) -> None:
        bad = iter(["no", "no"])
        chat = FakeChat(lambda request: next(bad, None) or written(request), can=STRONG)
        calls = MemoryCalls()
        runs = []
        for _ in range(2):
            ctx = Context("plans", "row", attempts=3, calls=calls)
            llm = chat.bind(ctx)
            rows = plans(Text("drinks"), pair, llm=llm, ctx=ctx, per_pair=4, per_call=2)
            runs.append([str(row.plan) async for row in rows if isinstance(row, Plan)])
        assert runs[0] == runs[1]
        assert len(runs[0]) == 4
        assert len(chat.requests) == 4


class TestOnePlanACall:
    async def test_a_prefix_is_continued(self, scripted: Any, pair: Pair) -> None:
        chat = scripted([" Then the user asks about coffee."] * 3)
        rows = await planned(chat, pair, per_pair=3)
        assert reasons(rows) == ["plan"] * 3
        assert len({request.messages[-1].content for request in chat.requests}) == 3
        assert isinstance(rows[0], Plan)
        assert str(rows[0].plan).startswith(chat.requests[0].prefix)
        ops = {span.leaf.origin.op for span in rows[0].plan.spans() if span.leaf.origin}
        assert {"template", "call"} <= ops

    async def test_a_bad_plan_is_asked_for_again_then_left_out(
        self, scripted: Any, pair: Pair
    ) -> None:
        chat = scripted([" No.", " Coffee at last.", " No.", " Never."])
        rows = await planned(chat, pair, attempts=3, per_pair=2)
        assert reasons(rows) == ["plan", "plan_without_pink"]
        chat = scripted([" No.", " Coffee at last.", " Well, coffee."])
        assert reasons(await planned(chat, pair, attempts=3, per_pair=2)) == ["plan"] * 2

    async def test_without_a_prefix_the_whole_plan_is_asked_for(
        self, scripted: Any, pair: Pair
    ) -> None:
        chat = scripted(["Tea, then coffee."], can=frozenset())
        [row] = await planned(chat, pair, per_pair=1, per_call=1)
        assert isinstance(row, Plan)
        assert row.plan == "Tea, then coffee."
        assert chat.requests[0].schema is None
