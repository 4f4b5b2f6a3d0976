"""Pairs: reviewed ones first, then the model's, with their names or without."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from engine_pink_elephant import gates, naming, reviewed
from engine_pink_elephant.pairs import aliases, pairs
from engine_pink_elephant.rows import Pair
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import BadReply, Reject, Text
from engine.chat import Answer
from engine.testing import collect, run_stage

pytestmark = pytest.mark.anyio


async def made(topic: str, llm: Any = None, **config: Any) -> list[Any]:
    return await collect(pairs(Text(topic), llm=llm, **config))


def kept(rows: Iterable[Any]) -> list[tuple[str, str]]:
    return [(row.desired, row.pink) for row in rows if isinstance(row, Pair)]


def reasons(rows: Iterable[Any]) -> Counter[str]:
    return Counter(row.reason for row in rows if isinstance(row, Reject))


def told(desired: Any, pink: Any, **fields: Any) -> dict[str, Any]:
    return {"desired": desired, "pink": pink, "probability": 0.1, **fields}


def listed(*items: Any) -> str:
    return json.dumps({"pairs": items})


async def test_the_reviewed_need_no_model() -> None:
    found = reviewed.read(reviewed.FILE)[Text("hot drinks")]
    assert await made("hot drinks") == list(found)
    assert await made("hot drinks", reviewed_pairs=1) == [found[0]]
    assert await made("a topic of the model's") == []
    with pytest.raises(ValueError, match="'per_topic' asks for new ones.*give `llm`"):
        await made("hot drinks", per_topic=1)


async def test_what_is_shipped_goes_by_its_name() -> None:
    rows = await run_stage(pairs, [{"topic": "feeling low"}], file="unsafe")
    assert [row["kind"] for row in rows] == ["unsafe"] * 2


class TestLines:
    async def test_what_the_gates_refuse_is_rejected_and_more_are_asked_for(
        self, scripted: Any
    ) -> None:
        said = "1. water - beer\ncoffee \u2013 tea\nwine\nmilk - milks\ncola - rum"
        chat = scripted([said, "ale - gin", ""])
        rows = await made("hot drinks", chat, reviewed_pairs=1, per_topic=5, calls=3)
        assert kept(rows) == [("tea", "coffee"), ("water", "beer"), ("cola", "rum"), ("ale", "gin")]
        assert reasons(rows) == {
            "pair_repeated": 1,
            "not_a_pair": 1,
            "same_term": 1,
            "no_list": 1,
            "too_few_pairs": 2,
        }
        assert [row.pair_origin for row in rows if isinstance(row, Pair)][:2] == [
            *("reviewed", "model")
        ]
        [span] = rows[1].desired.spans()
        assert span.leaf.origin.op == "call"
        second = chat.requests[1].messages
        assert second[-1].content == "Topic: hot drinks. New pairs: 3."
        assert second[-2].content.endswith("\nwater - beer\ncola - rum")


class TestJson:
    async def test_a_reply_has_all_fields_of_a_pair(self, scripted: Any) -> None:
        one = told(
            "Kestrel", "Apple", aliases_desired=["kestrels", "Kes"], aliases_pink=["Mac", ""]
        )
        one |= {"case_sensitive": True, "ambiguous": False, "why": "Both."}
        chat = scripted([listed(one, told("plums", "pears", case_sensitive=True))], can={"schema"})
        rows = await made("computers", chat, per_topic=2)
        assert kept(rows) == [("Kestrel", "Apple"), ("plums", "pears")]
        first, second = rows
        assert (first.aliases_desired, first.aliases_pink) == (("Kes",), ("Mac",))
        assert (first.case_sensitive, first.why, first.kind) == (True, "Both.", "competitor")
        assert first.ambiguous  # an apple is known to be another thing, too
        assert not second.case_sensitive  # else "Plums" would be no mention of it
        assert not second.ambiguous
        [span] = first.aliases_pink[0].spans()
        assert span.leaf.origin.op == "call"

    async def test_the_terms_of_the_topic_come_last(self, scripted: Any) -> None:
        replies = [listed(told("plums", "pears")), listed(told("figs", "dates"))]
        chat = scripted(replies, can={"schema"})
        await made("fruit salad", chat, per_topic=2, per_call=1)
        first, second = (request.messages for request in chat.requests)
        assert first[:-1] == second[:-1]
        assert first[-1].content == "Topic: fruit salad. New pairs: 1. Used: none"
        assert second[-1].content == "Topic: fruit salad. New pairs: 1. Used: plums; pears"

    @pytest.mark.parametrize(
        ("item", "reason"),
        [
            (told("plums", None), "not_a_pair"),
            (told("plums", "pears", aliases_pink="pear"), "not_a_pair"),
            (told("plums", "The Plum"), "same_term"),
            (told("oat milk", "milk"), "terms_overlap"),
            (
                told(
                    "plums", "pears", aliases_desired=["Mirabelle"], aliases_pink=["Mirabelle jam"]
                ),
                "aliases_overlap",
            ),
            (told("plums", "Nike"), "copied_example"),
            (told("plums", "the fruit of the pear tree"), "not_a_term"),
            (told("plums", ""), "empty"),
            (told("dogs", "Cat"), "pair_repeated"),
        ],
    )
    async def test_each_gate_is_reached(self, scripted: Any, item: Any, reason: str) -> None:
        chat = scripted([listed(told("C++", "C#"), item)], can={"schema"})
        rows = await made("pets", chat, reviewed_pairs=1, per_topic=2, calls=1)
        assert kept(rows) == [("cats", "dogs"), ("C++", "C#")]
        assert reasons(rows) == {reason: 1, "too_few_pairs": 1}
        assert rows[2].span is not None

    async def test_of_a_reply_that_was_cut_the_whole_pairs_stand(self, scripted: Any) -> None:
        reply = listed(told("plums", "pears"), told("figs", "dates"))[:-20]
        chat = scripted([Answer(reply, "length")], can={"schema"})
        assert kept(await made("fruit salad", chat, per_topic=2, calls=1)) == [("plums", "pears")]


ANSWER = {
    "aliases_desired": ["Teas", "chai"],
    "aliases_pink": ["java", "", "x" * 99],
    "case_sensitive": False,
    "ambiguous": True,
    "why": "One is stronger.",
}


class TestAliases:
    async def test_are_asked_for_where_a_pair_came_without(self, scripted: Any, pair: Pair) -> None:
        known = await aliases(Text("drinks"), pair, llm=scripted([]))
        assert known.aliases_pink == pair.aliases_pink
        named = replace(pair, pair_origin="model")
        assert (await aliases(Text("drinks"), named, llm=scripted([]))).why == pair.why

    async def test_are_names_that_are_not_the_term(self, scripted: Any, pair: Pair) -> None:
        bare = replace(pair, pair_origin="model", aliases_pink=(), aliases_desired=(), why=Text())
        named = await aliases(Text("drinks"), bare, llm=scripted([json.dumps(ANSWER)]))
        assert (named.aliases_desired, named.aliases_pink) == (("chai",), ("java",))
        [span] = named.aliases_pink[0].spans()
        assert span.leaf.origin.op == "call"

    async def test_those_of_both_terms_are_refused(self, scripted: Any, pair: Pair) -> None:
        bare = replace(pair, pair_origin="model", aliases_pink=(), aliases_desired=(), why=Text())
        answer = json.dumps(ANSWER | {"aliases_pink": ["chai latte"]})
        with pytest.raises(BadReply, match="aliases_overlap"):
            await aliases(Text("drinks"), bare, llm=scripted([answer]))


@settings(max_examples=50, deadline=None)
@given(
    replies=st.lists(
        st.text(max_size=80)
        | st.lists(
            st.dictionaries(
                st.sampled_from(("desired", "pink", "aliases_pink", "ambiguous", "why")),
                st.text(max_size=9) | st.lists(st.text(max_size=9), max_size=2) | st.booleans(),
            ),
            max_size=3,
        ).map(lambda items: listed(*items)),
        min_size=2,
        max_size=2,
    ),
    mode=st.sampled_from(("lines", "json")),
)
async def test_whatever_the_model_says_all_that_were_wanted_are_accounted_for(
    scripted: Any, replies: list[str], mode: str
) -> None:
    rows = await made("birds", scripted(replies), per_topic=3, calls=2, mode=mode)
    found = [row for row in rows if isinstance(row, Pair)]
    assert len(found) + reasons(rows)["too_few_pairs"] == 3
    assert len({naming.pair_key(pair) for pair in found}) == len(found)
    assert not any(map(gates.pair, found))
