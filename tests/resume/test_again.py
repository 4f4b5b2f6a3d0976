"""Running again reuses what is still valid, does the rest, and writes the same bytes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import StageError, StoreError
from engine.store import find_runs

pytestmark = pytest.mark.anyio
Make = Callable[..., Any]

NUMBERS = "  numbers: {use: ./stages.py:numbers}\n"
KEYED = "  numbers: {use: ./stages.py:numbers, with: {keyed: true, count: 8}}\n"
OUT = "  out: {use: dataset.write, with: {path: out.jsonl}}\n"
ALL = (
    NUMBERS
    + """
  word: {use: ./stages.py:word}
  ask: {use: ./stages.py:ask, with: {llm: llm}}
  gate: {use: ./stages.py:gate}
  parts: {use: ./stages.py:parts}
  score: {use: ./stages.py:score, batch: 4}
  place: {use: ./stages.py:place}
  out: {use: dataset.write, with: {path: out.jsonl}}
  table: {use: dataset.write, with: {path: out.parquet, fields: [row_id, n, word, part, score, place]}}
"""
)


async def test_a_second_run_calls_nothing_and_writes_the_same(lab: Make) -> None:
    it = lab(ALL)
    first = await it.run()
    assert min(it.calls.values()) > 0
    assert set(it.calls) == {"word", "ask", "gate", "parts", "score", "place"}
    assert set(it.output) == {"out.jsonl", "out.parquet"}
    assert first.stages["ask"].refused > 0, "the pipeline has refusals in it"
    assert first.finished == len(it.output["out.jsonl"].splitlines()) > 10
    output = it.output
    for _ in range(2):
        for file in it.folder.glob("out.*"):
            file.unlink()
        again = await it.run()
        assert it.calls == {}
        assert it.output == output
        assert (again.finished, again.rejected) == (first.finished, first.rejected)
        assert again.stages["ask"].calls == 0
        for key, counters in again.stages.items():
            assert counters.reasons == first.stages[key].reasons


def paid(it: Any) -> int:
    """How many replies were paid for in this folder, ever."""
    store = find_runs(it.folder / ".engine" / "test")
    calls = sum(run.summary["stages"]["ask"]["calls"] for run in store.runs())
    store.close()
    return calls


@pytest.mark.parametrize("how", ["cancel", "error", "drain", "stop", "sink"])
async def test_interrupted_and_run_again_is_as_if_nothing_had_happened(lab: Make, how: str) -> None:
    whole, it = lab(ALL, "whole"), lab(ALL, "it")
    await whole.run()
    for at in (1, 25, 40):
        await it.stop(how, at)
        assert it.output.items() <= whole.output.items(), "no half-written file"
        assert not list(it.folder.glob(".out*"))
    await it.run()
    assert it.output == whole.output
    assert paid(it) == paid(whole), "no reply is paid for twice"


def test_law_of_resume(tmp_path_factory: pytest.TempPathFactory, lab_class: Any) -> None:
    whole = lab_class(tmp_path_factory.mktemp("whole"), ALL)
    anyio.run(whole.run)

    @settings(max_examples=8, deadline=None, derandomize=True)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["cancel", "stop", "sink"]), st.integers(1, 130)),
            min_size=1,
            max_size=3,
        ),
        st.integers(1, 9),
        st.sampled_from(["asyncio", "trio"]),
    )
    def law(stops: list[tuple[str, int]], width: int, backend: str) -> None:
        it = lab_class(tmp_path_factory.mktemp("it"), ALL)
        names = ("word", "ask", "gate", "parts", "score")
        wide = [f"stages.{name}.concurrency={width}" for name in names]

        async def main() -> None:
            for how, at in stops:
                await it.stop(how, at, *wide)
            await it.run()

        anyio.run(main, backend=backend)
        assert it.output == whole.output
        assert paid(it) == paid(whole)

    law()


async def test_limit_gives_a_prefix_with_the_same_ids(lab: Make) -> None:
    it = lab(NUMBERS + "  word: {use: ./stages.py:word}\n")
    some = await it.rows(limit=9)
    assert it.calls["word"] == 9
    every = await it.rows()
    assert it.calls["word"] == 21
    assert len({row["row_id"] for row in every}) == 30, "equal rows have ids of their own"
    assert {row["row_id"]: row for row in every}.items() >= {
        row["row_id"]: row for row in some
    }.items()


async def test_content_ids_outlive_the_order_and_keys_outlive_the_content(lab: Make) -> None:
    it = lab(KEYED + "  word: {use: ./stages.py:word}\n")
    keyed = {row["n"]: row["row_id"] for row in await it.rows()}
    assert {
        row["n"]: row["row_id"] for row in await it.rows("stages.numbers.with.other=1")
    } == keyed
    assert it.calls == {}, "what it reads has not changed"
    by_content = await it.rows("stages.numbers.with.keyed=false")
    changed = await it.rows("stages.numbers.with.keyed=false", "stages.numbers.with.other=1")
    assert not {row["row_id"] for row in by_content} & {row["row_id"] for row in changed}


async def test_a_changed_parameter_runs_what_it_changes(lab: Make) -> None:
    it = lab(
        KEYED
        + "  cheap: {use: ./stages.py:cheap, memo: true}\n"
        + "  word: {use: ./stages.py:word}\n"
        + "  gate: {use: ./stages.py:gate, take: {n: score}}\n"
    )
    await it.rows()
    assert it.calls == {"cheap": 8, "word": 8, "gate": 8}
    await it.rows("stages.cheap.with.plus=1")
    assert it.calls == {"cheap": 8}, "its results are the same: what is downstream is reused"
    await it.rows("stages.cheap.with.plus=3")
    assert it.calls == {"cheap": 8, "gate": 1}, "7 + 3 alone crosses ten"
    await it.rows("stages.word.with.suffix=x", "stages.cheap.with.plus=3")
    assert it.calls == {"word": 8}
    await it.rows()
    assert it.calls == {}, "and going back costs nothing"


async def test_concurrency_retries_and_timeouts_change_nothing(lab: Make) -> None:
    it = lab(NUMBERS + "  word: {use: ./stages.py:word}\n")
    await it.rows()
    await it.rows("stages.word.concurrency=2", "stages.word.retry=7", "stages.word.timeout=9")
    assert it.calls == {}


async def test_renaming_changes_no_key_and_a_reused_result_has_the_new_name(lab: Make) -> None:
    it = lab(NUMBERS + "  word: {use: ./stages.py:word}\n  parts: {use: ./stages.py:parts}\n" + OUT)
    await it.run()
    reads = it.output
    it.write(
        NUMBERS
        + "  word: {use: ./stages.py:word, give: {word: name}}\n"
        + "  parts: {use: ./stages.py:parts, give: {part: piece}}\n"
        + OUT
    )
    await it.run()
    assert it.calls == {}
    renamed = reads["out.jsonl"].replace(b'"word":', b'"name":').replace(b'"part":', b'"piece":')
    assert it.output == {"out.jsonl": renamed}
    it.write(
        "  numbers: {use: ./stages.py:numbers, give: {n: number}}\n"
        + "  word: {use: ./stages.py:word, take: {n: number}}\n"
        + "  parts: {use: ./stages.py:parts, take: {n: number}}\n"
        + OUT
    )
    await it.run()
    assert it.calls == {}
    assert it.output == {"out.jsonl": reads["out.jsonl"].replace(b'"n":', b'"number":')}


async def test_streams_rename_too(lab: Make) -> None:
    it = lab(NUMBERS + "  place: {use: ./stages.py:place}\n" + OUT)
    await it.run()
    before = it.output["out.jsonl"]
    it.write(NUMBERS + "  place: {use: ./stages.py:place, give: {place: rank}}\n" + OUT)
    await it.run()
    assert it.calls == {}
    assert it.output["out.jsonl"] == before.replace(b'"place":', b'"rank":')


async def test_fresh_starts_a_generation(lab: Make) -> None:
    it = lab(NUMBERS + "  word: {use: ./stages.py:word}\n" + OUT)
    await it.run()
    output = it.output
    await it.run(fresh=True)
    assert it.calls == {"word": 30}
    assert it.output == output
    await it.run()
    assert it.calls == {}, "the newest generation is resumed"
    runs = find_runs(it.folder / ".engine" / "test").runs()
    assert [run.generation for run in runs] == [1, 2, 2]


# --- failures ----------------------------------------------------------------------------------


async def test_a_dead_letter_stays_dead_until_its_key_changes(lab: Make) -> None:
    it = lab(KEYED + "  poison: {use: ./stages.py:poison}\n")
    first = await it.run()
    assert it.calls == {"poison": 10}, "three attempts for the guilty one"
    for _ in range(2):
        again = await it.run()
        assert it.calls == {}
        assert (again.dead, again.exit_code, again.finished) == (1, 3, 7)
        assert again.stages["poison"].reasons == first.stages["poison"].reasons
        (letter,) = find_runs(it.folder / ".engine" / "test").rows(fate="dead", run=1)
        (later,) = find_runs(it.folder / ".engine" / "test").rows(fate="dead", run=2)
        assert letter == later
        assert (letter.note["class"], letter.note["error"]) == (
            "ValueError",
            "ValueError: poison 3",
        )
    changed = await it.run("stages.poison.with.at=99")
    assert (changed.dead, changed.exit_code) == (0, 0)
    assert it.calls == {"poison": 8}
    (it.folder / "stages.py").write_text(
        (it.folder / "stages.py")
        .read_text()
        .replace('"t.poison", version="1"', '"t.poison", version="2"')
    )
    assert (await it.run()).dead == 1
    assert it.calls == {"poison": 10}


async def test_a_row_that_failed_the_run_is_tried_again(lab: Make) -> None:
    it = lab(
        KEYED + "  flaky: {use: ./stages.py:flaky, on_error: fail, with: {flag: down}}\n" + OUT
    )
    (it.folder / "down").touch()
    with pytest.raises(StageError, match="the network is down"):
        await it.run()
    (it.folder / "down").unlink()
    assert (await it.run()).exit_code == 0
    assert len(it.output["out.jsonl"].splitlines()) == 8


@pytest.mark.parametrize("memo", ["true", "false"])
@pytest.mark.parametrize("kind", ["nan", "set"])
async def test_a_value_that_a_row_cannot_carry_kills_that_row_alone(
    lab: Make, kind: str, memo: str
) -> None:
    it = lab(KEYED + f"  odd: {{use: ./stages.py:odd, memo: {memo}, with: {{kind: {kind}}}}}\n")
    for _ in range(2):
        summary = await it.run()
        assert (summary.finished, summary.dead) == (7, 1)
    for letter in find_runs(it.folder / ".engine" / "test").rows(fate="dead", run=1):
        assert re.search("value.* a row cannot carry", letter.note["error"])


async def test_such_a_value_of_a_batch_kills_that_row_alone(lab: Make) -> None:
    it = lab(KEYED + "  odd: {use: ./stages.py:odd_batch}\n")
    summary = await it.run()
    assert (summary.finished, summary.dead) == (7, 1)


async def test_counts_that_do_not_close_make_the_exit_code_non_zero(lab: Make) -> None:
    it = lab(KEYED + "  unlawful: {use: ./stages.py:unlawful}\n")
    with pytest.raises(StageError, match="stage unlawful: rows are unaccounted for: 9 in,"):
        await it.run()
    (record,) = find_runs(it.folder / ".engine" / "test").runs()
    assert record.status == "failed"


async def test_a_store_in_use_is_told_at_once(lab: Make) -> None:
    it = lab(NUMBERS + "  word: {use: ./stages.py:word}\n")
    async with it.open():
        with pytest.raises(StoreError, match="is in use by process"):
            await it.run()
    await it.run()


async def test_the_work_folder_is_kept_over_an_interruption(lab: Make) -> None:
    it = lab(
        "  numbers: {use: ./stages.py:numbers, with: {count: 3}}\n"
        "  work: {use: ./stages.py:work, with: {flag: stop}}\n"
    )
    (it.folder / "stop").touch()
    async with it.open() as run:
        while run.counters["work"].in_flight < 3:
            await anyio.lowlevel.checkpoint()
    (it.folder / "stop").unlink()
    assert [row["score"] for row in await it.rows()] == [1, 1, 1]
    assert list((it.folder / ".engine" / "test" / "work").iterdir()) == []


async def test_a_comment_in_the_stage_file_loses_nothing(lab: Make) -> None:
    it = lab(
        NUMBERS
        + "  word: {use: ./stages.py:word}\n  ask: {use: ./stages.py:ask, with: {llm: llm}}\n"
        + OUT
    )
    await it.run()
    output = it.output
    with (it.folder / "stages.py").open("a") as file:
        file.write("# a remark\n")
    await it.run()
    assert it.calls == {}
    assert it.output == output
    moved: Path = it.folder.rename(it.folder.with_name("moved"))
    it.folder, it.path = moved, moved / "p.yaml"
    await it.run()
    assert it.calls == {}
    assert it.output == output


async def test_two_rows_may_not_have_one_key(lab: Make) -> None:
    it = lab("  twins: {use: ./stages.py:twins}\n")
    with pytest.raises(StageError, match=r"stage twins, row .*: two rows have the key 'a'"):
        await it.run()
