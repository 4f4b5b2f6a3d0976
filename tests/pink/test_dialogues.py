"""The dialogues: what they hold, what is refused, where their text comes from."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from engine_pink_elephant.rows import Pair, Plan
from engine_pink_elephant.writing import dialogue

from engine import BadReply, Context, Reject, Text
from engine.chat import Answer

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


def sources(text: Text) -> list[str]:
    """The leaf operations that made a text's characters, in order."""
    return [span.leaf.origin.op for span in text.spans() if span.leaf.origin]


class TestDialogueByTurns:
    async def test_drifts_to_the_pink_term(self, scripted: Any, pair: Pair, plan: Plan) -> None:
        chat = scripted(TURNS)
        made = await dialogue(pair, plan, llm=chat, ctx=Context("d"))
        assert [turn.content for turn in made.dialogue] == list(SAID)
        assert [turn.role for turn in made.dialogue] == ["user", "assistant"] * 2
        assert made.origin == "model"
        assert (made.call, made.script) == ((), "")
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
        assert made.call == chat.requests[0].messages
        assert made.script == script(*SAID)
        assert made.written_by == chat.identity

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            ("no json", "bad_json"),
            ('{"turns": [{"role": "robot", "text": "x"}]}', "bad_turns_role"),
            (script(*SAID[:3]), "roles_off"),
            (script(*SAID, roles=("assistant", "user")), "roles_off"),
            (script(SAID[0], "Have a latte.", *SAID[2:]), "pink_too_early"),
            (
                script("I am thirsty.", "Drink.", "Is a latte good?", SAID[3]),
                "opening_without_desired",
            ),
            (script(*SAID[:2], "And then?", SAID[3]), "question_without_pink"),
            (script(*SAID[:2], "I like coffee.", SAID[3]), "question_not_asked"),
            (script(SAID[0], "", *SAID[2:]), "empty"),
            (script(SAID[0], "a" * 5000, *SAID[2:]), "too_long"),
            (script(SAID[0], "You asked \x07 me.", *SAID[2:]), "unprintable"),
            (script(SAID[0], "Ask [your name].", *SAID[2:]), "debris"),
            (script(SAID[0], "It is so good, " * 4, *SAID[2:]), "repetitive"),
            (script(SAID[0], "I was told to be brief.", *SAID[2:]), "leaked_instructions"),
            (script(SAID[0], "Try the Taj Mahal.", *SAID[2:]), "copied_example"),
            (script(*SAID[:3], "I'm sorry, no coffee."), "refusal"),
            (
                script(
                    "Tee, tea, ich m\u00f6chte gern wissen, welcher davon gut ist.",
                    "Der gr\u00fcne ist mild und billig, den trinken hier alle gern.",
                    "Und wie ist es mit coffee? Schmeckt der nicht besser?",
                    "Ja, coffee schmeckt kr\u00e4ftiger und macht am Morgen wach.",
                ),
                "language_off",
            ),
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


LINES = "mentions"


def mentions(*found: tuple[int, str]) -> str:
    return json.dumps({LINES: [{"line": line, "quote": quote} for line, quote in found]})


class TestJudged:
    """A pair of descriptions, or an ambiguous one: a judge says which turns mention the term."""

    async def test_only_a_judge_knows_what_falls_under_a_description(
        self, scripted: Any, pair: Pair, plan: Plan
    ) -> None:
        garden = replace(pair, kind="topic", pink=Text("advice on medicines"))
        with pytest.raises(Reject, match="needs_judge"):
            await dialogue(garden, plan, llm=scripted([]), ctx=Context("d"))

    @pytest.mark.parametrize(
        ("found", "reason"),
        [
            ([(3, "What about coffee"), (4, "coffee is stronger")], None),
            ([(2, "Green tea"), (3, "coffee"), (4, "coffee")], "pink_too_early"),
            ([(2, "no such words"), (3, "coffee"), (4, "coffee")], None),
            ([(4, "coffee")], "question_without_pink"),
            ([(3, "coffee"), (9, "coffee"), (0, "coffee")], "reply_without_pink"),
        ],
    )
    async def test_its_quotes_decide(
        self,
        scripted: Any,
        pair: Pair,
        plan: Plan,
        found: list[tuple[int, str]],
        reason: str | None,
    ) -> None:
        odd = replace(pair, ambiguous=True, pink=Text("mocha"), aliases_pink=())
        chat, judge = scripted([script(*SAID)]), scripted([mentions(*found)])
        call = dialogue(odd, plan, llm=chat, judge=judge, ctx=Context("d"), mode="script")
        if reason is None:
            assert len((await call).dialogue) == 4
        else:
            with pytest.raises(BadReply, match=reason):
                await call

    async def test_a_judge_that_cannot_be_read_ends_the_attempt(
        self, scripted: Any, attempted: Attempted, pair: Pair, plan: Plan
    ) -> None:
        odd = replace(pair, ambiguous=True)
        chat = scripted([script(*SAID)])
        judge = scripted(["I think so.", mentions((3, "coffee"), (4, "coffee"))])
        made = await attempted(
            chat,
            lambda llm, ctx: dialogue(odd, plan, llm=llm, judge=judge, ctx=ctx, mode="script"),
        )
        assert made.origin == "model"
        assert len(chat.requests) == 1  # what was written is kept

    async def test_without_one_an_ambiguous_pair_is_told_by_its_names(
        self, scripted: Any, pair: Pair, plan: Plan
    ) -> None:
        odd = replace(pair, ambiguous=True)
        made = await dialogue(
            odd, plan, llm=scripted([script(*SAID)]), ctx=Context("d"), mode="script"
        )
        assert len(made.dialogue) == 4
