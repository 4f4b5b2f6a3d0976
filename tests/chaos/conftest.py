"""The chaos server, one process for a module, and sites in folders of a test's own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Server, Site


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def server(served: Server) -> Server:
    served.reset(latency=0.001)
    return served


@pytest.fixture
def site(tmp_path: Path, server: Server) -> Callable[..., Site]:
    """Return a new folder for a pipeline; what is given is set on the chat."""
    made: list[Site] = []

    def make(pipeline: str, **chat: Any) -> Site:
        made.append(Site(tmp_path / f"site-{len(made)}", pipeline, server, **chat))
        return made[-1]

    return make
