"""What `dataset.write` writes: bytes that depend on the rows alone, whole or not at all."""

import gzip
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

import engine
from engine.datasets import writers
from engine.errors import EngineError, PipelineError
from engine.pipeline import read_pipeline

pytestmark = pytest.mark.anyio
Writes = Callable[..., Awaitable[engine.Summary]]
ROWS = [{"q": f"number {i}", "n": i} for i in range(3)]
TYPES = {"q": "Text", "n": "int"}


def digests(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def hidden(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("name", "unpack"),
    [
        ("o.jsonl", bytes),
        ("o.jsonl.gz", gzip.decompress),
        ("o.jsonl.zst", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
    ],
)
async def test_json_lines(writes: Writes, tmp_path: Path, name: str, unpack: Any) -> None:
    await writes(ROWS, TYPES, name, fields=["n", "q"])
    data = (tmp_path / name).read_bytes()
    lines = [json.loads(line) for line in unpack(data).splitlines()]
    assert [list(line.items()) for line in lines] == [[("n", r["n"]), ("q", r["q"])] for r in ROWS]
    before = (tmp_path / name).stat()
    await writes(ROWS, TYPES, name, fields=["n", "q"])
    after = (tmp_path / name).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    await writes(ROWS[:2], TYPES, name, fields=["n", "q"])
    assert (tmp_path / name).read_bytes() != data
    assert not hidden(tmp_path)
    if name.endswith(".gz"):
        assert data[4:8] == bytes(4)  # no time in the header
        assert not data[3] & 8  # and no name


async def test_every_field_is_written_or_it_is_told(writes: Writes, tmp_path: Path) -> None:
    rows = [{"q": "a", "n": 1}, {"q": "b", "n": 2, "rare": True}]
    await writes(rows, TYPES, "o.jsonl")
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"q": "b", "n": 2, "rare": True}
    with pytest.raises(
        EngineError, match="has the field 'rare', which is no column, as other rows"
    ):
        await writes(rows, TYPES, "o.parquet")
    assert not (tmp_path / "o.parquet").exists()
    await writes(rows, TYPES, "o.parquet", fields=["q"])
    assert pq.read_table(tmp_path / "o.parquet").to_pydict() == {"q": ["a", "b"]}


async def test_a_value_that_is_no_column_s_is_told(writes: Writes, tmp_path: Path) -> None:
    rows = [*ROWS, {"q": "x", "n": "seven"}]
    with pytest.raises(EngineError, match="column 'n' is integer, and a row holds 'seven' there"):
        await writes(rows, TYPES, "o.parquet")
    with pytest.raises(EngineError, match="column 'n' is integer, and a row holds 1000"):
        await writes([{"q": "x", "n": 10**30}], TYPES, "o.parquet")
    await writes([{"q": "x", "n": 10**30}], TYPES, "o.jsonl")
    assert json.loads((tmp_path / "o.jsonl").read_text()) == {"q": "x", "n": 10**30}
    assert not (tmp_path / "o.parquet").exists()
    with pytest.raises(
        EngineError, match="JSON has no bytes: leave the field out, or write Parquet"
    ):
        await writes([{"a": b"x"}], {"a": "Any"}, "p.jsonl")


async def test_a_folder_with_a_card(
    writes: Writes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "GROUP", 2)
    monkeypatch.setattr(writers, "SHARD", 4)
    monkeypatch.setattr("engine.datasets.writing.GROUP", 2)
    rows = [{"q": f"number {i} \ud800", "n": i} for i in range(5)]
    config = {"format": "datasets", "license": "mit", "tags": ["cats", "no"]}
    summary = await writes(rows, TYPES, "out", **config)
    assert summary.stages["write"].sanitised == {"q": 5}
    assert set(digests(tmp_path / "out")) == {
        "README.md",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    }
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "pretty_name": "writes",
        "license": "mit",
        "tags": ["cats", "no"],
        "size_categories": ["n<1K"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-*"}],
            }
        ],
    }
    assert "5 rows, written by the stage `write` of the pipeline `writes`" in card
    assert "| `q` | text |\n| `n` | integer |" in card
    assert "| `given` | `my.given` | 5 | 0 | 0 |" in card
    assert str(tmp_path) not in card
    one = digests(tmp_path / "out")
    inode = (tmp_path / "out").stat().st_ino
    await writes(rows, TYPES, "out", **config)
    assert (tmp_path / "out").stat().st_ino == inode
    await writes(rows[:4], TYPES, "out", **config)  # one file instead of two: none is left over
    assert set(digests(tmp_path / "out")) == {"README.md", "data/train-00000-of-00001.parquet"}
    await writes(rows, TYPES, "out", **config)
    assert digests(tmp_path / "out") == one
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(EngineError, match="holds 'notes.txt', which would be lost: move it away"):
        await writes(rows[:4], TYPES, "out", **config)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


SIFT = '''
from engine import Reject, Row, Text, stage


@stage("my.sift")
async def sift(n: int) -> None:
    """Drop odd numbers, and fail at six."""
    if n % 2:
        raise Reject("odd | really")
    if n == 6:
        raise OSError("/home/me has gone")
'''


async def test_the_card_tells_what_was_rejected(tmp_path: Path, pipeline: Any) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"n": {i}}}\n' for i in range(9)))
    path = pipeline(
        """
stages:
  read: {use: dataset.read, with: {path: rows.jsonl}}
  sift: {use: './stages.py:sift', retry: 1}
  out: {use: dataset.write, with: {path: out, format: datasets}}
  aside: {use: './stages.py:sift', from: read}
""",
        stages=SIFT,
    )
    async with engine.open(path, store=":memory:") as run:
        await run.finish()
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| `read` | `dataset.read` | 9 | 0 | 0 |\n| `sift` | `my.sift` | 4 | 4 | 1 |" in card
    assert "| `sift` | odd \\| really | 4 |" in card
    assert "/home" not in card
    assert "aside" not in card


async def test_a_broken_run_leaves_what_was_there(tmp_path: Path, pipeline: Any) -> None:
    (tmp_path / "rows.jsonl").write_text('{"n": 1}\n' * 3 + "{\n")
    for name, place, config in (
        ("o.jsonl", tmp_path / "o.jsonl", ""),
        ("o", tmp_path / "o" / "README.md", ", format: datasets"),
    ):
        place.parent.mkdir(exist_ok=True)
        place.write_text("older")
        path = pipeline(
            f"""
stages:
  read: {{use: dataset.read, with: {{path: rows.jsonl, peek: 1}}}}
  out: {{use: dataset.write, with: {{path: {name}{config}}}}}
"""
        )
        with pytest.raises(EngineError, match="not JSON"):
            await engine.run(path, store=":memory:")
        assert place.read_text() == "older"
    assert not hidden(tmp_path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"path": "out"}, "'out' does not say in which format to write: end it in .jsonl"),
        ({"path": "o.parquet.gz"}, "does not say in which format to write"),
        ({"path": "o.gz", "format": "parquet"}, "only JSON Lines are packed: leave .gz out"),
        ({"path": "o.jsonl", "fields": ["n", "n"]}, "fields: 'n' is named twice"),
        ({"path": "o.jsonl", "fields": ["m"]}, "fields: no row has 'm'"),
        ({"path": "o.jsonl", "hub": "o/n", "fields": ["n"]}, "`hub`, `private`, `license` and `tags` are for `format: da"),
        ({"path": "o.jsonl"}, "'b' is list of bytes, which JSON has not: leave it out of `fields:`"),
        ({"path": "o", "format": "datasets", "hub": "o/n"}, "HF_TOKEN is not set: export a token of the"),
        ({"path": "o", "format": "datasets", "hub": "name"}, "write whose it is, too: `org/name`"),
        ({"path": "o", "format": "datasets", "hub": "a b/c"}, "'a b/c' is no dataset's name"),
    ],
)  # fmt: skip
def test_what_validate_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], said: str
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "s.py").write_text(
        "from collections.abc import AsyncIterator\nfrom engine import Row, stage\n"
        "class B(Row):\n    n: int\n    b: list[bytes]\n"
        '@stage("s.s")\nasync def s() -> AsyncIterator[B]:\n    yield B(1, [b""])\n'
    )
    stages = {"s": {"use": "./s.py:s"}, "out": {"use": "dataset.write", "with": config}}
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "stages": stages}))
    with pytest.raises(PipelineError, match=said):
        read_pipeline(tmp_path / "p.yaml")
