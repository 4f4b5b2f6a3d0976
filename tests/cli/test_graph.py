"""A pipeline as a drawing."""

import json
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from engine.drawing import FORMATS
from engine.pipeline import read_pipeline

Cli = Callable[..., subprocess.CompletedProcess[str]]
STAGES = """
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from typing import Any

from engine import Row, Text, fields_of, stage


class Number(Row):
    n: int


class Left(Row):
    left: Text


class Right(Row):
    right: float


class Pair(Row):
    pair: int


@stage("d.numbers")
async def numbers() -> AsyncIterator[Number]:
    yield Number(1)


@stage("d.left")
async def left(n: int) -> Left: ...


@stage("d.right")
async def right(rows: Sequence[Number]) -> list[Right]: ...


@stage("d.pairs")
async def pairs(x: AsyncIterable[Left], y: AsyncIterable[Right]) -> AsyncIterator[Pair]:
    yield Pair(1)


@stage("d.children")
async def children(n: int) -> AsyncIterator[Pair]:
    yield Pair(1)


@stage("d.keep")
async def keep(rows: AsyncIterable[Row]) -> AsyncIterator[Row]:
    async for row in rows:
        yield row


@stage("d.sink")
async def sink(rows: AsyncIterable[Row]) -> None: ...


@stage("d.named")
async def named(*, name: str) -> AsyncIterator[Row]:
    yield Row.of({name: 1})


@fields_of(named)
def fields(upstream: Mapping[str, Any], *, name: str) -> Mapping[str, Any]:
    return {name: int}
"""
DAG = """
stages:
  numbers: {use: ./stages.py:numbers}
  more: {use: ./stages.py:numbers}
  listed: {use: ./stages.py:keep, from: [more, numbers]}
  left: {use: ./stages.py:left}
  right: {use: ./stages.py:right, from: listed, give: {right: score}}
  both: {use: ./stages.py:children, from: {all: [left, right]}}
  out: {use: ./stages.py:sink}
  again: {use: ./stages.py:sink, from: {all: [left, right]}}
  pairs: {use: ./stages.py:pairs, from: {x: left, y: right}, take: {right: score}}
"""


@pytest.fixture
def dag(pipeline: Callable[..., Path]) -> Path:
    return pipeline(DAG, stages=STAGES)


def test_mermaid_shows_lists_unions_and_joins_apart(cli: Cli, dag: Path) -> None:
    done = cli("graph", dag.name)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == "flowchart TD"
    assert 's4[["right<br/>./stages.py:right (batch)<br/>+ score"]]' in lines
    assert 's5[/"both<br/>./stages.py:children (expand)<br/>+ pair"\\]' in lines
    edges = {line for line in lines if "-->" in line}
    assert {'s1 -->|"1"| m0', 's0 -->|"2"| m0', "m0 --> s2", "s2 --> s3", "s2 --> s4"} <= edges
    assert {"s3 --> m1", "s4 --> m1", "m1 --> s5", "m1 --> s7", "s5 --> s6"} <= edges
    assert {'s3 -->|"x"| s8', 's4 -->|"y"| s8'} <= edges
    assert len(edges) == 12
    assert 'm0(("list"))' in lines
    assert 'm1{"all"}' in lines


@pytest.mark.parametrize("form", FORMATS)
def test_a_drawing_is_the_same_each_time(cli: Cli, dag: Path, form: str) -> None:
    drawn = {cli("graph", dag, "--format", form, PYTHONHASHSEED=seed).stdout for seed in ("1", "2")}
    assert drawn == {FORMATS[form](read_pipeline(dag))}


def test_json_is_the_pipeline_as_data(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: p\nresources: {b: {use: good.box}}\nstages:\n  make: {use: good.make}\n"
        "  out: {use: good.out}\n"
    )
    drawn = json.loads(cli("graph", path, "--format", "json").stdout)
    assert drawn == {
        "name": "p",
        "stages": [
            {"key": "make", "use": "good.make", "kind": "source", "from": None, "reads": {},
             "adds": {"made": "Text"}, "resources": {}},
            {"key": "out", "use": "good.out", "kind": "sink",
             "from": {"form": "one", "stages": ["make"], "names": []}, "reads": {}, "adds": {},
             "resources": {}},
        ],
        "resources": [{"key": "b", "use": "good.box"}],
    }  # fmt: skip


def test_resources_are_drawn(pipeline: Callable[..., Path], cli: Cli) -> None:
    (replies := pipeline("", name="r.jsonl")).write_text("")
    stages = "from engine import Row\nfrom engine.chat import Chat\n" + STAGES.replace(
        "async def left(n: int)", "async def left(n: int, *, llm: Chat)"
    )
    path = pipeline(
        f"resources: {{'a \"b\"': {{use: fixture.chat, with: {{file: {replies}}}}}}}\n"
        "stages: {n: {use: './stages.py:numbers'}, "
        "l: {use: './stages.py:left', with: {llm: 'a \"b\"'}}}",
        stages=stages,
    )
    drawn = cli("graph", path).stdout
    assert 'r0>"a #34;b#34;<br/>fixture.chat"]' in drawn
    assert 'r0 -.->|"llm"| s1' in drawn
    assert "label=<<b>a &quot;b&quot;</b>" in cli("graph", path, "--format", "dot").stdout


HOSTILE = 'end"]; x --> y <img src=x> `a` | {b} #quot; \\ \x1b[31m\u202e &amp;'


def test_names_cannot_leave_their_box(pipeline: Callable[..., Path], tmp_path: Path) -> None:
    path = pipeline("stages: {end: {use: './stages.py:named', with: {name: $X}}}", stages=STAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("X", HOSTILE)
        drawn = {form: draw(read_pipeline(path)) for form, draw in FORMATS.items()}
    label = re.fullmatch(r'flowchart TD\n  s0\(\["([^"]*)"\]\)\n', drawn["mermaid"])
    assert label is not None
    assert re.sub(r"<br/>|#\d+;", "", label[1]).isprintable()
    assert not set("<>`|{}[]\\&") & set(re.sub(r"<br/>|#\d+;", "", label[1]))
    markup = re.search(r"label=<(.*)>\]", drawn["dot"])
    assert markup is not None
    words = "".join(ElementTree.fromstring(f"<label>{markup[1]}</label>").itertext())
    shown = HOSTILE.replace("\x1b", "\ufffd").replace("\u202e", "\ufffd")
    assert words.replace(" ", "").endswith(shown.replace(" ", ""))
    assert json.loads(drawn["json"])["stages"][0]["adds"] == {HOSTILE: "int"}


def fake_dot(folder: Path, code: str) -> str:
    """A stand-in for Graphviz: CI may lack it."""
    folder.mkdir()
    program = folder / "dot"
    program.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(folder)


def test_an_svg_is_drawn_by_dot(cli: Cli, dag: Path, tmp_path: Path) -> None:
    path = fake_dot(tmp_path / "bin", "print(sys.argv[1], len(sys.stdin.read()))")
    dot = cli("graph", dag, "--format", "dot").stdout
    done = cli("graph", dag, "-o", "drawn.svg", PATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "drawn.svg").read_text() == f"-Tsvg {len(dot)}\n"


def test_without_graphviz_an_svg_is_an_error_that_helps(
    cli: Cli, dag: Path, tmp_path: Path
) -> None:
    done = cli("graph", dag, "--format", "svg", PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "install graphviz" in done.stderr
    assert "--format mermaid" in done.stderr
    broken = fake_dot(tmp_path / "bin", "sys.exit('no fonts')")
    done = cli("graph", dag, "--format", "svg", PATH=broken)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "engine: dot failed with exit code 1: no fonts\n"


def test_the_suffix_chooses_the_language(cli: Cli, dag: Path, tmp_path: Path) -> None:
    for suffix, begins in ((".mmd", "flowchart"), (".dot", "digraph"), (".json", "{")):
        assert cli("graph", dag, "-o", f"x{suffix}").returncode == 0
        assert (tmp_path / f"x{suffix}").read_text().startswith(begins)


def test_what_is_wrong_with_a_pipeline_is_said(cli: Cli, dag: Path) -> None:
    done = cli("graph", dag, "--set", "stages.left.use=./stages.py:lift")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'left'?" in done.stderr
