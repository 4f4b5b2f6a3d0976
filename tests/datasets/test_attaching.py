"""`dataset.attach`: a file joins a row as a dataset."""

from collections.abc import Callable
from pathlib import Path

import pytest

import engine
from engine import Artifact, PipelineError, Row
from engine.datasets.attaching import attach
from engine.rows import Columns
from engine.testing import run_stage

pytestmark = pytest.mark.anyio


async def test_a_file_joins_each_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b"}\n{"prompt": "c", "chosen": "d"}\n')
    found = await run_stage(attach, [{"seed": 0}, {"seed": 1}], path=path)
    assert [row["seed"] for row in found] == [0, 1]
    assert {row["dataset"].digest for row in found} == {found[0]["dataset"].digest}
    assert [row["dataset_rows"] for row in found] == [2, 2]
    assert found.path(found[0]["dataset"]).read_bytes() == path.read_bytes()


async def test_it_takes_the_place_of_the_rows_own_dataset(
    pipeline: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "b.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    path = pipeline(
        "stages:\n"
        "  read: {use: dataset.read, with: {path: a.jsonl}}\n"
        "  pack: {use: dataset.pack}\n"
        "  more: {use: dataset.attach, with: {path: b.jsonl}}\n"
        "  held: {use: dataset.attach, with: {path: a.jsonl}, "
        "give: {dataset: held_out, dataset_rows: held_out_rows}}\n"
    )
    async with engine.open(path, store=":memory:") as run:
        fields = run.pipeline.stages["held"].fields
        assert Columns.of(fields["dataset"]) == Columns(("prompt", "chosen"))
        assert Columns.of(fields["held_out"]) == Columns(("text",))
        (row,) = [row async for row in run]
    assert isinstance(row["held_out"], Artifact)
    assert row["held_out"] != row["dataset"]
    assert (row["dataset_rows"], row["held_out_rows"]) == (1, 1)


@pytest.mark.parametrize("line", ["[1]", "{", "7"])
async def test_a_line_that_is_no_object(line: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(PipelineError, match=r"pairs\.jsonl:1: each line is to be a JSON object"):
        await run_stage(attach, [Row.of({"n": 1})], path=path)
