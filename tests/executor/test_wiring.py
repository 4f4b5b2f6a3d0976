"""The four forms of `from`, with branches that run at their own pace."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import Row, Summary

pytestmark = pytest.mark.anyio
STAGES = Path(__file__).with_name("stages_kinds.py")
Write = Callable[..., Path]


async def go(path: Path, **options: Any) -> tuple[list[Row], Summary]:
    options.setdefault("store", None)
    async with engine.open(path, **options) as run:
        rows = [row async for row in run]
    return rows, run.summary


async def test_a_list_gives_all_rows_of_each_in_order(pipeline: Write) -> None:
    path = pipeline(
        """
stages:
  a: {use: ./stages.py:numbers, with: {count: 30}}
  b: {use: ./stages.py:numbers, with: {count: 20}}
  gate: {use: ./stages.py:gate, from: b}
  both: {use: ./stages.py:double, from: [a, gate], concurrency: 16}
  out: {use: dataset.write, with: {path: out.jsonl}}
""",
        stages=STAGES,
    )
    rows, summary = await go(path)
    assert [row["n"] for row in rows] == [*range(30), *(n for n in range(20) if n % 3)]
    assert len({row.row_id for row in rows}) == len(rows)
    assert summary.exit_code == 0


@pytest.mark.parametrize("store", [None, ":memory:"])
async def test_all_unites_the_branches_of_a_row(pipeline: Write, store: str | None) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: ./stages.py:numbers, with: {count: 40}}
  double: {use: ./stages.py:double, concurrency: 16}
  gate: {use: ./stages.py:gate, from: numbers, concurrency: 16}
  ranked: {use: ./stages.py:ranked, from: gate}
  united: {use: ./stages.py:again, from: {all: [double, ranked]}}
  out: {use: dataset.write, with: {path: out.jsonl}}
""",
        stages=STAGES,
    )
    rows, summary = await go(path, store=store)
    kept = [n for n in range(40) if n % 3]
    assert [row["n"] for row in rows] == kept  # in the order of the first branch
    assert [row["position"] for row in rows] == [len(kept) - 1 - i for i in range(len(kept))]
    united = summary.stages["united"]
    assert united.reasons == {"missing: ranked": 14}
    assert (united.received, united.out, united.rejected) == (40, 26, 14)
    assert summary.exit_code == 0


@pytest.mark.parametrize("store", [None, ":memory:"])
async def test_a_join_may_read_one_branch_to_its_end_first(
    pipeline: Write, store: str | None
) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: ./stages.py:numbers, with: {count: 3000}}
  left: {use: ./stages.py:double}
  right: {use: ./stages.py:again, from: left, with: {plus: 1}}
  pairs: {use: ./stages.py:zipped, from: {a: left, b: right}}
""",
        stages=STAGES,
    )
    rows, summary = await go(path, store=store)
    assert [(row["left"], row["right"]) for row in rows] == [
        (2 * n, 2 * n + 1) for n in range(3000)
    ]
    assert summary.exit_code == 0


async def test_take_and_give_rename_what_is_read_and_added(pipeline: Write) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: ./stages.py:numbers, with: {count: 3}}
  once: {use: ./stages.py:double, give: {doubled: twice}}
  more: {use: ./stages.py:double, take: {n: twice}, give: {doubled: four_times}}
""",
        stages=STAGES,
    )
    rows, _ = await go(path)
    assert sorted((r["n"], r["twice"], r["four_times"]) for r in rows) == [
        (0, 0, 0),
        (1, 2, 4),
        (2, 4, 8),
    ]


async def test_inputs_replace_the_first_stage_or_another(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers'}, double: {use: './stages.py:double'}, again: {use: './stages.py:again'}}",
        stages=STAGES,
    )
    for store in (None, ":memory:"):
        rows, _ = await go(path, inputs=[{"n": 5, "note": "kept"}], store=store)
        assert [(row["total"], row["note"]) for row in rows] == [(10, "kept")]

    async def later() -> Any:
        for n in (1, 2):
            yield {"n": n, "doubled": 7 * n}

    rows, _ = await go(path, inputs=later(), into="double")
    assert sorted(row["total"] for row in rows) == [7, 14]
    with pytest.raises(engine.StageError, match="lacks the field 'n'"):
        await go(path, inputs=[{"m": 1}])


async def test_a_list_within_a_list_loses_no_row(pipeline: Write) -> None:
    path = pipeline(
        """
stages:
  a: {use: ./stages.py:numbers, with: {count: 3}}
  b: {use: ./stages.py:numbers, with: {count: 4}}
  c: {use: ./stages.py:numbers, with: {count: 5}}
  ab: {use: ./stages.py:double, from: [a, b]}
  cc: {use: ./stages.py:double, from: c}
  abc: {use: ./stages.py:again, from: [ab, cc]}
  out: {use: dataset.write, with: {path: out.jsonl}}
""",
        stages=STAGES,
    )
    rows, summary = await go(path)
    assert [row["n"] for row in rows] == [*range(3), *range(4), *range(5)]
    assert summary.finished == 12
