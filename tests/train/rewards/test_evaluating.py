"""A reward model is evaluated by set, against a baseline, and a kill costs one batch."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from engine_train import evaluating
from engine_train.errors import TrainingError
from engine_train.evaluating import evaluate, summary
from engine_train.packing import pair
from engine_train.rewards import RewardModel

Folder = Callable[..., Path]
Rows = list[dict[str, Any]]


class Killed(BaseException):
    """A kill."""


def nobody(answer: Mapping[str, Any]) -> None:
    """Listen to nothing."""


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Make what a worker is asked, of rows."""

    def make(rows: Rows, model: Path, baseline: Path | None = None) -> dict[str, Any]:
        path, workdir = tmp_path / "held_out.jsonl", tmp_path / "work"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        workdir.mkdir(exist_ok=True)
        bases = {"model": {"folder": str(model)}}
        if baseline is not None:
            bases["baseline"] = {"folder": str(baseline)}
        return {**bases, "held_out": str(path), "workdir": str(workdir)}

    return make


def test_figures_are_those_of_the_rewards(
    ask: Callable[..., Any], reward_folder: Folder, preferences: Callable[..., Rows]
) -> None:
    rows = preferences(20, set="one") + preferences(10, seed=1, set="two")
    folder = reward_folder(reward_pooling="mean")
    found = evaluate(ask(rows, folder), nobody)["accuracy"]
    model = RewardModel.load(folder)
    scored = model.score_pairs([pair(model.tokenizer, row) for row in rows])
    won = [one > two for one, two in scored]
    assert list(found) == ["one", "two", "all"]
    assert found["all"]["n"] == 30
    assert found["one"]["accuracy"] == sum(won[:20]) / 20
    assert found["two"]["accuracy"] == sum(won[20:]) / 10
    assert found["all"]["reward"] == pytest.approx(sum(map(sum, scored)) / 60)
    assert "baseline" not in found["all"]


def test_a_baseline_is_compared_pair_by_pair(
    ask: Callable[..., Any], reward_folder: Folder, preferences: Callable[..., Rows]
) -> None:
    rows = preferences(30)
    same = evaluate(ask(rows, reward_folder(), reward_folder()), nobody)["accuracy"]["held out"]
    assert same["accuracy"] == same["baseline"]
    assert same["difference"] == 0
    assert same["difference_low"] < 0 < same["difference_high"]


def test_ties_count_half_and_are_counted() -> None:
    ours = [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (2.0, 1.0)]
    theirs = [(0.0, 1.0), (1.0, 1.0), (1.0, 0.0), (2.0, 1.0)]
    figures = summary(["a"] * 4, ours, theirs)["a"]
    assert figures["accuracy"] == 0.625
    assert figures["ties"] == 1
    assert figures["low"] < 0.625 < figures["high"]
    assert (figures["baseline"], figures["difference"]) == (0.625, 0)
    assert figures["margin"] == pytest.approx(0.25)


def test_a_model_is_read_as_its_folder_says(
    ask: Callable[..., Any], reward_folder: Folder, preferences: Callable[..., Rows]
) -> None:
    """A reply of which one token is kept is the same for both: all are ties."""
    rows = preferences(10)
    found = evaluate(ask(rows, reward_folder(reward_max_reply=1)), nobody)["accuracy"]
    assert found["held out"]["ties"] == 10


def test_a_kill_costs_one_batch_and_changes_nothing(
    ask: Callable[..., Any],
    reward_folder: Folder,
    preferences: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine_train.rewards.chunks.__defaults__", (60,))
    rows, folder = preferences(40), reward_folder()
    asked = ask(rows, folder)
    whole = evaluate(asked, nobody)
    kept = Path(asked["workdir"]) / "model.jsonl"
    batches = len(kept.read_bytes().splitlines())
    assert batches > 4
    kept.unlink()

    def killed(answer: Mapping[str, Any]) -> None:
        if answer["say"].startswith("batch 3 "):
            raise Killed

    with pytest.raises(Killed):
        evaluate(asked, killed)
    assert len(kept.read_bytes().splitlines()) == 3
    kept.write_bytes(kept.read_bytes()[:-5])  # the last one was not written whole
    computed = []
    batch = evaluating._batch
    monkeypatch.setattr(evaluating, "_batch", lambda *given: computed.append(1) or batch(*given))
    assert evaluate(asked, nobody) == whole
    assert len(computed) == batches - 2


def test_it_stops_where_it_is_asked_to_and_goes_on(
    ask: Callable[..., Any], reward_folder: Folder, preferences: Callable[..., Rows]
) -> None:
    asked = ask(preferences(10), reward_folder())
    stop = Path(asked["workdir"]) / "stop"
    stop.touch()
    assert evaluate(asked, nobody) == {"stopped": True}
    stop.unlink()
    assert evaluate(asked, nobody)["accuracy"]["held out"]["n"] == 10


def test_what_cannot_be_evaluated_is_an_error(
    ask: Callable[..., Any], reward_folder: Folder, preferences: Callable[..., Rows]
) -> None:
    with pytest.raises(TrainingError, match="the held-out dataset is empty"):
        evaluate(ask([], reward_folder()), nobody)
    with pytest.raises(TrainingError, match="needs `chosen` and `rejected`; the dataset has text"):
        evaluate(ask([{"text": "a"}], reward_folder()), nobody)
    with pytest.raises(TrainingError, match="held-out row 2: `rejected` is empty or missing"):
        rows = preferences(2)
        evaluate(ask([rows[0], {"chosen": rows[1]["chosen"]}], reward_folder()), nobody)
