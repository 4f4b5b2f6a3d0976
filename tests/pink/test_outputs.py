"""Principles, and the rows that TRL reads."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from engine_pink_elephant.outputs import kto, preference, principle, sft
from engine_pink_elephant.prompts import templates
from engine_pink_elephant.rows import Pair
from engine_train.data import check_columns

import engine
from engine import Context, Text
from engine.chat import Message
from engine.testing import run_stage

pytestmark = pytest.mark.anyio

BEFORE = ("Which tea is best?", "Green tea.", "And coffee?")
TRAIN, HELD_OUT = 12, 4


def said(last: str) -> tuple[Message, ...]:
    roles = ("user", "assistant") * 2
    return tuple(
        Message(role=role, content=Text(turn))
        for role, turn in zip(roles, (*BEFORE, last), strict=True)
    )


ROW = {
    "dialogue": said("Coffee is strong."),
    "revised": said("Tea can be strong, too."),
    "principle": Text("Keep to tea."),
}


async def drawn(pair: Pair, split: str, count: int = 120) -> set[str]:
    rows = [principle(pair, split, ctx=Context("principle", f"{i:032x}")) for i in range(count)]
    return {str((await row).principle) for row in rows}


class TestPrinciple:
    @pytest.mark.parametrize("kind", ["competitor", "topic", "unsafe"])
    async def test_wordings_of_the_test_split_are_seen_nowhere_else(
        self, pair: Pair, kind: Any
    ) -> None:
        made = replace(pair, kind=kind)
        train = await drawn(made, "train")
        assert await drawn(made, "validation") == train
        test = await drawn(made, "test")
        assert not test & train
        assert len(train) >= (TRAIN if kind == "competitor" else HELD_OUT)
        assert len(test) >= HELD_OUT

    async def test_it_names_both_terms_and_shows_phrases_of_a_description(self, pair: Pair) -> None:
        for text in await drawn(pair, "train"):
            assert pair.names_desired(text)
            assert pair.names_pink(text)
            assert "latte" not in text
        for text in await drawn(replace(pair, kind="unsafe"), "test"):
            assert "coffee (such as “espresso” or “latte”)" in text
        bare = replace(pair, kind="topic", aliases_pink=())
        assert not any("such as" in text for text in await drawn(bare, "train"))

    async def test_it_is_the_same_for_a_row_and_knows_its_sources(self, pair: Pair) -> None:
        first, again = [
            (await principle(pair, ctx=Context("principle", "row", seed=3))).principle
            for _ in range(2)
        ]
        assert first == again
        leaves = {span.leaf.origin.op for span in first.spans() if span.leaf.origin}
        assert leaves == {"template", "literal"}

    def test_no_wording_is_there_twice(self) -> None:
        wordings = [
            text
            for name, template in templates().items()
            if name.startswith("principle")
            for _, text in template.messages(**dict.fromkeys(template.fields, "x"))
        ]
        assert len(wordings) == len(set(wordings)) > 3 * (TRAIN - HELD_OUT)


class TestShapes:
    async def test_the_three_shapes_hold_the_same_conversation(self) -> None:
        [pair] = await run_stage(preference, [ROW])
        [example] = await run_stage(sft, [ROW])
        wanted, other = await run_stage(kto, [ROW])
        assert [m.role for m in pair["prompt"]] == ["system", "user", "assistant", "user"]
        assert pair["prompt"][0].content == ROW["principle"]
        assert pair["prompt"] + pair["chosen"] == example["messages"]
        assert pair["prompt"] + pair["rejected"] == (example["messages"][0], *ROW["dialogue"])
        assert (wanted["completion"], wanted["label"]) == (pair["chosen"], True)
        assert (other["completion"], other["label"]) == (pair["rejected"], False)
        assert wanted["prompt"] == other["prompt"] == pair["prompt"]
        assert wanted.row_id != other.row_id

    async def test_files_hold_trls_columns_and_what_is_named(
        self, pipeline: Callable[..., Path], tmp_path: Path
    ) -> None:
        named = {
            "preference": ["prompt", "chosen", "rejected"],
            "sft": ["messages"],
            "kto": ["prompt", "completion", "label"],
        }
        stages = "stages:\n  given: {use: dataset.read, with: {path: given.jsonl}}\n"
        for name, columns in named.items():
            stages += f"  {name}: {{use: pink.{name}, from: given}}\n"
            for kind in ("jsonl", "parquet"):
                written = {"path": f"{name}.{kind}", "fields": ["row_id", *columns, "pink"]}
                stages += f"  {name}_{kind}: " + json.dumps(
                    {"use": "dataset.write", "from": name, "with": written}
                )
                stages += "\n"
        values = engine.rows.plain(ROW) | {"pink": "coffee"}
        (tmp_path / "given.jsonl").write_text(json.dumps(values) + "\n")
        await engine.run(pipeline(stages), store=":memory:")
        for name, columns in named.items():
            lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
            read = [json.loads(line) for line in lines]
            table = pq.read_table(tmp_path / f"{name}.parquet")
            assert table.to_pylist() == read
            assert list(read[0]) == table.column_names == ["row_id", *columns, "pink"]
            assert len(read) == (2 if name == "kto" else 1)
            if name != "kto":  # what TRL's trainers refuse, without the seconds that TRL takes
                check_columns(name.replace("preference", "dpo"), table.column_names)
            for column in columns:
                if column != "label":
                    assert [{*turn} for turn in read[0][column]] == [{"role", "content"}] * len(
                        read[0][column]
                    )
