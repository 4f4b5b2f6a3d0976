"""Every kind of stage moves, rejects and counts rows as the house says, in any order of arrival."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import Row, StageError, Summary

pytestmark = pytest.mark.anyio
STAGES = Path(__file__).with_name("stages_kinds.py")
Write = Callable[..., Path]


async def go(path: Path, **options: Any) -> tuple[list[Row], Summary]:
    options.setdefault("store", None)
    async with engine.open(path, **options) as run:
        rows = [row async for row in run]
    return rows, run.summary


@pytest.mark.parametrize("concurrency", [1, 3, 64])
@pytest.mark.parametrize("store", [None, ":memory:"])
async def test_a_map_adds_fields_to_each_row(
    pipeline: Write, concurrency: int, store: str | None
) -> None:
    path = pipeline(
        f"""
stages:
  numbers: {{use: ./stages.py:numbers, with: {{count: 50}}}}
  double: {{use: ./stages.py:double, concurrency: {concurrency}}}
""",
        stages=STAGES,
    )
    rows, summary = await go(path, store=store)
    assert sorted((row["n"], row["doubled"]) for row in rows) == [(n, 2 * n) for n in range(50)]
    assert (summary.status, summary.exit_code, summary.finished) == ("done", 0, 50)
    assert summary.stages["double"].received == summary.stages["double"].out == 50


async def test_a_gate_rejects_with_a_reason_and_three_examples(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers'}, gate: {use: './stages.py:gate', with: {modulo: 4}}}",
        stages=STAGES,
    )
    rows, summary = await go(path)
    assert len(rows) == 15
    gate = summary.stages["gate"]
    assert (gate.received, gate.out, gate.rejected) == (20, 15, 5)
    assert gate.reasons == {"multiple of 4": 5}
    assert len(gate.examples["multiple of 4"]) == 3
    assert all(example.startswith("n=") for example in gate.examples["multiple of 4"])


async def test_a_poison_row_dies_and_the_run_goes_on(pipeline: Write) -> None:
    text = "stages: {numbers: {use: './stages.py:numbers'}, poison: {use: './stages.py:poison'}}"
    rows, summary = await go(pipeline(text, stages=STAGES))
    assert len(rows) == 19
    assert (summary.dead, summary.exit_code) == (1, 3)
    rows, summary = await go(pipeline("max_dead: 1\n" + text, stages=STAGES))
    assert summary.exit_code == 0


async def test_a_stage_may_fail_the_run_instead(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers'}, poison: {use: './stages.py:poison', on_error: fail}}",
        stages=STAGES,
    )
    run = engine.open(path, store=None)
    with pytest.raises(
        StageError, match="stage poison, row [0-9a-f]{32}: ValueError: poison 5"
    ) as caught:
        async with run:
            async for _ in run:
                pass
    assert isinstance(caught.value.__cause__, ValueError)
    assert run.summary.status == "failed"
    assert run.summary.exit_code == 1


async def test_attempts_are_counted_and_the_last_one_decides(pipeline: Write) -> None:
    text = "stages: {{numbers: {{use: './stages.py:numbers', with: {{count: 4}}}}, flaky: {{use: './stages.py:flaky', retry: {retry}, with: {{good_attempt: 3}}}}}}"
    rows, summary = await go(pipeline(text.format(retry=3), stages=STAGES))
    assert [row["doubled"] for row in rows] == [3, 3, 3, 3]
    assert summary.stages["flaky"].retries == 8
    rows, summary = await go(pipeline(text.format(retry=2), stages=STAGES))
    assert (rows, summary.dead) == ([], 4)


async def test_a_row_whose_last_attempt_is_refused_is_rejected_not_dead(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {count: 3}}, refused: {use: './stages.py:refused'}}",
        stages=STAGES,
    )
    rows, summary = await go(path)
    assert (rows, summary.rejected, summary.dead) == ([], 3, 0)
    assert summary.stages["refused"].reasons == {"garbage": 3}


@pytest.mark.parametrize("store", [None, ":memory:"])
async def test_an_expand_makes_children_and_counts_the_rejected_ones(
    pipeline: Write, store: str | None
) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {count: 8}}, children: {use: './stages.py:children', with: {count: 3}}}",
        stages=STAGES,
    )
    rows, summary = await go(path, store=store)
    expected = [10 * n + i for n in range(8) for i in range(3) if not (i == 1 and n % 4 == 0)]
    assert sorted(row["child"] for row in rows) == expected
    c = summary.stages["children"]
    assert (c.received, c.expanded, c.yielded, c.out, c.rejected_children) == (8, 8, 24, 22, 2)
    assert all("n" in row for row in rows)  # the parent's fields ride along
    assert len({row.row_id for row in rows}) == 22


async def test_an_expand_that_rejects_midway_keeps_its_children(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {count: 4}}, half: {use: './stages.py:half'}}",
        stages=STAGES,
    )
    rows, summary = await go(path)
    assert sorted(row["child"] for row in rows) == [0, 1, 10, 20, 21, 30]
    assert (summary.stages["half"].expanded, summary.stages["half"].rejected) == (2, 2)


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_batch_is_cut_in_order_and_halved_down_to_the_guilty_row(
    pipeline: Write, concurrency: int
) -> None:
    path = pipeline(
        f"""
stages:
  numbers: {{use: ./stages.py:numbers, with: {{count: 18}}}}
  double: {{use: ./stages.py:double}}
  batched: {{use: ./stages.py:batched, batch: 4, retry: 1, concurrency: {concurrency}}}
""",
        stages=STAGES,
    )
    rows, summary = await go(path)
    sizes = {row["n"]: row["total"] for row in rows}
    # 0 is rejected, 7 is dead; its batch 4..7 is halved: (4, 5), then 6 alone
    assert sizes == dict.fromkeys((1, 2, 3, *range(8, 16)), 4) | {4: 2, 5: 2, 6: 1, 16: 2, 17: 2}
    assert (summary.rejected, summary.dead) == (1, 1)


async def test_streams_keep_add_or_make_rows(pipeline: Write) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: ./stages.py:numbers, with: {count: 9, keyed: false}}
  distinct: {use: ./stages.py:distinct}
  ranked: {use: ./stages.py:ranked}
  summed: {use: ./stages.py:summed, from: ranked}
""",
        stages=STAGES,
    )
    rows, summary = await go(path)
    assert [dict(row.fields) for row in rows] == [{"total": 3}]
    assert (summary.stages["distinct"].kept, summary.stages["distinct"].rejected) == (3, 6)
    assert (summary.stages["ranked"].kept, summary.stages["summed"].consumed) == (3, 3)
    rows, _ = await go(path, set=["stages.summed.from=distinct"])
    ranked = [row for row in rows if "position" in row]
    assert [(row["position"], row["n"]) for row in ranked] == [(0, 2), (1, 1), (2, 0)]


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("fresh_in_rows", "yielded Number .*where it may yield a row that it received"),
        ("twice", "yielded Number .*each once"),
    ],
)
async def test_a_stream_that_yields_anything_else_fails_the_run(
    pipeline: Write, use: str, said: str
) -> None:
    path = pipeline(
        f"stages: {{numbers: {{use: './stages.py:numbers'}}, wrong: {{use: './stages.py:{use}'}}}}",
        stages=STAGES,
    )
    with pytest.raises(StageError, match=said):
        await go(path)


async def test_a_map_that_returns_another_type_is_a_dead_letter_that_says_so(
    pipeline: Write,
) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {count: 1}}, wrong: {use: './stages.py:wrong_type'}}",
        stages=STAGES,
    )
    _, summary = await go(path)
    (reason,) = summary.stages["wrong"].reasons
    assert "returned Total, where Doubled is declared" in reason


@pytest.mark.parametrize("store", [None, ":memory:"])
async def test_a_sink_sees_rows_in_order_whatever_overtakes_whatever(
    pipeline: Write, store: str | None
) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: ./stages.py:numbers, with: {count: 200}}
  gate: {use: ./stages.py:gate, concurrency: 16}
  double: {use: ./stages.py:double, concurrency: 16}
  children: {use: ./stages.py:children, concurrency: 16}
  sink: {use: dataset.write, with: {path: out.jsonl, fields: [child]}}
""",
        stages=STAGES,
    )
    rows, summary = await go(path, store=store)
    expected = [
        10 * n + i for n in range(200) if n % 3 for i in range(2) if not (i == 1 and n % 4 == 0)
    ]
    import json

    written = [
        json.loads(line)["child"] for line in path.with_name("out.jsonl").read_text().splitlines()
    ]
    assert written == expected
    assert summary.finished == len(rows) == len(expected)
    assert [row["child"] for row in rows] == expected


async def test_two_sinks_count_a_row_once(pipeline: Write) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: ./stages.py:numbers}
  one: {use: dataset.write, with: {path: 1.jsonl}}
  two: {use: dataset.write, with: {path: 2.jsonl}}
""",
        stages=STAGES,
    )
    rows, summary = await go(path)
    assert len(rows) == summary.finished == 20
    assert path.with_name("1.jsonl").read_bytes() == path.with_name("2.jsonl").read_bytes()


async def test_limit_takes_the_first_rows_with_the_same_ids(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {keyed: false}}}", stages=STAGES
    )
    rows, _ = await go(path)
    first, summary = await go(path, limit=5)
    assert [row.row_id for row in first] == [row.row_id for row in rows[:5]]
    assert len({row.row_id for row in rows}) == 20  # equal rows are told apart by count
    assert summary.exit_code == 0


async def test_a_source_row_that_is_empty_and_an_empty_source(pipeline: Write) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: ./stages.py:numbers, with: {count: 0}}
  children: {use: ./stages.py:children}
  batched: {use: ./stages.py:batched}
  summed: {use: ./stages.py:summed}
""",
        stages=STAGES,
    )
    rows, summary = await go(path)
    assert [row["total"] for row in rows] == [0]
    assert summary.exit_code == 0


async def test_what_a_row_cannot_carry_is_the_fault_of_the_stage_that_made_it(
    pipeline: Write,
) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: ./stages.py:numbers, with: {count: 3}}
  nan: {use: ./stages.py:nan}
  out: {use: dataset.write, with: {path: out.jsonl}}
""",
        stages=STAGES,
    )
    _, summary = await go(path, store=":memory:")
    assert (summary.finished, summary.stages["nan"].dead) == (2, 1)
    (reason,) = summary.stages["nan"].reasons
    assert "field 'ratio': a row cannot carry nan" in reason


QUITS = "stages: {numbers: {use: './stages.py:numbers', with: {count: 3}}, quits: {use: './stages.py:quits', with: {raised: WHAT}}}"


async def test_a_stage_cannot_end_its_host(pipeline: Write) -> None:
    path = pipeline(QUITS.replace("WHAT", "SystemExit"), stages=STAGES)
    rows, summary = await go(path)
    assert (len(rows), summary.dead) == (2, 1)


async def test_an_interrupt_inside_a_stage_ends_the_run_and_not_the_row(pipeline: Write) -> None:
    path = pipeline(QUITS.replace("WHAT", "KeyboardInterrupt"), stages=STAGES)
    with pytest.raises(StageError, match="interrupted"):
        await go(path)


@pytest.mark.parametrize("store", [None, ":memory:"])
async def test_a_verdict_of_a_child_task_is_the_rows_verdict(
    pipeline: Write, store: str | None
) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {count: 3}}, nested: {use: './stages.py:nested'}}",
        stages=STAGES,
    )
    _, summary = await go(path, store=store)
    assert (summary.rejected, summary.dead) == (3, 0)
    assert summary.stages["nested"].reasons == {"in a child task": 3}


async def test_a_fresh_stream_tells_of_a_row_once(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {count: 3}}, wrong: {use: './stages.py:rejects_twice'}}",
        stages=STAGES,
    )
    with pytest.raises(StageError, match="yielded Reject"):
        await go(path)


async def test_two_children_may_not_have_one_key(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {count: 1}}, same: {use: './stages.py:same_key', retry: 1}}",
        stages=STAGES,
    )
    _, summary = await go(path)
    (reason,) = summary.stages["same"].reasons
    assert "two children have the key 'k'" in reason


async def test_an_observer_that_fails_changes_nothing(pipeline: Write) -> None:
    from engine.pipeline import read_pipeline

    class Broken:
        @engine.hookimpl
        def engine_event(self, event: object) -> None:
            raise ZeroDivisionError

    checked = read_pipeline(
        pipeline("stages: {numbers: {use: './stages.py:numbers'}}", stages=STAGES)
    )
    checked.plugins.register("broken", Broken())
    assert (await engine.run(checked, store=None)).finished == 20


async def test_a_run_is_entered_once_and_before_it_is_read(pipeline: Write) -> None:
    run = engine.open(
        pipeline("stages: {numbers: {use: './stages.py:numbers'}}", stages=STAGES), store=None
    )
    with pytest.raises(RuntimeError, match="has not begun"):
        await run.finish()
    async with run:
        await run.finish()
    with pytest.raises(RuntimeError, match="entered once"):
        await run.__aenter__()


async def test_a_row_that_lacks_what_the_first_rows_had_dies_by_name(pipeline: Write) -> None:
    lines = ['{"n": 1}'] * 100 + ['{"m": 2}', '{"n": 3}']
    path = pipeline(
        "stages: {read: {use: dataset.read, with: {path: rows.jsonl}}, double: {use: './stages.py:double'}}",
        stages=STAGES,
    )
    path.with_name("rows.jsonl").write_text("\n".join(lines))
    rows, summary = await go(path)
    assert (len(rows), summary.dead) == (101, 1)
    (reason,) = summary.stages["double"].reasons
    assert "the row has no 'n'" in reason
