"""`rows:` of `dataset.read`: some rows of the files, under the ids that they have without it."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import PipelineError
from engine.pipeline import read_pipeline

pytestmark = pytest.mark.anyio
Reads = Callable[..., Awaitable[Any]]
ROWS = [{"n": n % 4, "q": str(n % 4)} for n in range(11)]
"""Each row three times but one, which is there twice: ids count the equal rows before."""


def written(folder: Path, kind: str) -> Any:
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet", row_group_size=4)
        return "rows.parquet"
    for i, part in enumerate((ROWS[:5], ROWS[5:])):
        (folder / f"{i}.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in part))
    return ["0.jsonl", "1.jsonl"]


def ids(found: Any) -> list[str]:
    return [row.row_id for row in found.rows]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
async def test_slices_are_python_s_and_change_no_id(
    reads: Reads, tmp_path: Path, kind: str
) -> None:
    path = written(tmp_path, kind)
    whole = await reads(path)
    for text in ("0:7", "3:", ":3", "-3:", ":-3", "-9:-4", "2:-2", "-4:9", "8:99", "-99:2", ":"):
        start, stop = (int(bound) if bound else None for bound in text.split(":"))
        found = await reads(path, rows=text)
        assert ids(found) == ids(whole)[start:stop], text
        assert [row["n"] for row in found.rows] == [row["n"] for row in ROWS[start:stop]], text
        assert found.fields == whole.fields
    for text in ("7:3", "20:", "0:0"):
        assert ids(await reads(path, rows=text)) == []


async def test_ids_of_a_field_s_own(reads: Reads, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"id": f"k{n}"}) + "\n" for n in range(6))
    (tmp_path / "rows.jsonl").write_text(lines)
    whole = await reads("rows.jsonl", id_field="id")
    assert ids(await reads("rows.jsonl", id_field="id", rows="2:4")) == ids(whole)[2:4]


async def test_rejected_rows_count_where_they_stand(reads: Reads, tmp_path: Path) -> None:
    lines = ['{"n": 1}', '{"n": "one"}', '{"n": 3}', '{"n": "two"}', '{"n": 5}', "no JSON"]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    found = await reads("rows.jsonl", peek=1, rows="2:5")
    assert [row["n"] for row in found.rows] == [3, 5]
    assert found.reasons == {"n: text, not integer": 1}, "of the rows asked for"


@pytest.mark.parametrize("rows", ["", "5", "1:2:3", "a:b", "-:3", "1 : 2", "1:2\n"])
def test_what_is_no_slice_is_told(tmp_path: Path, rows: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"n": 1}\n')
    stages = {"read": {"use": "dataset.read", "with": {"path": "rows.jsonl", "rows": rows}}}
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "stages": stages}))
    with pytest.raises(PipelineError, match='rows: .* is no slice: write "START:STOP"'):
        read_pipeline(tmp_path / "p.yaml")


def test_it_is_a_text_without_quotes_too(tmp_path: Path) -> None:
    """YAML 1.1 reads `0:1700` as a number of base 60."""
    (tmp_path / "rows.jsonl").write_text('{"n": 1}\n')
    (tmp_path / "p.yaml").write_text(
        "name: p\nstages: {read: {use: dataset.read, with: {path: rows.jsonl, rows: 1:17}}}\n"
    )
    assert read_pipeline(tmp_path / "p.yaml").stages["read"].config["rows"] == "1:17"


def test_from_the_end_of_a_stream_is_told(tmp_path: Path) -> None:
    stages = {"read": {"use": "dataset.read", "with": {"hub": "o/n", "streaming": True, "rows": "-3:"}}}  # fmt: skip
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "stages": stages}))
    with pytest.raises(PipelineError, match="'-3:' counts from the end, which is not known with"):
        read_pipeline(tmp_path / "p.yaml")
