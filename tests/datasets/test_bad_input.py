"""Bad input gets one sentence with its place, and most of it before a run."""

import gzip
import json
import lzma
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import engine
from engine.errors import EngineError, PipelineError
from engine.pipeline import read_pipeline

pytestmark = pytest.mark.anyio
Reads = Callable[..., Awaitable[Any]]
MANY = b"".join(
    b'{"q": "%d", "more": "%s"}\n' % (i, bytes(range(65, 90)) * (i % 7)) for i in range(9000)
)


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"q": ["a"]}), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("r.jsonl", b'{"q": 1}\n{"q": \n', ":2: not JSON: "),
        ("r.jsonl", b'{"q": 1}\n\xff\n', ":2: not UTF-8 (byte 0xff): save it as UTF-8"),
        ("r.jsonl", b'{"q": 1}\n[1]\n', ":2: a row is an object, not list"),
        ("r.jsonl", b'{"q": 1}\n{"q": NaN}', ":2: not JSON: NaN is not a JSON number"),
        ("r.jsonl", b'\n{"a": {"q": 1, "q": 1}}\n', ":2: not JSON: the key 'q' stands there twice"),
        ("r.jsonl", b"{\n", "is it one JSON value of many lines? say `format: json`"),
        ("r.jsonl", b'{"a": ' + b"[" * 100_000, ":1: not JSON: "),
        ("r.json", b'[{"q": 1}\n {"q": 2}]', ":2: not JSON: a row ends here, and neither `,` nor `]`"),
        ("r.json", b'[{"q": 1},\n {"q": }]', ":2: not JSON: "),
        ("r.json", b'[{"q": 1},\n\n NaN]', ":3: not JSON: NaN is not a JSON number"),
        ("r.json", b'[\n{"q": "\xe9"}]', ":2: not UTF-8"),
        ("r.json", b'{"q": 1}\n{"q": 2}', ":2: more follows after the first JSON value (is it JSON Lines?"),
        ("r.json", b"[{}] x", ":1: more follows"),
        ("r.json", b'{"q": 1}', "has one key whose value is the array: it has none"),
        ("r.json", b'{"q": [], "r": []}', "has one key whose value is the array: it has q and r"),
        ("r.json", b'"q"', "a JSON dataset is an array of objects"),
        ("r.json", b'[{"q": 1},\n 7]', ":2: a row is an object, not int"),
        ("r.csv", b'q,r\n1,2\n"1,\n2",3,4\n', ":3: 3 cells, and the header has 2: put what holds a comma"),
        ("r.csv", b"q,r\n1\n", ":2: 1 cells, and the header has 2"),
        ("r.csv", b"q,r,q\n", ":1: two columns are named 'q': rename one"),
        ("r.csv", b"q,,r\n", ":1: column 2 has no name"),
        ("r.csv", b'q\n"a" b\n', ":2: not CSV: "),
        ("r.csv", b'q\na\n"b', ":3: not CSV: unexpected end of data"),
        ("r.csv", b"q\n\xff\n", ":2: not UTF-8"),
        ("r.parquet", b"PAR1 no", "r.parquet: not Parquet, or cut short: "),
        ("r.parquet", parquet()[:-9], "r.parquet: not Parquet, or cut short: "),
        ("r.arrow", b"no", "r.arrow: not an Arrow stream, or cut short: "),
        ("r.jsonl.gz", gzip.compress(MANY)[:5000], "it is cut short: "),
        ("r.jsonl.gz", b'{"q": 1}\n', ":1: it cannot be read: Not a gzipped file"),
        ("r.jsonl.xz", lzma.compress(MANY)[:3000], "it is cut short: "),
        ("r.jsonl.zst", zstandard.compress(MANY)[:3000], "it is cut short: the last zstd frame has no end"),
        ("r.jsonl.zst", b'{"q": 1}\n', ":1: it cannot be read: "),
        ("r.txt", b"x", "the name 'r.txt' does not tell its format: give `format:`"),
        ("r.parquet.gz", b"x", "parquet in .gz: unpack it"),
        ("r.jsonl", b"\n", "r.jsonl has no rows"),
        ("r.jsonl", b'{"q": 1}\n{"add": 1}\n', ":2: no field can be named 'add': rename it"),
    ],
)  # fmt: skip
async def test_a_bad_file(reads: Reads, tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(EngineError) as caught:
        await reads(name)
    assert said in str(caught.value)
    assert name in str(caught.value)


async def test_rows_before_a_bad_line_are_not_lost(
    tmp_path: Path, pipeline: Callable[..., Path]
) -> None:
    (tmp_path / "r.jsonl").write_text('{"q": 1}\n' * 300 + "{\n")
    path = pipeline("stages: {read: {use: dataset.read, with: {path: r.jsonl}}}")
    rows = []
    with pytest.raises(EngineError, match=r"r\.jsonl:301: not JSON"):
        async with engine.open(path, store=":memory:") as run:
            async for row in run:
                rows.append(row)
    assert len(rows) == 300


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"path": "dta/*.jsonl"}, "no file matches .*dta/.*; did you mean 'data'?"),
        ({"path": "data/zzz*"}, r"no file matches .*data/zzz\* \(.*data has: a.csv, a.jsonl, b.parquet"),
        ({"path": "data/b.jsonl"}, "there is no file .*data/b.jsonl; did you mean 'a.jsonl'?"),
        ({"path": "data"}, r"neither `save_to_disk` nor dataset.write wrote: name its files, such as data/\*"),
        ({"path": ["data/a.jsonl", "data/*.jsonl"]}, "a.jsonl is named twice"),
        ({}, r"give either `path:` \(files\) or `hub:`"),
        ({"path": "data/a.jsonl", "hub": "o/n"}, "give either `path:`"),
        ({"path": "data/a.jsonl", "revision": "main"}, "`revision` and `streaming` are for `hub:`"),
        ({"path": "data/a.jsonl", "split": "train"}, "is no folder with splits: leave `split` out"),
        ({"path": "data/a.jsonl", "id_field": "qq"}, "has a field 'qq'; did you mean 'q'?"),
        ({"path": "data/a.jsonl", "numbers": ["q"]}, "a.jsonl is no CSV file"),
        ({"path": "data/a.csv", "numbers": ["r"]}, r"a.csv:1: no column 'r' \(`numbers`\); it has q"),
        ({"path": "data/a.csv", "numbers": ["q"]}, "a.csv:2: 'q' is 'x', which is no number"),
        ({"path": "data/b.parquet"}, "b.parquet: two columns are named 'q': rename one"),
        ({"path": "data/c.parquet"}, "the column 'q' is of the type duration.*, which a row cannot carry"),
        ({"path": "data/a.jsonl", "convert": "hh-rlhf"}, "'chosen' is not a text in all first rows"),
        ({"hub": "no name"}, "'no name' is no dataset's name: write `org/name`"),
        ({"hub": "o/n", "format": "json"}, "`format` and `numbers` are for files"),
        ({"path": "data/a.jsonl", "peek": 0}, "peek: it should be greater than 0"),
    ],
)  # fmt: skip
def test_what_validate_tells(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text('{"q": 1}\n')
    (data / "a.csv").write_text("q\nx\n")
    twice = pa.table([pa.array([1]), pa.array([2])], names=["q", "q"])
    pq.write_table(twice, data / "b.parquet")
    pq.write_table(pa.table({"q": pa.array([1], pa.duration("s"))}), data / "c.parquet")
    path = tmp_path / "p.yaml"
    stages = {"read": {"use": "dataset.read", "with": config}}
    path.write_text(json.dumps({"name": "p", "stages": stages}))
    with pytest.raises(PipelineError, match=said):
        read_pipeline(path)


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [("zstandard", "r.jsonl.zst", "zstd"), ("pyarrow", "r.parquet", "parquet")],
)
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, extra: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    path = tmp_path / "p.yaml"
    path.write_text(
        f"{{name: p, stages: {{r: {{use: dataset.read, with: {{path: {name}}}}}}}}}", "utf-8"
    )
    real = engine.datasets.files.find_spec
    monkeypatch.setattr(
        "engine.datasets.files.find_spec", lambda n: None if n == module else real(n)
    )
    with pytest.raises(PipelineError, match=rf"pip install 'st-engine\[{extra}\]'"):
        read_pipeline(path)


@pytest.mark.parametrize(
    ("read", "write"),
    [
        ("d/rows.jsonl", "d/rows.jsonl"),
        ("d/*.jsonl", "d/out.jsonl"),
        ("**/*.jsonl", "d/deep/out.jsonl"),
        ("[d/rows.jsonl, d/r*.jsonl]", "d/rest.jsonl"),
        ("d/rows.jsonl", "d"),
    ],
)
def test_no_stage_writes_what_another_reads(tmp_path: Path, read: str, write: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "rows.jsonl").write_text('{"q": 1}\n')
    read = read.replace("[d/rows.jsonl, d/r*", "[d/r*")
    stages = f"""
name: p
stages:
  read: {{use: dataset.read, with: {{path: {read if read[0] == "[" else f"'{read}'"}}}}}
  write: {{use: dataset.write, with: {{path: {write}, format: {"datasets" if write == "d" else "jsonl"}}}}}
"""
    (tmp_path / "p.yaml").write_text(stages)
    with pytest.raises(PipelineError, match="stage read .* reads this file, too"):
        read_pipeline(tmp_path / "p.yaml")
    fine = stages.replace(f"path: {write},", "path: elsewhere.jsonl,").replace(
        "format: datasets", "format: jsonl"
    )
    if "**" not in read:
        (tmp_path / "p.yaml").write_text(fine)
        read_pipeline(tmp_path / "p.yaml")


def test_no_folder_takes_the_place_of_another_stage_s_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": 1}\n')
    (tmp_path / "p.yaml").write_text(
        """
name: p
stages:
  read: {use: dataset.read, with: {path: rows.jsonl}}
  one: {use: dataset.write, with: {path: out/rows.jsonl}}
  two: {use: dataset.write, with: {path: out, format: datasets}}
"""
    )
    with pytest.raises(
        PipelineError, match=r"6:42: stage two .*: stage one .* writes this file, too"
    ):
        read_pipeline(tmp_path / "p.yaml")
