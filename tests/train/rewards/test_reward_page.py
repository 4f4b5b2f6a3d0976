"""The page on reward models: its pipelines are valid, its Python runs, its tables are complete."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_train.evaluating import summary
from engine_train.reward import RewardOptions

from engine.pipeline import read_pipeline

PAGE = (Path(__file__).parents[3] / "docs" / "reward.md").read_text("utf-8")
PAIR = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
VOTES = {"instruction": "Name a colour.", "input": "", "response1": "Blue.", "response2": "Seven."}
VOTES |= {f"annotator{i}": 1 for i in (1, 2, 3)}  # type: ignore[dict-item]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_its_pipelines_are_valid(block: str, tmp_path: Path) -> None:
    for name in ("pairs.jsonl", "held_out.jsonl"):
        (tmp_path / name).write_text(json.dumps(PAIR) + "\n")
    (tmp_path / "votes.json").write_text(json.dumps([VOTES]))
    (tmp_path / "p.yaml").write_text(block)
    made = read_pipeline(tmp_path / "p.yaml")
    assert made.order[0] == "read"


def test_its_python_scores(
    reward_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    reward_folder(name="out/reward-model")
    monkeypatch.chdir(tmp_path)
    said: dict[str, Any] = {}
    [block] = blocks("python")
    exec(block, said)
    assert isinstance(said["blue"], float)


def test_its_tables_name_everything() -> None:
    names = set(re.findall(r"`(\w+)`", PAGE))
    assert set(RewardOptions.model_fields) <= names
    assert set(summary(["a"], [(1.0, 0.0)], [(1.0, 0.0)])["a"]) <= names
