"""The page says what the code says, and its pipelines run."""

import gzip
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.datasets import (
    artifacts,
    attaching,
    files,
    grouping,
    packing,
    reading,
    sweeps,
    transcripts,
    writers,
    writing,
)
from engine.errors import PipelineError
from engine.loader import loads

PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text("utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def tables(heading: str) -> list[dict[str, list[str]]]:
    """The tables under a heading of any level: first cell -> the other cells."""
    level = heading.split(" ")[0]
    section = PAGE.split(f"\n{heading}\n", 1)[1]
    section = re.split(rf"\n#{{1,{len(level)}}} ", section, maxsplit=1)[0]
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
            for line in table.splitlines()
        ]
        found.append({row[0].strip("`"): row[1:] for row in rows[2:]})
    return found


def shown(default: Any) -> str:
    match default:
        case inspect.Parameter.empty:
            return "required"
        case None:
            return "none"
        case ():
            return "`[]`"
        case bool():
            return f"`{str(default).lower()}`"
    return f"`{default}`"


@pytest.mark.parametrize(
    ("heading", "func"),
    [
        ("## `dataset.read`", reading.read),
        ("## `dataset.write`", writing.write),
        ("## `artifact.write`", artifacts.write),
        ("## `dataset.pack`", packing.pack),
        ("## `dataset.attach`", attaching.attach),
        ("## `rows.gather`", grouping.gather),
        ("## `sweep.grid`", sweeps.grid),
    ],
)
def test_every_parameter_is_documented_with_its_default(heading: str, func: Any) -> None:
    rows = tables(heading)[0]
    config = engine.stages.stage_spec(func).config
    assert list(rows) == list(config)
    for name, (_, default) in config.items():
        assert rows[name][0] == shown(default), name
        assert rows[name][1].endswith("."), name


def test_the_formats_are_the_code_s() -> None:
    read = tables("### Files")[0].values()
    assert set(re.findall(r"`(\.\w+)`", " ".join(cells[0] for cells in read))) == set(
        files.SUFFIXES
    )
    packed = PAGE.split("Text files may be packed: ")[1].split("\n")[0]
    assert re.findall(r"`(\.\w+)`", packed) == list(files.PACKED)
    written = tables("## `dataset.write`")[1]
    assert list(written) == ["jsonl", "parquet", "datasets"]
    assert re.findall(r"\.jsonl(\.\w+)", written["jsonl"][0]) == list(files.PACKED)
    assert f"{writers.GROUP:,} rows a group" in written["parquet"][1]
    assert f"{writers.SHARD:,} rows a file" in written["datasets"][1]


def test_the_reasons_are_the_code_s() -> None:
    source = inspect.getsource(transcripts)
    told = [reason.removeprefix("chosen: ") for reason in tables("### hh-rlhf")[0]]
    assert all(f'"{reason}"' in source for reason in told)
    returned = re.findall(r'return "(.*)"$|Reject\("(.*?)"|else "(ends.*)"', source, re.MULTILINE)
    assert sorted(told) == sorted("".join(groups) for groups in returned)


DRAWING = '''
from collections.abc import AsyncIterator

from engine import Artifact, Context, Row, Text, stage


class Drawing(Row):
    name: Text
    drawing: Artifact


@stage("my.draw")
async def draw(*, names: tuple[str, ...], ctx: Context) -> AsyncIterator[Drawing]:
    """Draw some names."""
    for name in names:
        with ctx.blobs.new("image/svg+xml") as blob:
            blob.path.write_text(f"<svg>{name}</svg>")
        yield Drawing(Text(name), blob.artifact)
'''


@pytest.mark.anyio
async def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "data").mkdir()
    pair = [f"\n\nHuman: Hi.\n\nAssistant: {reply}" for reply in ("Ho.", "No.")]
    line = json.dumps({"chosen": pair[0], "rejected": pair[1]}) + "\n"
    for name in ("data/a.jsonl.gz", "pairs.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(line.encode()))
    for name in ("pairs.jsonl", "held_out.jsonl"):
        (tmp_path / name).write_text(line)
    (tmp_path / "drawing.py").write_text(DRAWING)
    game = {"game": "go", "split": "train", "prompt": "?", "chosen": "a", "rejected": "b"}
    (tmp_path / "games.jsonl").write_text(json.dumps(game) + "\n")
    ran = 0
    for block in BLOCKS:
        stages = loads(block).value["stages"]
        path = tmp_path / "p.yaml"
        path.write_text(f"name: page\n{block}")
        if "hub" in stages.get("write", {"with": {}})["with"]:
            with pytest.raises(PipelineError, match="HF_TOKEN is not set"):
                await engine.run(path, store=":memory:")
        else:
            summary = await engine.run(path, store=":memory:")
            assert (summary.exit_code, summary.rejected) == (0, 0)
            assert summary.finished > 0
        ran += 1
    assert ran == 7
    made = {"rows.parquet", "preferences", "circle.svg", "square.svg"}
    assert all((tmp_path / "out" / name).exists() for name in made)
