"""`artifact.write`: files and folders out of the store, where the user wants them."""

import json
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.errors import EngineError, PipelineError
from engine.pipeline import read_pipeline

pytestmark = pytest.mark.anyio
MAKE = '''
from collections.abc import AsyncIterator

from engine import Artifact, Context, Row, Text, stage


class Made(Row):
    name: Text
    file: Artifact
    model: Artifact


@stage("my.make")
async def make(*, names: tuple[str, ...], word: str = "weights", ctx: Context) -> AsyncIterator[Made]:
    """Make a file and a folder a name."""
    for name in names:
        with ctx.blobs.new("text/plain") as file:
            file.path.write_text(word + name)
        with ctx.blobs.new("model", folder=True) as model:
            (model.path / "inner").mkdir()
            (model.path / "inner" / "w.bin").write_text(word + name)
            (model.path / "config.json").write_text("{}")
        yield Made(Text(name), file.artifact, model.artifact)
'''


def make(folder: Path, config: dict[str, Any], **given: Any) -> Path:
    (folder / "make.py").write_text(MAKE)
    stages = {
        "make": {"use": "./make.py:make", "with": {"names": ["a"], **given}},
        "put": {"use": "artifact.write", "with": config},
    }
    (folder / "p.yaml").write_text(json.dumps({"name": "p", "stages": stages}))
    return folder / "p.yaml"


def there(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


async def test_a_file_and_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    await engine.run(make(tmp_path, {"path": "out/a.txt", "field": "file"}), store=":memory:")
    await engine.run(make(tmp_path, {"path": "out/m", "field": "model"}), store=":memory:")
    assert there(out) == {"a.txt": "weightsa", "m/inner/w.bin": "weightsa", "m/config.json": "{}"}
    inodes = [(out / name).stat().st_ino for name in ("a.txt", "m", "m/config.json")]
    await engine.run(make(tmp_path, {"path": "out/m", "field": "model"}), store=":memory:")
    await engine.run(make(tmp_path, {"path": "out/a.txt", "field": "file"}), store=":memory:")
    assert [(out / name).stat().st_ino for name in ("a.txt", "m", "m/config.json")] == inodes
    newer = make(tmp_path, {"path": "out/m", "field": "model"}, word="newer")
    await engine.run(newer, store=":memory:")
    assert there(out)["m/inner/w.bin"] == "newera"
    (out / "m" / "notes.txt").write_text("mine")
    with pytest.raises(EngineError, match="holds 'notes.txt', which would be lost: move it away"):
        await engine.run(make(tmp_path, {"path": "out/m", "field": "model"}), store=":memory:")
    assert there(out)["m/notes.txt"] == "mine"
    with pytest.raises(EngineError, match="m is a folder: name a file in it"):
        await engine.run(make(tmp_path, {"path": "out/m", "field": "file"}), store=":memory:")
    with pytest.raises(EngineError, match=r"a\.txt is a file: move it away, or name a folder"):
        await engine.run(make(tmp_path, {"path": "out/a.txt", "field": "model"}), store=":memory:")
    assert {p.name for p in out.iterdir()} == {"a.txt", "m"}


async def test_several_rows_have_paths_of_their_own(tmp_path: Path) -> None:
    config = {"path": "out/{name}/{row_id}.txt", "field": "file"}
    path = make(tmp_path, config, names=["a", "b-1.x", "ä b"])
    async with engine.open(path, store=":memory:") as run:
        rows = [row async for row in run]
    assert there(tmp_path / "out") == {
        f"{row['name']}/{row.row_id}.txt": f"weights{row['name']}" for row in rows
    }
    assert len(rows) == 3
    path = make(tmp_path, {"path": "out/one.txt", "field": "file"}, names=["a", "b"])
    with pytest.raises(EngineError, match=r"two rows, \w+ and \w+, have one path, 'one.txt': put"):
        await engine.run(path, store=":memory:")


@pytest.mark.parametrize(
    "name", ["..", "../up", "/etc", "a/b", ".hidden", "", "a\\b", "x\n", "n" * 101]
)
async def test_no_value_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = make(tmp_path / "in", {"path": "out/{name}", "field": "file"}, names=[name])
    with pytest.raises(EngineError, match="which cannot stand in a path: use letters"):
        await engine.run(path, store=":memory:")
    assert {name.split("/")[0] for name in there(tmp_path)} == {"in"}
    assert not (tmp_path / "in" / "out").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"path": "out", "field": "modle"}, "no row has 'modle'; did you mean 'model'?"),
        ({"path": "out/{nam}", "field": "file"}, "no row has 'nam'; did you mean 'name'?"),
        ({"path": "out", "field": "name"}, "field: 'name' is text, not an Artifact"),
        ({"path": "out", "field": "row_id"}, "no row has 'row_id'"),
    ],
)
def test_what_validate_tells(tmp_path: Path, config: dict[str, str], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        read_pipeline(make(tmp_path, config))


async def test_a_row_without_an_artifact_is_told(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"f": []}\n')
    stages = {
        "read": {"use": "dataset.read", "with": {"path": "r.jsonl"}},
        "put": {"use": "artifact.write", "with": {"path": "out", "field": "f"}},
    }
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "stages": stages}))
    with pytest.raises(PipelineError, match="field: 'f' is list of anything, not an Artifact"):
        read_pipeline(tmp_path / "p.yaml")
    (tmp_path / "r.jsonl").write_text('{"f": 1}\n{"g": 2}\n')
    stages["put"]["with"] = {"path": "out/{f}", "field": "g"}
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "stages": stages}))
    with pytest.raises(EngineError, match=r"row \w+: 'g' is no artifact"):
        await engine.run(tmp_path / "p.yaml", store=":memory:")
