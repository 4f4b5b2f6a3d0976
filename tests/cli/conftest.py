"""The command line as a process of its own, with plugins installed beside ours."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
