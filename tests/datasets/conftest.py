"""What the tests of datasets share: pipelines that read, that write, and that do both."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import engine
from engine.rows import Row


class Found(NamedTuple):
    rows: list[Row]
    summary: engine.Summary
    fields: Mapping[str, Any]

    @property
    def reasons(self) -> dict[str, int]:
        return dict(self.summary.stages["read"].reasons)


Reads = Callable[..., Awaitable[Found]]
Writes = Callable[..., Awaitable[engine.Summary]]

GIVEN = '''
from collections.abc import AsyncIterator

from engine import Row, stage


@stage("my.given")
async def given() -> AsyncIterator[Row]:
    """Yield the test's rows."""
    for row in ROWS:
        yield Row.of(row)
'''


def piped(folder: Path, stages: Mapping[str, Any], name: str = "p") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, "stages": stages}), "utf-8")
    return path


@pytest.fixture
def reads(tmp_path: Path) -> Reads:
    """Read with this configuration, relative to the test's folder."""

    async def read(path: Any = None, **config: Any) -> Found:
        given = {**({} if path is None else {"path": path}), **config}
        pipeline = piped(tmp_path, {"read": {"use": "dataset.read", "with": given}}, "reads")
        async with engine.open(pipeline, store=":memory:") as run:
            rows = [row async for row in run]
        return Found(rows, run.summary, run.pipeline.stages["read"].fields)

    return read


@pytest.fixture
def writes(tmp_path: Path) -> Writes:
    """Write these rows with this configuration; `types` are their fields."""

    async def write(
        rows: Iterable[Mapping[str, Any]], types: Mapping[str, str], path: str, **config: Any
    ) -> engine.Summary:
        declared = ", ".join(f"{name!r}: {hint}" for name, hint in types.items())
        imports = "from typing import *\nfrom engine import *\nfrom engine.rows import *\n"
        fields = f"@fields_of(given)\ndef fields(upstream):\n    return {{{declared}}}\n"
        fields += f"\n\nROWS = {list(rows)!r}\n"
        (tmp_path / "given.py").write_text(imports + GIVEN + "\n\n" + fields, "utf-8")
        stages = {
            "given": {"use": "./given.py:given"},
            "write": {"use": "dataset.write", "with": {"path": path, **config}},
        }
        pipeline = piped(tmp_path, stages, "writes")
        async with engine.open(pipeline, store=":memory:") as run:
            return await run.finish()

    return write
