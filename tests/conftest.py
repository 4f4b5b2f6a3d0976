"""What all tests share: both event loops, and pipelines written where a test can see them."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[..., Path]:
    """Write a pipeline (and the stages beside it) to a folder of the test's own; return its path."""

    def write(text: str, *, stages: Path | str | None = None, name: str = "p.yaml") -> Path:
        if stages is not None:
            source = stages.read_text() if isinstance(stages, Path) else stages
            (tmp_path / "stages.py").write_text(source)
        path = tmp_path / name
        path.write_text(text if text.lstrip().startswith("name:") else "name: test\n" + text)
        return path

    return write
