"""Critique and revision of the last turn: what changes, what is refused, what a retry is told."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from engine_pink_elephant.revising import contrast, critique, critique_revision, revision
from engine_pink_elephant.rows import Pair

from engine import BadReply, Context, Reject, Text
from engine.chat import Message

pytestmark = pytest.mark.anyio
Attempted = Callable[..., Awaitable[Any]]

SAID = (
    "I am thinking about tea. Which one is best?",
    "Green tea is mild and cheap.",
    "What about coffee? Is it stronger?",
    "Yes, coffee is stronger. A latte is mild.",
)


def said(*turns: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(
        Message(role=roles[at % 2], content=Text.leaf(turn, f"turn{at}"))
        for at, turn in enumerate(turns)
    )


def sources(text: Text) -> list[str]:
    """The leaf operations that made a text's characters, in order."""
    return [span.leaf.origin.op for span in text.spans() if span.leaf.origin]


class TestCritique:
    async def test_the_first_quote_is_the_detectors(self, scripted: Any, pair: Pair) -> None:
        chat = scripted([' speak of tea, and not of "A latte is  mild." or "espresso".'])
        made = await critique(pair, said(*SAID), llm=chat, ctx=Context("c"))
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
            await critique(
                pair, said(*SAID), llm=scripted([reply], can=frozenset()), ctx=Context("c")
            )

    async def test_a_dialogue_without_the_term_is_rejected(self, scripted: Any, pair: Pair) -> None:
        with pytest.raises(Reject, match="reply_without_pink"):
            await critique(pair, said("Tea?", "Tea!"), llm=scripted([]), ctx=Context("c"))


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


BETTER = "Yes, black tea is stronger. A green tea is mild."


def revised(
    text: str = BETTER,
    quotes: tuple[str, ...] = ("Yes, coffee is stronger",),
    why: str = "It names it.",
) -> str:
    return json.dumps({"quotes": quotes, "critique": why, "revision": text})


def written(by: str) -> dict[str, Any]:
    """The fields of a dialogue that one call of a model made."""
    call = (
        Message(role="system", content=Text("Write.")),
        Message(role="user", content=Text("Tea.")),
    )
    return {"call": call, "script": Text("{turns}"), "written_by": by}


class TestCritiqueRevision:
    async def test_goes_on_where_the_script_ended(self, scripted: Any, pair: Pair) -> None:
        chat = scripted([revised()])
        before = said(*SAID)
        own = written(chat.identity)
        made = await critique_revision(pair, before, "model", **own, llm=chat, ctx=Context("r"))
        [request] = chat.requests
        assert request.messages[:2] == own["call"]
        assert request.messages[2].role == "assistant"
        assert request.messages[2].content == own["script"]
        assert (
            request.messages[3].content
            == "Revise the agent's last turn. Keep to: tea. Leave out: coffee."
        )
        assert made.continued
        assert (made.revision, made.critique, made.verdict) == (BETTER, "It names it.", "lexical")
        assert all(new is old for new, old in zip(made.revised[:-1], before[:-1], strict=True))
        assert made.quotes == ("Yes, coffee is stronger",)
        assert sources(made.quotes[0]) == ["turn3"]
        assert sources(made.revision) == ["call"]

    @pytest.mark.parametrize("fields", [{}, written("another model"), {"written_by": "fake"}])
    async def test_another_model_is_asked_afresh(
        self, scripted: Any, pair: Pair, fields: dict[str, Any]
    ) -> None:
        chat = scripted([revised()])
        made = await critique_revision(
            pair, said(*SAID), "model", **fields, llm=chat, ctx=Context("r")
        )
        assert not made.continued
        assert SAID[2] in chat.requests[0].messages[-1].content

    async def test_a_retry_is_told_what_was_wrong(
        self, scripted: Any, attempted: Attempted, pair: Pair
    ) -> None:
        chat = scripted(
            [revised("Tea is stronger than a latte."), revised("It is so good."), revised()]
        )
        made = await attempted(
            chat, lambda llm, ctx: critique_revision(pair, said(*SAID), "model", llm=llm, ctx=ctx)
        )
        assert made.revision == BETTER
        assert len(chat.requests) == 3
        first, second, third = (request.messages for request in chat.requests)
        assert second[: len(first)] == first  # append-only: a cached prefix still serves
        assert third[: len(second)] == second
        assert second[-2].content == revised("Tea is stronger than a latte.")
        assert "still names what should be left out (latte)" in second[-1].content
        assert "does not name what to keep to" in third[-1].content

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            ("no json", "bad_json"),
            ('{"quotes": []}', "bad_critique"),
            (revised(quotes=()), "no_quote"),
            (revised(quotes=("Buy coffee",)), "quote_not_found"),
            (revised(quotes=("is mild",)), "quote_without_pink"),
            (revised(why="It is like Adidas."), "copied_example"),
            (revised("Yes, tea is stronger than a latte."), "names_pink"),
            (
                revised("Oui, le tea est bien plus fort que tout autre, et il est tr\u00e8s doux."),
                "language_off",
            ),
        ],
    )
    async def test_each_gate_is_reached(
        self, scripted: Any, pair: Pair, reply: str, reason: str
    ) -> None:
        with pytest.raises(BadReply, match=reason):
            await critique_revision(
                pair,
                said(*SAID),
                "model",
                llm=scripted([reply]),
                ctx=Context("r"),
                similarity=(0, 1),
            )

    async def test_of_a_description_the_judge_decides(self, scripted: Any, pair: Pair) -> None:
        topic = replace(pair, kind="topic", pink=Text("strong drinks"), aliases_pink=())
        found = json.dumps({"mentions": [{"line": 1, "quote": "black tea is stronger"}]})
        judge = scripted([found, json.dumps({"mentions": []})])
        ask = {"llm": scripted([revised()]), "judge": judge}
        with pytest.raises(BadReply, match="mentions_pink") as caught:
            await critique_revision(topic, said(*SAID), "model", **ask, ctx=Context("r"))
        assert caught.value.span == "black tea is stronger"
        ask["llm"] = scripted([revised()])
        made = await critique_revision(topic, said(*SAID), "model", **ask, ctx=Context("r"))
        assert made.verdict == "judge"


class TestContrast:
    async def test_answers_the_last_question_under_the_rule(
        self, scripted: Any, pair: Pair
    ) -> None:
        chat = scripted([BETTER])
        before = said(*SAID)
        made = await contrast(pair, before, "model", llm=chat, ctx=Context("r"))
        [request] = chat.requests
        assert request.messages[0].role == "system"
        assert request.messages[1:] == before[:-1]
        assert made.revised == (*before[:-1], made.revised[-1])
        assert made.revision == BETTER

    async def test_has_the_gates_of_a_revision(self, scripted: Any, pair: Pair) -> None:
        with pytest.raises(BadReply, match="names_pink"):
            await contrast(
                pair, said(*SAID), "model", llm=scripted(["Coffee, not tea."]), ctx=Context("r")
            )
