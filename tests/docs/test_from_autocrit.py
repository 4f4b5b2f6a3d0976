"""The page for those who come from autocrit: its example runs, and it names what there is."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_pink_elephant
import engine_train
import pytest

import engine
from engine.datasets import autocrit
from engine.stages import stage_spec

pytestmark = pytest.mark.anyio
Pages = Callable[[str], Any]


async def test_the_example_runs(page: Pages, tmp_path: Path) -> None:
    for block in page("from-autocrit.md").blocks():
        if block.file:
            (tmp_path / block.file).write_text(block.body, "utf-8")
    async with engine.open(tmp_path / "revisions.yaml", store=":memory:") as run:
        await run.finish()
    [row] = map(json.loads, (tmp_path / "out" / "revisions.jsonl").read_text("utf-8").splitlines())
    rounds = json.loads((tmp_path / "revisions.json").read_text("utf-8"))[0]["iterations"]
    assert [m["content"] for m in row["rejected"]] == [rounds[0]["answer"]]
    assert [m["content"] for m in row["chosen"]] == [rounds[-1]["answer"]]
    assert row["critiques"] == [each["critique"] for each in rounds]


def test_the_transcript_is_the_example_s(page: Pages) -> None:
    shown = next(block.body for block in page("from-autocrit.md").blocks("text"))
    kept = next(block.body for block in page("from-autocrit.md").blocks("json") if block.file)
    assert json.loads(kept)[0]["iterations"][-1]["context"] == shown.strip()


def test_the_fields_and_reasons_are_the_code_s(page: Pages) -> None:
    section = page("from-autocrit.md").text.split("What `convert` adds:")[1].split("\n## ")[0]
    first = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    fields = autocrit.critique_fields({"text": engine.Text})
    assert first[: len(fields) - 1] == list(fields)[1:]
    whole = "USER: a\nASSISTANT: b\nCRITIQUE: c\nREVISION:"
    texts = [None, "a", whole, whole + " d\nUSER: e", "USER: a", whole.partition("\nR")[0]]
    rows = [{"text": text if text is None else engine.Text(text)} for text in texts]
    reasons = [getattr(autocrit.critique(row, "there"), "reason", None) for row in rows]
    assert first[len(fields) - 1 :] == reasons


def test_its_stages_are_there(page: Pages) -> None:
    stages = [*engine_pink_elephant.engine_stages(), *engine_train.engine_stages()]
    named = re.findall(r"`((?:pink|train)\.\w+)`", page("from-autocrit.md").text)
    assert named
    assert set(named) <= {stage_spec(stage).name for stage in stages}
