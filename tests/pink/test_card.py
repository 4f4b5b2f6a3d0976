"""The card: its counts are the run's, and it says what is not known."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_pink_elephant import diversity, vectors
from engine_pink_elephant.card import card
from engine_pink_elephant.census import Carded, Census
from engine_pink_elephant.markdown import wilson
from engine_pink_elephant.prompts import templates
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine import Text
from engine.chat import Message
from engine.testing import run_stage

pytestmark = pytest.mark.anyio

SPLITS = ("train", "train", "test")
MODEL = '{"match": "", "reply": "a reply of nine words that is kept here"}\n'
STAGES = """
from engine import Reject, Row, Text, stage
from engine.chat import Chat, Message

class Said(Row):
    plan: Text

@stage("mine.say", version="1")
async def say(topic: Text, *, llm: Chat) -> Said:
    [reply] = await llm.complete([Message(role="user", content=topic)])
    if topic == "topic 1":
        raise Reject("odd|one")
    return Said(plan=reply.text)
"""
PIPELINE = """
name: elephants
seed: 3
resources:
  writer: {use: fixture.chat, with: {file: replies.jsonl}}
stages:
  given: {use: dataset.read, with: {path: rows.jsonl}}
  say: {use: "./stages.py:say", with: {llm: writer}}
  dedup: {use: pink.dedup, with: {mask_terms: false}}
  card: {use: pink.card, with: {path: README.md, license: mit, files: {sft: sft.parquet}}}
"""


def row(i: int, split: str = "train", **more: Any) -> dict[str, Any]:
    turns = [f"What about tea{i}?", f"Tea{i} is fine.", f"And pink{i}?", f"Yes, pink{i} is {i}."]
    roles = ("user", "assistant") * 2
    messages = [{"role": r, "content": t} for r, t in zip(roles, turns, strict=True)]
    revised = [*messages[:-1], {"role": "assistant", "content": f"Yes, tea{i} is."}]
    told = {"topic": f"topic {i}", "desired": f"tea{i}", "pink": f"pink{i}", "split": split}
    return {"dialogue": messages, "revised": revised, **told, **more}


async def written(rows: Sequence[Any], tmp_path: Path, **options: Any) -> str:
    path = tmp_path / "README.md"
    await run_stage(card, rows, path=path, **options)
    return path.read_text()


async def test_its_counts_are_those_of_the_run(
    pipeline: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [row(i, SPLITS[i % 3]) for i in range(6)]
    lines = [json.dumps(one) for one in [*rows, rows[0]]]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "replies.jsonl").write_text(MODEL)
    path = pipeline(PIPELINE, stages=STAGES)
    summary = await engine.run(path)
    text = (tmp_path / "README.md").read_text()
    for key in ("given", "say", "dedup"):
        c = summary.stages[key]
        counts = f"| {c.received} | {c.out} | {c.rejected} | {c.dead} |"
        assert any(
            one.startswith(f"| `{key}` ") and one.endswith(counts) for one in text.split("\n")
        )
    assert "| `say` | `odd\\|one` | 1 | 14.3% |" in text
    assert "| `dedup` | `duplicate` | 1 | 16.7% |" in text
    assert "| train | 3 | 3 | 3 |\n| test | 2 | 2 | 2 |" in text
    assert "| `say` | `fixture` | 7 |" in text
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "mit"
    assert front["configs"] == [{"config_name": "sft", "data_files": "sft.parquet"}]
    assert str(tmp_path) not in text
    assert all(f"`{template.id}`" in text for template in templates().values())

    await engine.run(path)  # pays nothing: what was paid is still told
    assert (tmp_path / "README.md").read_text() == text
    (tmp_path / "README.md").unlink()
    await engine.run(path)
    again = (tmp_path / "README.md").read_text()
    assert "of those before it in the same store: 7 calls of theirs" in again
    assert "| `say` | `fixture` | 7 |" in again, "the cost of the rows, whichever run paid it"
    assert again.split("## Calls")[0] == text.split("## Calls")[0]


async def test_splits_that_share_a_name_are_told(tmp_path: Path) -> None:
    apart = [row(0), row(1, "test")]
    assert "No two splits share a term or an alias" in await written(apart, tmp_path)
    crossing = [row(0), row(1, "test", aliases_pink=["the Tea0s"])]
    text = await written(crossing, tmp_path)
    assert "The splits are not apart: they share 1 term or alias" in text
    assert "the Tea0s" in text


async def test_a_judges_answers_have_intervals(tmp_path: Path) -> None:
    rows = [row(i, judged_mention=i == 0, natural_shift=True) for i in range(20)]
    rows[1]["revised"][-1]["content"] = "pink1"  # the list of names sees it, the judge does not
    text = await written([*rows, row(99)], tmp_path)
    assert "judged 20 rows" in text
    assert "still mentions the pink term | 20 | 5.0% | 0.9% to 23.6% | low |" in text
    assert "(rows with names only) | 20 | 90.0% |" in text
    assert "No judge looked" in await written([row(1)], tmp_path)


async def test_nothing_of_a_row_breaks_out_of_the_card(tmp_path: Path) -> None:
    evil = "</td>`|<script>\n# head"
    text = await written([row(0, desired=evil, origin=evil)], tmp_path, title=evil)
    assert "<script>" not in text
    assert [one for one in text.split("\n") if one.startswith("# ")] == ["# /td|script # head"]


async def test_a_card_of_no_rows_is_a_card(tmp_path: Path) -> None:
    text = await written([], tmp_path)
    assert "0 rows" in text


def test_what_is_held_of_the_rows_does_not_grow_with_them() -> None:
    def held(count: int) -> tuple[int, int]:
        seen = Census(1)
        for i in range(count):
            turn = Message(role="user", content=Text(f"text {i}"))
            fields = {"dialogue": (turn,), "desired": Text(f"{i % 90}"), "plan": Text(f"plan {i}")}
            seen.add(Carded.of(fields, i.to_bytes(16, "big")))
        return len(seen.dialogues), sum(map(len, seen.plans))

    assert held(6000) == held(5400) == (400, 2000)


class TestDiversity:
    def test_copies_and_strangers(self) -> None:
        embed = vectors.load(None)
        copies = diversity.measured(["the same words again and again"] * 8, embed)
        others = diversity.measured([f"{i}a {i}b {i}c {i}d {i}e" for i in range(8)], embed)
        assert (copies.self_bleu, copies.distinct_1) == (pytest.approx(1), 5 / 48)
        assert copies.vendi <= 1 / 8
        assert others.distinct_1 == others.distinct_2 == 1
        assert others.self_bleu < 0.1
        assert others.vendi > 0.8
        assert diversity.measured([], embed) == (0, 0, 0, 0, 0)

    @settings(max_examples=40)
    @given(st.lists(st.lists(st.sampled_from("abcd"), max_size=9), min_size=2, max_size=6))
    def test_self_bleu_is_bleu_against_all_others(self, texts: list[list[str]]) -> None:
        def bleu(text: list[str], others: list[list[str]]) -> float:
            if not text:
                return 0.0
            log = 0.0
            for order in range(1, 5):

                def grams(words: list[str], order: int = order) -> Counter[tuple[str, ...]]:
                    return Counter(zip(*(words[i:] for i in range(order)), strict=False))

                own = grams(text)
                found = sum(min(n, max(grams(o)[g] for o in others)) for g, n in own.items())
                log += math.log((found or 0.1) / max(1, own.total())) / 4
            near = min((len(o) for o in others), key=lambda n: (abs(n - len(text)), n))
            return math.exp(log) * (1 if len(text) >= near else math.exp(1 - near / len(text)))

        wanted = [bleu(text, texts[:i] + texts[i + 1 :]) for i, text in enumerate(texts)]
        assert diversity.self_bleu(texts) == pytest.approx(sum(wanted) / len(texts))


@given(st.integers(0, 500), st.integers(0, 500))
def test_an_interval_holds_the_share(yes: int, no: int) -> None:
    low, high = wilson(yes, yes + no)
    assert 0 <= low <= yes / max(1, yes + no) <= high <= 1 or yes + no == 0
    assert low < high
