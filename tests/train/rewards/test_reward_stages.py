"""The stages around a reward model, run as a pipeline runs them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_train.packing import Tokens
from engine_train.preferences import assign, preference
from engine_train.rewards import RewardModel

import engine
from engine.testing import run_stage

pytestmark = pytest.mark.anyio

ANSWERS = {"instruction": "Name a colour.", "first": "Blue.", "second": "Seven."}


async def test_the_answer_with_most_votes_is_chosen() -> None:
    rows = [
        ANSWERS | {"vote": 2, "context": "One word."},
        ANSWERS | {"vote": 1, "vote_2": 2, "vote_3": 1, "context": ""},
        ANSWERS | {"vote": 1, "vote_2": 0, "vote_3": 1},
    ]
    found = await run_stage(preference, rows, set="votes")
    assert [row.chosen[0].content for row in found] == ["Seven.", "Blue.", "Blue."]
    assert [row.rejected[0].content for row in found] == ["Blue.", "Seven.", "Seven."]
    assert [row.prompt[0].content for row in found] == [
        "Name a colour.\n\nOne word.",
        "Name a colour.",
        "Name a colour.",
    ]
    assert {(row.set, row.split) for row in found} == {("votes", "test")}
    assert {(r.prompt[0].role, r.chosen[0].role) for r in found} == {("user", "assistant")}


async def test_pairs_without_a_winner_are_rejected_with_a_reason() -> None:
    rows = [
        ANSWERS | {"vote": 1, "vote_2": 2},
        ANSWERS | {"vote": 0, "vote_2": 0, "vote_3": 1},
        ANSWERS | {"vote": 1, "second": "Blue."},
        ANSWERS | {"vote": 3},
    ]
    found = await run_stage(preference, rows, set="votes")
    assert not found
    assert found.rejected == {
        "tie": 2,
        "the answers are equal": 1,
        "a vote is none of 0, 1 and 2": 1,
    }


async def test_pairs_are_assigned() -> None:
    [row] = await run_stage(assign, [{"chosen": "yes"}], set="dialogues", split="train")
    assert (row.set, row.split) == ("dialogues", "train")


FOLDERS = '''
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from engine import Artifact, Context, Row, stage
from engine.rows import Dialogue


class Given(Row):
    model: Artifact
    baseline: Artifact
    held_out: Artifact
    prompt: Dialogue
    completion: Dialogue


@stage("my.given")
async def given(*, folder: Path, pairs: Path, ctx: Context) -> AsyncIterator[Given]:
    """Keep a model's folder and a file of pairs as blobs."""
    with ctx.blobs.new("application/x-transformers", folder=True) as model:
        for path in folder.iterdir():
            shutil.copy(path, model.path / path.name)
    with ctx.blobs.new("application/jsonl") as file:
        shutil.copy(pairs, file.path)
    for word in ("yes", "no thanks"):
        prompt = {"role": "user", "content": "help me"}
        reply = {"role": "assistant", "content": word}
        yield Given(
            model.artifact, model.artifact, file.artifact, _dialogue(prompt), _dialogue(reply)
        )


def _dialogue(turn: dict[str, str]) -> Dialogue:
    from engine.rows import Message
    from engine.text import Text

    return (Message(role=turn["role"], content=Text(turn["content"])),)
'''


@pytest.fixture
def run(tmp_path: Path, preferences: Callable[..., Any]) -> Callable[..., Any]:
    """Run stages on rows that carry a model; return the rows."""

    async def go(model: Path, **stages: Any) -> list[Any]:
        (tmp_path / "given.py").write_text(FOLDERS)
        lines = [json.dumps(row) + "\n" for row in preferences(12)]
        (tmp_path / "pairs.jsonl").write_text("".join(lines))
        config = {"folder": str(model), "pairs": str(tmp_path / "pairs.jsonl")}
        given = {"use": "./given.py:given", "with": config}
        pipeline = {
            "name": "p",
            "resources": {
                "models": {"use": "train.models", "with": {"device": "cpu"}},
                "workers": {"use": "train.workers", "with": {"threads": 1}},
            },
            "stages": {"given": given, **stages},
        }
        (tmp_path / "p.yaml").write_text(json.dumps(pipeline))
        async with engine.open(tmp_path / "p.yaml", store=tmp_path / "store") as opened:
            rows = [row async for row in opened]
        assert opened.summary.exit_code == 0
        return sorted(rows, key=lambda row: row._order)

    return go


async def test_replies_are_scored_and_a_model_is_evaluated(
    run: Callable[..., Any], reward_folder: Callable[..., Path]
) -> None:
    folder = reward_folder(reward_pooling="mean")
    rows = await run(
        folder,
        score={"use": "train.score", "with": {"models": "models"}},
        evaluate={"use": "train.evaluate", "with": {"trainer": "workers"}},
    )
    model = RewardModel.load(folder)
    assert len(rows) == 2
    for row, words in zip(rows, ("yes", "no thanks"), strict=True):
        start, stop = row["reward_span"]
        said = model.tokenizer.decode(row["input_ids"][start:stop])
        assert said == f"{words} [END]"
        assert row["reward_position"] == stop - 1
        alone = model.score([Tokens(list(row["input_ids"]), start)])[0]
        assert row["reward"] == pytest.approx(alone, abs=1e-5)
    figures = rows[0]["accuracy"]["held out"]
    assert figures["n"] == 12
    assert figures["accuracy"] == figures["baseline"]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]
