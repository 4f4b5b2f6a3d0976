"""One edit of a random pipeline recomputes the edited stage, and what really changed downstream.

The model knows the id and the values of each row before and after the edit. An execution is due
where no earlier run has had the stage (its configuration, its model) on the row with these values.
"""

import json
import os
import random
from collections import Counter
from typing import Any
from unittest import mock

import pytest

from engine.keys import source_id
from tests.sim.lives import check_output, check_paid, edit, live
from tests.sim.pipelines import BATCHES, CHATS, STREAMS, SimPipeline, Stage
from tests.sim.world import World, simulated

FIRST, LAST = map(int, os.environ.get("EDITS", "0:60").split(":"))
COUNTED = ("steps", "naps", "gate", "ask", "talk", "slow", "splits", "inquires", *BATCHES)


def executions(made: SimPipeline, stage: Stage) -> list[Any]:
    """Return what is executed, and on what, where nothing is recorded yet."""
    identity = made.identity if stage.use in CHATS else ""
    read = [[str(i), f["n"]] for i, f in stage.read], [[str(i), f["n"]] for i, f in stage.second]
    whole = (stage.key, stage.configuration, identity)
    if stage.use in STREAMS:
        return [(*whole, json.dumps(read))]
    return [(*whole, json.dumps(row)) for row in read[0]]


def due(before: list[SimPipeline], after: SimPipeline) -> Counter[str]:
    """Return how often each stage must be executed: once for what no run before has had."""
    had = {e for made in before for stage in made.made for e in executions(made, stage)}
    found: Counter[str] = Counter()
    for stage in after.made:
        todo = [e not in had for e in executions(after, stage)]
        if stage.use in BATCHES:  # consecutive rows; those that died stay dead, the rest runs
            found[stage.key] += rerun(after, stage, todo)
        elif stage.use in (*COUNTED, *STREAMS):
            found[stage.key] += sum(todo)
    return +found


def rerun(made: SimPipeline, stage: Stage, todo: list[bool]) -> int:
    """Return how many rows of a batch stage run: all of a batch with one that must, but the dead."""
    size, total = stage.yaml["batch"], 0
    for start in range(0, len(todo), size):
        batch = range(start, min(start + size, len(todo)))
        if any(todo[at] for at in batch):
            dead = [stage.read[at][1]["n"] % 13 == 6 and not todo[at] for at in batch]
            total += len(batch) - sum(dead)
    return total


def executed(here: World) -> Counter[str]:
    """Return how many rows (or streams) each stage was executed on."""
    return Counter(stage for stage, _ in +here.ran)


def check_edits(seed: int) -> None:
    """Run a pipeline, three edits of it, each twice, and itself again after each."""
    rng = random.Random(f"{seed}/edit")
    first = SimPipeline(seed)
    runs: list[SimPipeline] = []
    here = World(seed)
    with simulated(here):
        for _ in range(3):
            edited = edit(rng, first)
            for made in (first, edited, edited):
                assert live(here, made).done
                expected = due(runs, made)
                assert executed(here) == expected, (seed, made.edit)
                assert not (expected and made.edit.kind == "settings")
                check_output(made, here.sinks, None)
                runs.append(made)
            check_paid(here, runs)


@pytest.mark.parametrize("first", range(FIRST, LAST, 10))
def test_an_edit_recomputes_what_it_changes(first: int) -> None:
    for seed in range(first, min(first + 10, LAST)):
        check_edits(seed)


def numbered(key: str, what: str | bytes, before: int = 0) -> bytes:
    """Make a source row's id of its number, unless the user gave a key."""
    return source_id(key, what if isinstance(what, str) else "", before)


WRONG = {
    "settings that change no result count": ("engine.fingerprint.is_marked", lambda *_: False),
    "configuration does not count": ("engine.fingerprint.is_marked", lambda *_: True),
    "a row's id is its number": ("engine.runners.sources.source_id", numbered),
    "one model is as good as another": ("tests.sim.server.SimChat.identity", "sim"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_key_is_found(name: str) -> None:
    with mock.patch(*WRONG[name]), pytest.raises(AssertionError):
        for seed in range(40):
            check_edits(seed)
