"""`engine new plugin`: a stranger's plugin is built, installed, listed, run and tested."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import InputError
from engine.scaffold import new_plugin

BACKENDS = {
    "hatchling": None,
    "flit_core": (
        '[build-system]\nrequires = ["flit_core>=3.12"]\nbuild-backend = "flit_core.buildapi"\n'
        '[tool.flit.module]\nname = "engine_tide"\n'
    ),
}
Command = Callable[..., str]


@pytest.fixture(scope="module", params=BACKENDS)
def plugin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin made outside the repository, and installed by pip into a folder of its own."""
    folder = new_plugin("tide", tmp_path_factory.mktemp("elsewhere"))
    if backend := BACKENDS[request.param]:
        path = folder / "pyproject.toml"
        text = path.read_text()
        path.write_text(backend + text[text.index("[project]") :].partition("[tool.hatch")[0])
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The back ends are here already; no network is needed.
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *offline, "--target", folder.parent / "site", folder], check=True)
    return folder


@pytest.fixture
def command(plugin: Path) -> Command:
    """Run a module where the plugin is installed, and return what it says on stdout."""

    def run(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=plugin,
            env=os.environ | {"PYTHONPATH": str(plugin.parent / "site")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def test_its_own_tests_pass(command: Command) -> None:
    said = command("pytest", "-q", "-p", "no:cacheprovider")
    assert " passed" in said
    assert "skipped" not in said


def test_it_is_listed_and_runs(command: Command, plugin: Path) -> None:
    assert "tide" in command("engine", "plugins")
    command("engine", "validate", "pipeline.yaml")
    command("engine", "run", "pipeline.yaml")
    assert len((plugin / "out" / "tide.jsonl").read_text().splitlines()) == 2
    assert "prompt template tide-answer" in command("engine", "trace", "pipeline.yaml", "1")


def test_its_code_is_typed_and_tidy(command: Command) -> None:
    command("mypy", "--strict", "engine_tide", "tests")
    command("ruff", "check", "--isolated", "--select", "E,F,I,UP,B,RUF,D1", "--ignore", "D105,D107",
            "--per-file-ignores", "tests/*:D1", "--line-length", "100", ".")  # fmt: skip
    command("ruff", "format", "--isolated", "--line-length", "100", "--check", ".")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Tide", "'Tide' cannot name a plugin: write small letters"),
        ("my-tide", "'my-tide' cannot name a plugin"),
        ("class", "'class' cannot name a plugin"),
        ("dataset", "a plugin named 'dataset' is installed already"),
        ("taken", "engine-taken exists: remove it"),
    ],
)
def test_a_name_that_will_not_do(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "engine-taken").mkdir()
    with pytest.raises(InputError) as raised:
        new_plugin(name, tmp_path)
    assert said in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["engine-taken"]
