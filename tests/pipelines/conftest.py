"""Pipelines stand in a folder where the toy plugin and the engine's own `dataset` are installed, and nothing else."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = {"toy": "toy", "broken": "broken", "dataset": "engine.datasets"}
PLUGINS = [EntryPoint(name, module, "engine") for name, module in NAMES.items()]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setattr("engine.plugins.entry_points", lambda group: PLUGINS)
