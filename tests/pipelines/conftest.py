"""Pipelines stand in a folder where the toy plugin and the engine's own `dataset` are installed, and nothing else."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from engine.plugins import Plugins
from engine.schema import pipeline_schema

HERE = Path(__file__).parent
NAMES = {"toy": "toy", "broken": "broken", "dataset": "engine.datasets"}
PLUGINS = [EntryPoint(name, module, "engine") for name, module in NAMES.items()]


def install(patch: pytest.MonkeyPatch) -> None:
    patch.syspath_prepend(HERE)
    patch.setattr("engine.plugins.entry_points", lambda group: PLUGINS)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture(scope="session")
def validator() -> Draft202012Validator:
    """Checks pipelines by the schema of the plugins that are installed here."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        plugins = Plugins()
        assert list(plugins.load_installed()) == ["broken"]
        schema = pipeline_schema(plugins, ["toy", "dataset"])
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
