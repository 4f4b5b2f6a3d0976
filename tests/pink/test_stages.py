"""The stages: what they add, what they refuse, where their text comes from."""

import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import engine_pink_elephant
import pytest
from engine_pink_elephant import axes, reviewed
from engine_pink_elephant.planning import aliases, pairs, topics, unique_pairs
from engine_pink_elephant.plans import plans
from engine_pink_elephant.revising import critique, preferences, revision
from engine_pink_elephant.rows import Pair, Plan
from engine_pink_elephant.writing import dialogue
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import BadReply, ChatError, Context, InputFile, Reject, Text
from engine.chat import Answer, Message
from engine.errors import InputError
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
    steps = "topics pairs aliases unique_pairs plans dialogue critique revision preferences"
    assert names == [f"pink.{step}" for step in steps.split()]


class TestReviewed:
    def test_the_shipped_file_passes_its_gates(self) -> None:
        found = reviewed.read(reviewed.FILE)
        assert len(found) == 12
        assert all(3 <= len(pairs) <= 4 for pairs in found.values())

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("- {topic: a, pairs: [{desired: Pepsi, pink: Pepsi Max}]}", "terms_overlap"),
            ("- {topic: a, pairs: [{desired: b}]}", "pink"),
            ("- {topic: a, pairz: []}", "pairz"),
            ("topic: [", "no list of topics"),
            ("\x00", "no list of topics"),
        ],
    )
    def test_a_file_that_is_wrong_is_refused_by_name(
        self, tmp_path: Path, text: str, said: str
    ) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        with pytest.raises(InputError, match=said) as caught:
            reviewed.read(file)
        assert str(file) in str(caught.value)

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be read"):
            reviewed.read(tmp_path / "none.yaml")

    def test_the_file_counts_by_its_content(self) -> None:
        for stage in (topics, pairs):
            assert stage_spec(stage).config["file"][0] == InputFile


class TestTopics:
    async def test_the_reviewed_come_first_then_the_models(self, scripted: Any) -> None:
        chat = scripted(["1. birds\n- Birds\nhot drinks\n\n* sea side"])
        rows = await collected(topics(llm=chat, reviewed_topics=2, count=4))
        kept = [str(row.topic) for row in rows if not isinstance(row, Reject)]
        assert kept == ["hot drinks", "soft drinks", "birds", "sea side"]
        assert [row.reason for row in rows if isinstance(row, Reject)] == ["topic_repeated"] * 2
        assert sources(rows[2].topic) == ["call"]
        assert sources(rows[0].topic) == ["source:pairs.yaml"]

    async def test_what_is_known_is_told_and_asked_for_in_batches(self, scripted: Any) -> None:
        chat = scripted(["birds", "bees"])
        await collected(topics(llm=chat, count=12))
        first, second = (request.messages for request in chat.requests)
        assert "hot drinks" in first[-2].content
        assert first[-1].content == "List 10 new topics."
        assert second[-2].content.endswith("birds")
        assert second[-1].content == "List 2 new topics."

    async def test_a_line_that_was_cut_is_left_out(self, scripted: Any) -> None:
        chat = scripted([Answer("birds\nthe tops of", "length")])
        rows = await collected(topics(llm=chat, reviewed_topics=0, count=2))
        assert [row.topic for row in rows] == ["birds"]

    @pytest.mark.parametrize("reply", ["", "\n \n"])
    async def test_no_list_is_refused(self, scripted: Any, reply: str) -> None:
        with pytest.raises(BadReply, match="no_list"):
            await collected(topics(llm=scripted([reply]), reviewed_topics=0, count=2))


class TestPairs:
    async def test_the_reviewed_come_first_then_the_models(self, scripted: Any) -> None:
        chat = scripted(
            ["1. water - beer\ncoffee \u2013 tea\nwine\nmilk - milks\ncola - rum - gin"]
        )
        rows = await collected(pairs(Text("hot drinks"), llm=chat, reviewed_pairs=1, per_topic=5))
        kept = [(row.desired, row.pink) for row in rows if isinstance(row, Pair)]
        assert kept == [("tea", "coffee"), ("water", "beer"), ("cola", "rum - gin")]
        reasons = [row.reason for row in rows if isinstance(row, Reject)]
        assert reasons == ["pair_repeated", "not_a_pair", "same_term"]
        assert [row.pair_origin for row in rows if isinstance(row, Pair)][1] == "model"
        assert sources(rows[1].desired) == sources(rows[1].pink) == ["call"]

    async def test_a_topic_of_the_models_has_no_reviewed_pairs(self, scripted: Any) -> None:
        assert not await collected(pairs(Text("birds"), llm=scripted([])))

    async def test_aliases_are_asked_for_the_models_pairs_only(
        self, scripted: Any, pair: Pair
    ) -> None:
        assert (await aliases(Text("drinks"), pair, llm=scripted([]))).why == pair.why
        made = replace(pair, pair_origin="model", aliases_pink=(), aliases_desired=())
        answer = {
            "aliases_desired": ["Teas", "chai"],
            "aliases_pink": ["java", "", "x" * 99],
            "case_sensitive": False,
            "ambiguous": True,
            "why": "One is stronger.",
        }
        named = await aliases(Text("drinks"), made, llm=scripted([json.dumps(answer)]))
        assert (named.aliases_desired, named.aliases_pink) == (("chai",), ("java",))
        assert sources(named.aliases_pink[0]) == ["call"]
        answer["aliases_pink"] = ["iced tea"]
        chat = scripted([json.dumps(answer)])
        with pytest.raises(BadReply, match="aliases_overlap"):
            await aliases(Text("drinks"), made, llm=chat)

    async def test_the_registry_keeps_a_pair_once_and_a_term_three_times(self, pair: Pair) -> None:
        async def made() -> Any:
            for desired, pink in ("ab", "ba", "ac", "ad", "ae", "bc"):
                yield replace(pair, desired=Text(desired), pink=Text(pink), aliases_pink=())

        rows = await collected(unique_pairs(made(), cap=3))
        assert [getattr(row, "reason", "kept") for row in rows] == [
            *("kept", "pair_repeated", "kept", "kept", "term_overused", "kept")
        ]


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


class TestDialogueByTurns:
    async def test_drifts_to_the_pink_term(self, scripted: Any, pair: Pair, plan: Plan) -> None:
        chat = scripted(TURNS)
        made = await dialogue(pair, plan, llm=chat, ctx=Context("d"))
        assert [turn.content for turn in made.dialogue] == list(SAID)
        assert [turn.role for turn in made.dialogue] == ["user", "assistant"] * 2
        assert made.origin == "model"
        assert [bool(request.sampling.banned) for request in chat.requests] == [
            True,
            True,
            False,
            False,
        ]
        assert all(not request.prefix.endswith(" ") for request in chat.requests)
        assert sources(made.dialogue[1].content) == ["call"]
        assert sources(made.dialogue[0].content) == ["literal", "call"]

    @pytest.mark.parametrize(
        ("at", "turn", "reason"),
        [
            (0, " Or coffee?", "pink_too_early"),
            (1, " Try espresso.", "pink_too_early"),
            (1, "", "empty"),
            (1, " \x00", "unprintable"),
            (2, " I like it.", "question_not_asked"),
            (3, " Tea it is.", "reply_without_pink"),
            (3, " I'm sorry, no coffee.", "refusal"),
        ],
    )
    async def test_each_turn_has_its_gate(
        self, scripted: Any, pair: Pair, plan: Plan, at: int, turn: str, reason: str
    ) -> None:
        chat = scripted([*TURNS[:at], turn])
        with pytest.raises(BadReply, match=reason):
            await dialogue(pair, plan, llm=chat, ctx=Context("d"))

    async def test_only_the_refused_turn_is_drawn_again(
        self, scripted: Any, attempted: Attempted, pair: Pair, plan: Plan
    ) -> None:
        chat = scripted([TURNS[0], " Espresso!", *TURNS[1:]])
        made = await attempted(chat, lambda llm, ctx: dialogue(pair, plan, llm=llm, ctx=ctx))
        assert [turn.content for turn in made.dialogue] == list(SAID)
        assert len(chat.requests) == 5

    async def test_the_last_attempt_puts_words_in_the_agents_mouth(
        self, scripted: Any, attempted: Attempted, pair: Pair, plan: Plan
    ) -> None:
        chat = scripted([*TURNS[:3], " No.", " Never.", " and it is strong."])
        made = await attempted(chat, lambda llm, ctx: dialogue(pair, plan, llm=llm, ctx=ctx))
        assert made.origin == "forced_dialogue"
        assert made.dialogue[-1].content.endswith("and it is strong.")
        assert sources(made.dialogue[-1].content)[-1] == "call"
        assert set(sources(made.dialogue[-1].content)) >= {"template", "call"}

    async def test_a_reply_that_was_cut_keeps_its_whole_sentences(
        self, scripted: Any, pair: Pair, plan: Plan
    ) -> None:
        chat = scripted([*TURNS[:3], Answer(" Coffee is strong. It is al", "length")])
        made = await dialogue(pair, plan, llm=chat, ctx=Context("d"))
        assert made.dialogue[-1].content == "Coffee is strong."

    async def test_text_after_the_line_is_no_part_of_the_turn(
        self, scripted: Any, pair: Pair, plan: Plan
    ) -> None:
        chat = scripted([*TURNS[:3], TURNS[3] + "\nUser: Thanks!"])
        made = await dialogue(pair, plan, llm=chat, ctx=Context("d"))
        assert made.dialogue[-1].content == SAID[-1]


def script(*turns: str, roles: tuple[str, str] = ("user", "assistant")) -> str:
    lines = [{"role": roles[at % 2], "text": text} for at, text in enumerate(turns)]
    return "Here it is: " + json.dumps({"turns": lines})


class TestDialogueAsScript:
    async def test_is_one_structured_reply(self, scripted: Any, pair: Pair, plan: Plan) -> None:
        chat = scripted([script(*SAID)], can=frozenset())
        made = await dialogue(pair, plan, llm=chat, ctx=Context("d"), mode="script")
        assert [turn.content for turn in made.dialogue] == list(SAID)
        assert sources(made.dialogue[0].content) == ["call"]

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            ("no json", "bad_json"),
            ('{"turns": [{"role": "robot", "text": "x"}]}', "bad_turns_role"),
            (script(*SAID[:3]), "roles_off"),
            (script(*SAID, roles=("assistant", "user")), "roles_off"),
            (script(SAID[0], "Have a latte.", *SAID[2:]), "pink_too_early"),
            (script(*SAID[:3], "Tea!"), "reply_without_pink"),
        ],
    )
    async def test_has_its_gates(
        self, scripted: Any, pair: Pair, plan: Plan, reply: str, reason: str
    ) -> None:
        with pytest.raises(BadReply, match=reason):
            await dialogue(pair, plan, llm=scripted([reply]), ctx=Context("d"), mode="script")

    async def test_the_last_attempt_forces_the_last_turn_only(
        self, scripted: Any, attempted: Attempted, pair: Pair, plan: Plan
    ) -> None:
        chat = scripted([script(*SAID[:3], "Tea!")] * 3 + [" It is strong."])
        made = await attempted(
            chat, lambda llm, ctx: dialogue(pair, plan, llm=llm, ctx=ctx, mode="script")
        )
        assert made.origin == "forced_dialogue"
        assert [turn.content for turn in made.dialogue[:3]] == list(SAID[:3])

    async def test_where_no_prefix_can_be_continued_nothing_is_forced(
        self, scripted: Any, attempted: Attempted, pair: Pair, plan: Plan
    ) -> None:
        chat = scripted([script(*SAID[:3], "Tea!")] * 3, can=frozenset({"schema"}))
        with pytest.raises(BadReply, match="reply_without_pink"):
            await attempted(
                chat, lambda llm, ctx: dialogue(pair, plan, llm=llm, ctx=ctx, mode="script")
            )


class TestCritique:
    async def test_the_first_quote_is_the_detectors(self, scripted: Any, pair: Pair) -> None:
        chat = scripted([' speak of tea, and not of "A latte is  mild." or "espresso".'])
        made = await critique(pair, said(*SAID), llm=chat)
        assert made.critique.startswith('"Yes, coffee is stronger" names coffee.')
        assert made.quotes == ("Yes, coffee is stronger", "A latte is mild")
        assert [sources(quote) for quote in made.quotes] == [["turn3"], ["turn3"]]
        assert sources(made.critique)[-1] == "call"
        assert "turn3" in sources(made.critique)

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            ("It is about coffee.", "no_quote"),
            ('"Buy coffee" names coffee.', "quote_not_found"),
            ('"is stronger" is the fault.', "quote_without_pink"),
            ('"coffee" is like Adidas.', "copied_example"),
            ("\ud800", "unprintable"),
            ("", "empty"),
            ('"' * 1_000_000, "too_long"),
        ],
    )
    async def test_elsewhere_the_quotes_are_checked(
        self, scripted: Any, pair: Pair, reply: str, reason: str
    ) -> None:
        with pytest.raises(BadReply, match=reason):
            await critique(pair, said(*SAID), llm=scripted([reply], can=frozenset()))

    async def test_a_dialogue_without_the_term_is_rejected(self, scripted: Any, pair: Pair) -> None:
        with pytest.raises(Reject, match="reply_without_pink"):
            await critique(pair, said("Tea?", "Tea!"), llm=scripted([]))


class TestRevision:
    @staticmethod
    async def revise(llm: Any, ctx: Context, pair: Pair, origin: str = "model") -> Any:
        return await revision(pair, said(*SAID), Text("It names coffee."), origin, llm=llm, ctx=ctx)

    async def test_changes_the_last_turn_only(self, scripted: Any, pair: Pair) -> None:
        chat = scripted(["Yes, black tea is stronger. A green tea is mild."])
        before = said(*SAID)
        made = await revision(
            pair, before, Text("It names coffee."), "model", llm=chat, ctx=Context("r")
        )
        assert all(new is old for new, old in zip(made.revised[:-1], before[:-1], strict=True))
        assert made.revised[-1].content == made.revision
        assert made.revised[-1].role == "assistant"
        assert made.origin == "model"
        assert {"coffee", "Coffee", "espresso"} <= set(chat.requests[0].sampling.banned)
        assert sources(made.revision) == ["call"]

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            ("Yes, tea is stronger than a latte.", "names_pink"),
            ("Yes, it is stronger, and it is mild.", "desired_missing"),
            ("I can't talk about that. Tea is mild.", "refusal"),
            ("The reply should name tea and be mild.", "leaked_instructions"),
            ("Tea is better than the other one, it is mild.", "coy_reference"),
            ("Green tea is mild and cheap.", "echo"),
            ("Yes, tea.", "length_off"),
            ("Of course they drink tea with honey here", "similarity_off"),
            ("{{revision}} tea", "debris"),
            ("tea\x00", "unprintable"),
            ("tea \udfff", "unprintable"),
            ("tea " * 300_000, "too_long"),
            ("", "empty"),
        ],
    )
    async def test_each_gate_is_reached(
        self, scripted: Any, pair: Pair, reply: str, reason: str
    ) -> None:
        with pytest.raises(BadReply, match=reason):
            await self.revise(scripted([reply]), Context("r"), pair)

    @pytest.mark.parametrize(
        ("origin", "then"),
        [
            ("model", "forced_revision"),
            ("forced_dialogue", "forced_dialogue+forced_revision"),
        ],
    )
    async def test_the_last_attempt_is_forced_and_says_so(
        self, scripted: Any, attempted: Attempted, pair: Pair, origin: str, then: str
    ) -> None:
        chat = scripted(["Coffee!", "Coffee?", " it is mild and good."])
        made = await attempted(chat, lambda llm, ctx: self.revise(llm, ctx, pair, origin))
        assert made.origin == then
        assert "tea" in made.revision.lower()
        assert [m.role for m in chat.requests[-1].messages] == [
            "system",
            "user",
            "assistant",
            "user",
        ]
        assert {"template", "call"} <= set(sources(made.revision))

    async def test_where_no_prefix_can_be_continued_nothing_is_forced(
        self, scripted: Any, attempted: Attempted, pair: Pair
    ) -> None:
        chat = scripted(["Coffee!"] * 3, can=frozenset())
        with pytest.raises(BadReply, match="names_pink"):
            await attempted(chat, lambda llm, ctx: self.revise(llm, ctx, pair))


async def test_preferences_are_a_conversation_and_two_endings(pair: Pair) -> None:
    before = said(*SAID)
    revised = (*before[:-1], Message(role="assistant", content=Text("Tea is mild.")))
    made = await preferences(pair, before, revised, ctx=Context("p", "row"))
    assert [m.role for m in made.prompt] == ["system", "user", "assistant", "user"]
    assert made.prompt[1:] == before[:-1]
    assert "tea" in made.prompt[0].content
    assert "coffee" in made.prompt[0].content
    assert (made.chosen, made.rejected) == (revised[-1:], before[-1:])
    principles = {
        (await preferences(pair, before, revised, ctx=Context("p", str(i)))).prompt[0].content
        for i in range(40)
    }
    assert len(principles) == 6


@settings(max_examples=50, deadline=None)
@given(
    reply=st.text(max_size=300) | st.sampled_from(("\x00", "{{x}}", '["', "\ud800" * 9, "\n" * 5))
)
async def test_whatever_the_model_says_ends_in_rows_or_a_refusal(
    scripted: Any, pair: Pair, plan: Plan, reply: str
) -> None:
    calls: list[Callable[[Any, Context], Awaitable[Any]]] = [
        lambda llm, ctx: collected(topics(llm=llm, reviewed_topics=0, count=3)),
        lambda llm, ctx: collected(pairs(Text("birds"), llm=llm, per_topic=3)),
        lambda llm, ctx: aliases(Text("a"), replace(pair, pair_origin="model"), llm=llm),
        lambda llm, ctx: collected(plans(Text("a"), pair, llm=llm, ctx=ctx, per_pair=1)),
        lambda llm, ctx: dialogue(pair, plan, llm=llm, ctx=ctx),
        lambda llm, ctx: dialogue(pair, plan, llm=llm, ctx=ctx, mode="script"),
        lambda llm, ctx: critique(pair, said(*SAID), llm=llm),
        lambda llm, ctx: revision(pair, said(*SAID), Text("It."), "model", llm=llm, ctx=ctx),
    ]
    for call, can, attempt in product(calls, (frozenset(), frozenset({"prefix"})), (1, 2)):
        ctx = Context("s", "row", attempt=attempt, attempts=2)
        with contextlib.suppress(BadReply, ChatError):  # no prefix, no turns: that is said, too
            await call(scripted([reply] * 4, can=can), ctx)
