"""Topics: reviewed ones first, then the model's, in calls that go on until there are enough."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from engine_pink_elephant import naming, reviewed
from engine_pink_elephant.rows import Topic
from engine_pink_elephant.topics import AREAS, topics
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Context, Reject, Text
from engine.chat import Answer
from engine.settings import is_input
from engine.stages import stage_spec
from engine.testing import collect, run_stage

pytestmark = pytest.mark.anyio


async def made(llm: Any = None, **config: Any) -> list[Any]:
    return await collect(topics(llm=llm, ctx=Context("topics"), **config))


def kept(rows: Iterable[Any]) -> list[str]:
    return [row.topic for row in rows if isinstance(row, Topic)]


def reasons(rows: Iterable[Any]) -> Counter[str]:
    return Counter(row.reason for row in rows if isinstance(row, Reject))


def listed(*said: str) -> str:
    return json.dumps({"topics": [{"topic": topic, "probability": 0.1} for topic in said]})


async def test_the_reviewed_need_no_model() -> None:
    assert kept(await made()) == list(reviewed.read(reviewed.FILE))
    assert kept(await made(reviewed_topics=2)) == ["hot drinks", "soft drinks"]
    with pytest.raises(ValueError, match="'count' asks for new ones.*give `llm`"):
        await made(count=1)


async def test_what_is_shipped_goes_by_its_name_and_counts_by_its_content() -> None:
    rows = await run_stage(topics, file="unsafe")
    assert rows[0]["topic"] == "feeling low"
    assert is_input(stage_spec(topics).config["file"][0])


class TestLines:
    async def test_what_repeats_a_topic_is_rejected_and_more_are_asked_for(
        self, scripted: Any
    ) -> None:
        chat = scripted(["1. birds\n- Birds\nhot drinks\n\n* sea side", "bees\nwasps"])
        rows = await made(chat, reviewed_topics=1, count=4)
        assert kept(rows) == ["hot drinks", "birds", "sea side", "bees", "wasps"]
        assert reasons(rows) == {"topic_repeated": 2}
        assert [row.topic_origin for row in rows if isinstance(row, Topic)][:2] == [
            *("reviewed", "model")
        ]
        [span] = rows[1].topic.spans()
        assert span.leaf.origin.op == "call"

    async def test_what_is_known_stands_before_as_an_answer(self, scripted: Any) -> None:
        chat = scripted(["birds", "bees\nwasps"])
        await made(chat, count=3, per_call=2)
        first, second = (request.messages for request in chat.requests)
        assert "hot drinks" in first[-2].content
        assert first[-1].content == second[-1].content == "List 2 new topics."
        assert second[-2].content.endswith("\nbirds")

    async def test_a_line_that_was_cut_is_left_out(self, scripted: Any) -> None:
        chat = scripted([Answer("birds\nthe tops of", "length"), "bees"])
        assert kept(await made(chat, reviewed_topics=0, count=2)) == ["birds", "bees"]

    async def test_calls_that_give_nothing_are_counted_and_end(self, scripted: Any) -> None:
        rows = await made(scripted(["", "\n \n"]), reviewed_topics=0, count=3, calls=2)
        assert reasons(rows) == {"no_list": 2, "too_few_topics": 3}
        assert rows[-1].span == "2 calls gave 0 of 3"


class TestJson:
    async def test_each_call_is_about_another_area(self, scripted: Any) -> None:
        chat = scripted([listed("birds", "bees"), listed("wasps")], can={"schema"})
        rows = await made(chat, reviewed_topics=1, count=3, per_call=2)
        assert kept(rows) == ["hot drinks", "birds", "bees", "wasps"]
        first, second = (request.messages for request in chat.requests)
        assert first[:-1] == second[:-1]  # what a server may keep
        asked = [messages[-1].content.partition(". ") for messages in (first, second)]
        assert len({area for area, _, _ in asked}) == 2
        assert [rest for _, _, rest in asked] == [
            "New topics: 2. Known: none",
            "New topics: 1. Known: none",
        ]
        assert chat.requests[0].schema is not None

    async def test_what_was_found_in_an_area_is_told_there_last(self, scripted: Any) -> None:
        count = len(AREAS) + 1
        chat = scripted(
            [listed(chr(97 + n // 26) * 3 + chr(97 + n % 26) * 3) for n in range(count)],
            can={"schema"},
        )
        await made(chat, count=count, per_call=1)
        first, *_, again = [request.messages[-1].content for request in chat.requests]
        assert first.endswith("Known: none")
        assert again == first.replace("none", "aaaaaa")

    async def test_another_seed_begins_elsewhere(self, scripted: Any) -> None:
        def area(seed: int) -> Any:
            chat = scripted([listed("birds")], can={"schema"})
            return chat, topics(llm=chat, ctx=Context("t", seed=seed), reviewed_topics=0, count=1)

        asked = set()
        for seed in range(4):
            chat, rows = area(seed)
            await collect(rows)
            asked.add(chat.requests[0].messages[-1].content)
        assert len(asked) > 1

    @pytest.mark.parametrize(
        ("reply", "found"),
        [
            (Answer(listed("birds", "bees")[:-12], "length"), ["birds"]),
            ('Sure: [{"topic": " birds "}, {"topic": 7}, "x"]', ["birds"]),
            ('{"topics": []}', []),
            ("no json", []),
            ('{"topics": "none"}', []),
        ],
    )
    async def test_what_can_be_read_of_a_reply_is_read(
        self, scripted: Any, reply: Any, found: list[str]
    ) -> None:
        chat = scripted([reply], can=())
        rows = await made(chat, reviewed_topics=0, count=4, calls=1, mode="json")
        assert kept(rows) == found
        assert reasons(rows) == {"too_few_topics": 4 - len(found)} | (
            {} if found else {"no_list": 1}
        )


@pytest.mark.parametrize(
    ("one", "two", "near"),
    [
        ("hot drinks", "Hot Drink", True),
        ("drinks that are hot", "hot drinks", True),
        ("dog breeds", "breeds of dogs", True),
        ("running shoes", "trail running shoes", True),
        ("hair styles", "hairstyles", True),
        ("board games", "games", False),
        ("board games", "card games", False),
        ("winter sports", "water sports", False),
        ("fast food", "street food", False),
    ],
)
def test_near_duplicates(one: str, two: str, near: bool) -> None:
    for first, second in ((one, two), (two, one)):
        known = naming.Topics()
        known.add(first)
        assert bool(known.near(second)) is near


@settings(max_examples=50, deadline=None)
@given(
    replies=st.lists(
        st.text(max_size=80) | st.just(listed("birds", "bees")), min_size=3, max_size=3
    ),
    mode=st.sampled_from(("lines", "json")),
)
async def test_whatever_the_model_says_all_that_were_wanted_are_accounted_for(
    scripted: Any, replies: list[str], mode: str
) -> None:
    rows = await made(scripted(replies), reviewed_topics=0, count=3, calls=3, mode=mode)
    found = kept(rows)
    assert len(found) + reasons(rows)["too_few_topics"] == 3
    assert all(isinstance(topic, Text) for topic in found)
    known = naming.Topics()
    for topic in found:
        assert not known.near(topic)
        known.add(topic)
