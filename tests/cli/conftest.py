"""The command line as a process of its own, with plugins installed beside ours."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]

GOOD = '''
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from engine import Context, InputFile, Needs, Resource, Row, Text, hookimpl, resource, stage

print("a module that talks")


class Made(Row):
    made: Text


class Size(Row):
    size: int


class Style(BaseModel):
    """How it looks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    colour: Literal["red", "blue"] = "red"
    """The colour."""


@resource("good.box")
class Box(Resource):
    """A box of `width` metres."""

    def __init__(self, *, width: float = 1.0) -> None: ...

    @property
    def identity(self) -> str:
        return "box"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: Any) -> None: ...


@stage("good.make", version="3")
async def make(*, file: InputFile = Path(__file__), style: Style = Style(), hues: frozenset[str] = frozenset("ab"), end: float = float("inf")) -> AsyncIterator[Made]:
    """Make \\x1b[31mred\\x07 rows | and more.

    It reads `file`. The second paragraph.
    """
    yield Made(Text("x"))


@stage("good.size")
async def size(
    made: Text,
    note: Text | None = None,
    *,
    box: Annotated[Box, Needs("lid")],
    spare: Box | None = None,
    most: Annotated[PositiveInt, Field(description="The largest size.")],
    ctx: Context,
) -> Size:
    return Size(1)


@stage("good.out")
async def out(rows: AsyncIterable[Row]) -> None: ...


@hookimpl
def engine_stages() -> list[Any]:
    return [make, size, out]


@hookimpl
def engine_resources() -> list[type]:
    return [Box]
'''
BROKEN = "def helper():\n    raise RuntimeError('\\x1b[2J no luck')\n\nhelper()\n"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the command line where the plugin `good` is installed, as pip leaves it."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, "good", GOOD)

    def run(
        *arguments: object, broken: bool = False, cwd: Path = tmp_path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        if broken:
            install(site, "broken", BROKEN)
        return subprocess.run(
            [sys.executable, "-m", "engine", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            timeout=60,
            env=os.environ | {"PYTHONPATH": str(site)} | environment,
        )

    return run


def install(site: Path, name: str, code: str) -> None:
    info = site / f"test_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: test-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[engine]\n{name} = st_test_{name}\n")
    (site / f"st_test_{name}.py").write_text(code)


PIPELINE = """
name: toy
seed: 7
resources: {llm: {use: fixture.chat, with: {file: replies.jsonl}}}
stages:
  topics: {use: ./stages.py:topics}
  items: {use: ./stages.py:items}
  say: {use: ./stages.py:say, with: {llm: llm}, concurrency: 1}
  out: {use: dataset.write, with: {path: out.jsonl, fields: [row_id, said, topic, item]}}
"""
REPLIES = r"""
{"match": "topic 1 0", "reply": "no \u001b[31mway [/bold]"}
{"match": "topic 1 1", "reply": "boom \u001b]8;;evil\u0007 [/bold]"}
{"match": "topic", "reply": ["a fine reply", "one more here", "the third of the lot"]}
"""


class Toy:
    """A pipeline in a folder, with the command line at hand."""

    def __init__(self, folder: Path, cli: Cli) -> None:
        self.folder, self.file, self._cli = folder, folder / "toy.yaml", cli
        folder.mkdir(parents=True)
        stages = Path(__file__).with_name("stages_cli.py").read_text()
        for name, text in {
            "toy.yaml": PIPELINE,
            "replies.jsonl": REPLIES,
            "stages.py": stages,
        }.items():
            (folder / name).write_text(text)

    def __call__(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command, which must end with this code."""
        ran = self._cli(*arguments, cwd=self.folder)
        assert ran.returncode == code, f"{ran.stdout}{ran.stderr}"
        return ran

    def json(self, *arguments: object, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def change(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))

    @property
    def state(self) -> dict[str, bytes]:
        """Every file below the folder, but for what Python and SQLite keep beside theirs."""
        files = (p for p in self.folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        found = {str(p.relative_to(self.folder)): p.read_bytes() for p in files}
        return {n: b for n, b in found.items() if not n.endswith("-shm") and (b or "-wal" not in n)}

    @contextlib.contextmanager
    def waiting(self, topic: str) -> Iterator[subprocess.Popen[str]]:
        """Have a run wait for ever at a topic, all before it done; it is killed at the end."""
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "engine",
                "run",
                "toy.yaml",
                "--set",
                f"stages.say.with.stop={topic}",
            ],
            cwd=self.folder,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stderr is not None
            assert any(line == "it waits\n" for line in process.stderr), "it came to an end"
            yield process
        finally:
            process.kill()
            process.wait()
            process.stderr.close()


@pytest.fixture
def toy(tmp_path: Path, cli: Cli) -> Toy:
    return Toy(tmp_path / "toy", cli)


@pytest.fixture
def ended(toy: Toy) -> Toy:
    """One that has run once: 8 rows, of which 1 was rejected and 1 is dead."""
    toy("run", "toy.yaml", "-q", code=3)
    return toy
