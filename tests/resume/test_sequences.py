"""Expands, batches and streams over an interruption, and when what they read changes."""

import json
import sys
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from engine import StageError, StoreError
from engine.store import find_runs

pytestmark = pytest.mark.anyio
Make = Callable[..., Any]

NUMBERS = "  numbers: {use: ./stages.py:numbers, with: {count: 12}}\n"
KEYED = "  numbers: {use: ./stages.py:numbers, with: {keyed: true, count: 12}}\n"
OUT = "  out: {use: dataset.write, with: {path: out.jsonl}}\n"


async def test_an_expand_that_is_interrupted_midway_keeps_its_children(lab: Make) -> None:
    parts = "  parts: {use: ./stages.py:parts, concurrency: 1}\n"
    word = "  word: {use: ./stages.py:word, take: {n: part}}\n"
    whole, it = lab(NUMBERS + parts + word + OUT, "whole"), lab(NUMBERS + parts + word + OUT, "it")
    await whole.run()
    rows = len(whole.output["out.jsonl"].splitlines())
    async with it.open("stages.parts.with.stop=1") as run:  # stands still before a second child
        while run.counters["word"].out < 2:
            await anyio.lowlevel.checkpoint()
    assert it.calls == {"parts": 3, "word": 2}  # the rows 0, 1 and 2
    await it.run()
    assert it.calls == {"parts": 10, "word": rows - 2}, "from its start; children are not made anew"
    assert it.output == whole.output
    await it.run()
    assert it.calls == {}


async def test_a_batch_is_run_whole_if_one_of_its_rows_is_missing(lab: Make) -> None:
    it = lab(
        KEYED
        + "  part: {use: ./stages.py:cheap, give: {score: part}}\n"
        + "  score: {use: ./stages.py:score, batch: 4, concurrency: 1}\n"
    )
    short = await it.rows(limit=6)
    assert it.calls["score"] == 2
    assert [row["score"] for row in short] == [4, 4, 4, 4, 2, 2]
    every = await it.rows()
    assert it.calls["score"] == 2, "the first batch is reused, the second was cut short"
    assert [row["score"] for row in every] == [4] * 10 + [5] * 2
    await it.rows()
    assert it.calls["score"] == 0


async def test_a_dead_row_does_not_make_its_batch_incomplete(lab: Make) -> None:
    it = lab(KEYED + "  odd: {use: ./stages.py:odd_batch, batch: 4}\n")
    for _ in range(3):
        summary = await it.run()
        assert (summary.dead, summary.finished) == (1, 11)
    assert summary.stages["odd"].reused == 12


STREAMS = {
    "place": "  s: {use: ./stages.py:place}\n",  # Added
    "distinct": "  s: {use: ./stages.py:distinct}\n",  # rows received
    "totals": "  s: {use: ./stages.py:totals}\n",  # fresh rows
}


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_stream_is_replayed_while_what_it_reads_is_the_same(lab: Make, kind: str) -> None:
    word = "  word: {use: ./stages.py:word, take: {n: %s}}\n" % (
        "total" if kind == "totals" else "n"
    )
    it = lab(KEYED + STREAMS[kind] + word + OUT)
    first = await it.run()
    assert it.calls[kind] == 1
    output = it.output["out.jsonl"]
    again = await it.run()
    assert it.calls == {}
    assert it.output["out.jsonl"] == output
    s, t = first.stages["s"], again.stages["s"]
    assert (s.received, s.kept, s.rejected, s.consumed) == (
        t.received,
        t.kept,
        t.rejected,
        t.consumed,
    )
    assert t.reused == 12

    await it.run("stages.numbers.with.other=7")  # a field that it reads, too: `Number.other`
    assert it.calls[kind] == 1
    await it.run()
    assert it.calls == {}, "both results are kept"
    assert it.output["out.jsonl"] == output


async def test_a_stream_does_not_run_again_for_a_field_that_it_does_not_read(lab: Make) -> None:
    stages = KEYED + "  cheap: {use: ./stages.py:cheap}\n  place: {use: ./stages.py:place}\n" + OUT
    it = lab(stages)
    await it.run()
    before = [json.loads(line) for line in it.output["out.jsonl"].splitlines()]
    await it.run("stages.cheap.with.plus=50")
    assert it.calls["place"] == 0
    after = [json.loads(line) for line in it.output["out.jsonl"].splitlines()]
    assert [row["score"] for row in after] == [row["score"] + 5 for row in before]
    assert [row["place"] for row in after] == [row["place"] for row in before]


async def test_an_undeclared_field_does_not_escape_the_digest(lab: Make) -> None:
    it = lab(KEYED + "  cheap: {use: ./stages.py:cheap}\n  peek: {use: ./stages.py:peek}\n")
    with pytest.raises(StageError, match="KeyError: 'score'"):
        await it.run()


async def test_a_join_is_memoised_by_both_inputs(lab: Make) -> None:
    it = lab(
        "  a: {use: ./stages.py:numbers, with: {count: 9}}\n"
        "  b: {use: ./stages.py:numbers, with: {count: 7}}\n"
        "  totals: {use: ./stages.py:totals, from: b}\n"
        "  pairs: {use: ./stages.py:pairs, from: {a: a, b: totals}}\n" + OUT
    )
    await it.run()
    assert it.calls == {"totals": 1, "pairs": 1}
    output = it.output
    await it.run()
    assert it.calls == {}
    assert it.output == output
    await it.run("stages.a.with.count=10")
    assert it.calls == {"pairs": 1}
    await it.run("stages.b.with.count=8")
    assert it.calls == {"totals": 1}, "the eighth number adds nothing to the totals"
    await it.run("stages.b.with.count=9")
    assert it.calls == {"totals": 1, "pairs": 1}
    await it.run()
    assert it.calls == {}
    assert it.output == output


async def test_a_stream_that_was_interrupted_starts_again(lab: Make) -> None:
    it, whole = (
        lab(NUMBERS + STREAMS["place"] + OUT, "it"),
        lab(NUMBERS + STREAMS["place"] + OUT, "whole"),
    )
    await whole.run()
    it.write(NUMBERS + STREAMS["place"] + "  fails: {use: ./stages.py:fails, with: {at: 3}}\n")
    with pytest.raises(StageError, match="fails at 3"):
        await it.run()
    it.write(NUMBERS + STREAMS["place"] + OUT)
    await it.run()
    assert it.output == whole.output


async def test_rows_beyond_memory_wait_in_the_store(
    lab: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.channels.HELD_IN_MEMORY", 5)
    stages = NUMBERS + "  word: {use: ./stages.py:word}\n" + STREAMS["place"] + OUT
    it = lab(stages.replace("count: 12", "count: 60"))
    await it.run()
    monkeypatch.undo()
    whole = lab(stages.replace("count: 12", "count: 60"), "whole")
    await whole.run()
    assert it.output == whole.output
    await it.run()
    assert it.calls == {}
    assert find_runs(it.folder / ".engine" / "test").read("SELECT count(*) FROM spool") == (0,)


async def test_the_command_line_exits_with_4_when_the_store_is_in_use(lab: Make) -> None:
    it = lab(NUMBERS + "  word: {use: ./stages.py:word}\n")
    async with it.open():
        found = await anyio.run_process(
            [
                sys.executable,
                "-c",
                "from engine.cli import main; main()",
                "run",
                str(it.path),
                "-q",
            ],
            check=False,
        )
    assert found.returncode == 4
    assert "is in use by process" in found.stderr.decode()


async def test_a_damaged_store_is_a_sentence(lab: Make) -> None:
    it = lab(NUMBERS + "  word: {use: ./stages.py:word}\n" + OUT)
    await it.run()
    store = it.folder / ".engine" / "test" / "store.sqlite"
    store.write_bytes(store.read_bytes()[:1000] + b"\0" * 60_000)
    with pytest.raises(StoreError, match="store"):
        await it.run()
