"""The whole pipeline on a scripted model with planted defects: every loss has its reason."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import engine

pytestmark = pytest.mark.anyio

PIPELINE = """
resources:
  writer: {use: fixture.chat, with: {file: replies.jsonl}}
stages:
  topics:   {use: pink.topics, with: {llm: writer, reviewed_topics: 1, count: 2, calls: 1}}
  pairs:    {use: pink.pairs, with: {llm: writer, reviewed_pairs: 1, per_topic: 3, calls: 1}}
  aliases:  {use: pink.aliases, with: {llm: writer}}
  unique:   {use: pink.unique_pairs}
  plans:    {use: pink.plans, with: {llm: writer, per_pair: 2}}
  dialogue: {use: pink.dialogue, with: {llm: writer, mode: script}}
  critique: {use: pink.critique, with: {llm: writer}}
  revision: {use: pink.revision, with: {llm: writer}}
  principle: {use: pink.principle}
  rows:     {use: pink.preference}
"""


def replies(**changed: str) -> str:
    """The model: it knows tea and coffee, swans and geese, and makes mistakes."""

    def script(desired: str, pink: str) -> str:
        turns = [
            ("user", f"I am thinking about {desired}. Is it a good choice?"),
            ("assistant", f"Yes, {desired} is a very good choice for everybody."),
            ("user", f"A friend told me about {pink}. What is that like?"),
            ("assistant", f"It is nice. Many people love {pink} for its character."),
        ]
        return json.dumps({"turns": [{"role": role, "text": text} for role, text in turns]})

    aliases = {
        "aliases_desired": [],
        "aliases_pink": ["gander"],
        "case_sensitive": False,
        "ambiguous": False,
        "why": "Both swim.",
    }
    lines = {
        r"^List 2 new topics": "birds\nhot drinks",
        r"^Topic: hot drinks.*New pairs": "coffee - tea\nmilk - milks\nswan - goose",
        r"^Topic: birds.*New pairs": "swan - goose\nno pair\ngoose - swan",
        r"^Topic: .* Terms: ": json.dumps(aliases),
        r"First term: tea.*The user is": " Then the user asks about coffee.",
        r"First term: swan.*The user is": " Then the user asks about a goose.",
        r"^Turns:.*First term: tea": script("tea", "coffee"),
        r"^Turns:.*First term: swan": script("a swan", "a goose"),
        r"Wanted: tea.*\nCritique:": "It is nice. Many people love tea for its character.",
        r"Wanted: swan.*\nCritique:": "It is nice. Many people love a gander for its character.",
        r"Wanted: ": " speak of what is wanted.",
        r"^That will not do": "It is nice. Many people love a gander for its character.",
        r"^A friend told me about a goose": " and so is a gander, in each and every way.",
    } | changed
    return "".join(json.dumps({"match": m, "reply": r}) + "\n" for m, r in lines.items())


async def test_counts_close_and_reasons_are_named(
    pipeline: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "replies.jsonl").write_text(replies())
    async with engine.open(pipeline(PIPELINE), store=":memory:") as run:
        rows = [row async for row in run]
    stages = run.summary.stages
    assert {key: dict(c.reasons) for key, c in stages.items() if c.reasons} == {
        "topics": {"topic_repeated": 1, "too_few_topics": 1},
        "pairs": {"pair_repeated": 2, "same_term": 1, "not_a_pair": 1, "too_few_pairs": 4},
        "unique": {"pair_repeated": 1},
        "revision": {"names_pink": 2},
    }
    assert stages["revision"].refused == 2 * 3  # the last of each a forced one
    assert run.summary.finished == len(rows) == 2
    assert run.summary.dead == 0
    for row in rows:
        assert [turn.role for turn in row["prompt"]] == ["system", "user", "assistant", "user"]
        assert row["prompt"][1:] == row["dialogue"][:-1]
        assert row["rejected"] == row["dialogue"][-1:]
        assert row["chosen"][0].content == "It is nice. Many people love tea for its character."
        assert row["quotes"] == ("Many people love coffee for its character",)
        assert row["origin"] == "model"
        [call] = row["chosen"][0].content.spans()
        assert call.leaf.origin.op.startswith("call")


async def test_what_is_forced_says_so(pipeline: Callable[..., Path], tmp_path: Path) -> None:
    changed = {
        r"Wanted: swan.*\nCritique:": "A goose!",
        r"^A friend told me about a goose": " and a swan is as good as any other bird.",
    }
    (tmp_path / "replies.jsonl").write_text(replies(**changed))
    async with engine.open(pipeline(PIPELINE), store=":memory:") as run:
        rows = [row async for row in run]
    assert [row["origin"] for row in rows] == ["model"] * 2 + ["forced_revision"] * 2
