"""`keep`: the results of a stage are accepted though it is not what it was, and the run says so."""

from collections.abc import Callable
from typing import Any

import pytest

from engine import InputError
from engine.store import find_runs

pytestmark = pytest.mark.anyio
Make = Callable[..., Any]

NUMBERS = "  numbers: {use: ./stages.py:numbers, with: {keyed: true, count: 8}}\n"
MORE = "stages.numbers.with.count=9"
OUT = "  out: {use: dataset.write, with: {path: out.jsonl}}\n"
KINDS = {
    "word": "  word: {use: ./stages.py:word}\n",
    "ask": "  word: {use: ./stages.py:word}\n  ask: {use: ./stages.py:ask, with: {llm: llm}}\n",
    "parts": "  parts: {use: ./stages.py:parts}\n",
    "score": "  parts: {use: ./stages.py:parts}\n  score: {use: ./stages.py:score, batch: 4}\n",
    "place": "  place: {use: ./stages.py:place}\n",
}


def renew(it: Any, stage: str, version: str = "2") -> None:
    """Change the code of a stage."""
    text = (it.folder / "stages.py").read_text()
    changed = text
    for old in "123":
        changed = changed.replace(
            f'"t.{stage}", version="{old}"', f'"t.{stage}", version="{version}"'
        )
    assert changed != text
    (it.folder / "stages.py").write_text(changed)


def accepted(it: Any, stage: str) -> list[list[str]]:
    """Return what each run said that it accepted."""
    store = find_runs(it.folder / ".engine" / "test")
    try:
        return [run.stages[stage]["accepted"] for run in store.runs()]
    finally:
        store.close()


@pytest.mark.parametrize("stage", KINDS)
async def test_every_kind_keeps(lab: Make, stage: str) -> None:
    it = lab(NUMBERS + KINDS[stage] + OUT)
    first = await it.run()
    assert it.calls[stage] > 0
    output = it.output
    renew(it, stage)
    kept = await it.run(keep=[f"stages.{stage}"])
    assert it.calls == {}
    assert it.output == output
    assert kept.stages[stage].reused == first.stages[stage].received
    assert len(accepted(it, stage)[1]) == 1
    await it.run()
    assert it.calls == {}, "a later run of the same stage goes on accepting them"
    assert accepted(it, stage)[1:] == accepted(it, stage)[1:2] * 2
    renew(it, stage, "3")
    await it.run()
    assert set(it.calls) == {stage}, "another change is another question"
    assert accepted(it, stage)[3] == []
    assert it.output == output


async def test_new_rows_are_recorded_as_what_the_stage_is_now(lab: Make) -> None:
    it = lab(NUMBERS + KINDS["word"] + OUT)
    await it.run()
    renew(it, "word")
    await it.run(MORE, keep=["stages.word"])
    assert it.calls == {"word": 1}
    renew(it, "word", "1")
    await it.run(MORE)
    assert it.calls == {"word": 1}, "the stage as it was does not know the new row"
    renew(it, "word", "3")
    await it.run(MORE, keep=["stages.word"])
    assert it.calls == {}
    assert len(accepted(it, "word")[3]) == 1, "of a stage that accepted nothing"


async def test_what_was_kept_is_kept_with_it(lab: Make) -> None:
    it = lab(NUMBERS + KINDS["word"] + OUT)
    await it.run()
    for version in "23":
        renew(it, "word", version)
        await it.run(keep=["stages.word"])
        assert it.calls == {}
    assert [len(older) for older in accepted(it, "word")] == [0, 1, 2]


async def test_a_run_without_keep_does_not_shut_the_door(lab: Make) -> None:
    it = lab(NUMBERS + KINDS["word"] + OUT)
    await it.run()
    renew(it, "word")
    await it.run(limit=2)
    assert it.calls == {"word": 2}
    await it.run(keep=["stages.word"])
    assert it.calls == {}, "two are new, six are old"


async def test_a_generation_accepts_nothing_of_an_older_one(lab: Make) -> None:
    it = lab(NUMBERS + KINDS["word"] + OUT)
    await it.run()
    renew(it, "word")
    await it.run(fresh=True)
    renew(it, "word", "3")
    await it.run(keep=["stages.word"])
    assert it.calls == {}
    first, second, third = accepted(it, "word")
    assert (first, second) == ([], [])
    assert len(third) == 1
    with pytest.raises(InputError, match="--fresh begins anew"):
        it.open(keep=["stages.word"], fresh=True)


async def test_dead_letters_and_rejected_rows_are_kept_as_they_were(lab: Make) -> None:
    it = lab(NUMBERS + "  gate: {use: ./stages.py:gate}\n  poison: {use: ./stages.py:poison}\n")
    first = await it.rows()
    counts = it.summary.rejected, it.summary.dead
    assert counts == (1, 1)
    renew(it, "gate")
    renew(it, "poison")
    assert await it.rows(keep=["stages.gate", "stages.poison"]) == first
    assert it.calls == {}
    assert (it.summary.rejected, it.summary.dead) == counts


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("stages.wrod", "has no stage 'wrod'; did you mean 'word'?"),
        ("word", "write stages.KEY"),
        ("stages.", "write stages.KEY"),
        ("stages.out", r"stage out \(dataset.write\) has no recorded results"),
        ("stages.numbers", "has no recorded results"),
    ],
)
async def test_what_cannot_be_kept_is_told(lab: Make, name: str, told: str) -> None:
    it = lab(NUMBERS + KINDS["word"] + OUT)
    with pytest.raises(InputError, match=told):
        it.open(keep=[name])
