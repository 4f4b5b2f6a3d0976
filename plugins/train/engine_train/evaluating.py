"""How often a reward model prefers what was chosen: by set, with intervals, against a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, ConfigDict

from engine_train import intervals, reward
from engine_train.bases import Base
from engine_train.errors import TrainingError
from engine_train.worker import STOP

if TYPE_CHECKING:
    from engine_train.rewards import RewardModel

__all__ = ["ALL", "Evaluation", "evaluate", "summary"]

ALL = "all"
"""The name of all sets together."""

Tell = Callable[[Mapping[str, Any]], None]
Rewards = list[tuple[float, float]]


class Evaluation(BaseModel):
    """What is evaluated."""

    model_config = ConfigDict(extra="forbid")

    model: Base
    """A reward model."""
    baseline: Base | None = None
    """Another one, which is scored on the same pairs."""
    held_out: Path
    """A JSON Lines file of pairs as `train.reward` reads them; `set` says where a pair belongs."""
    workdir: Path


def evaluate(payload: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Score the held-out pairs; return `accuracy` by set: what a worker is asked for.

    Rewards are appended to the work folder batch by batch, so that a kill costs one batch.
    Raises TrainingError for what is no reward model and for a dataset without pairs.
    """
    asked = Evaluation.model_validate(payload)
    with asked.held_out.open("rb") as lines:
        rows = [orjson.loads(line) for line in lines]
    if not rows:
        raise TrainingError(
            "the held-out dataset is empty: see why the stages before it rejected its rows"
        )
    reward.check(list(rows[0]), rows[0])
    found = []
    for name, base in (("model", asked.model), ("baseline", asked.baseline)):
        if base is None:
            continue
        scored = _scored(base, rows, asked.workdir / f"{name}.jsonl", asked.workdir / STOP, tell)
        if scored is None:
            return {"stopped": True}
        found.append(scored)
    return {"accuracy": summary([str(row.get("set") or "held out") for row in rows], *found)}


def _scored(
    base: Base, rows: Sequence[Mapping[str, Any]], kept: Path, stop: Path, tell: Tell
) -> Rewards | None:
    """Return the rewards of all pairs, an earlier start's included; None if it was stopped."""
    from engine_train.packing import pair
    from engine_train.places import find
    from engine_train.rewards import RewardModel, chunks, row_length

    tell({"say": "loading"})
    model = RewardModel.load(find(base, seed=0, texts=()))
    pairs = []
    for number, row in enumerate(rows, 1):
        one, two = pair(model.tokenizer, row, f"held-out row {number}")
        pairs.append((model.cut(one), model.cut(two)))
    places = list(chunks([row_length(*both) for both in pairs]))
    done, whole = _kept(kept)
    with kept.open("ab") as file:
        file.truncate(whole)
        for number, chosen in enumerate(places[len(done) :], len(done) + 1):
            if stop.exists():
                return None
            done.append(_batch(model, [pairs[i] for i in chosen]))
            file.write(orjson.dumps(done[-1]) + b"\n")
            file.flush()
            tell({"say": f"batch {number} of {len(places)}"})
    rewards: Rewards = [(0.0, 0.0)] * len(rows)
    for chosen, scores in zip(places, done, strict=True):
        for i, both in zip(chosen, scores, strict=True):
            rewards[i] = both
    return rewards


def _batch(model: RewardModel, pairs: Sequence[Any]) -> Rewards:
    return model.score_pairs(pairs)


def _kept(path: Path) -> tuple[list[Rewards], int]:
    """Return the batches that were written whole, and how many bytes these are."""
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    lines = map(orjson.loads, data[:whole].splitlines())
    return [[(one, two) for one, two in line] for line in lines], whole


def summary(
    sets: Sequence[str], ours: Rewards, theirs: Rewards | None = None
) -> dict[str, dict[str, float]]:
    """Return figures by set, in order of first appearance, and of all if there are several.

    `accuracy` is the share of pairs whose chosen reply has the higher reward (`ties` count half)
    and `low` to `high` its 95% interval; `reward` is the mean over all replies, `margin` that of
    chosen minus rejected. Against a baseline: its accuracy, and the `difference`, by which ours is
    higher, with its interval, pair by pair.
    """
    names = list(dict.fromkeys(sets))
    groups = {name: [i for i, s in enumerate(sets) if s == name] for name in names}
    if len(names) > 1 and ALL not in groups:
        groups[ALL] = list(range(len(sets)))
    return {
        name: _figures([ours[i] for i in places], theirs and [theirs[i] for i in places])
        for name, places in groups.items()
    }


def _figures(ours: Rewards, theirs: Rewards | None) -> dict[str, float]:
    count, won = len(ours), [_won(pair) for pair in ours]
    low, high = intervals.wilson(sum(won), count)
    figures: dict[str, float] = {
        "n": count,
        "accuracy": sum(won) / count,
        "low": low,
        "high": high,
        "ties": won.count(0.5),
        "reward": sum(one + two for one, two in ours) / (2 * count),
        "margin": sum(one - two for one, two in ours) / count,
    }
    if theirs is not None:
        beaten = [_won(pair) for pair in theirs]
        apart, lowest, highest = intervals.difference(won, beaten)
        figures |= {
            "baseline": sum(beaten) / count,
            "difference": apart,
            "difference_low": lowest,
            "difference_high": highest,
        }
    return figures


def _won(pair: tuple[float, float]) -> float:
    one, two = pair
    return 0.5 if one == two else float(one > two)
