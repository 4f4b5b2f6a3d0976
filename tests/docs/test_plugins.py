"""Writing a plugin: the page's plugin is made, installed and tested as it stands."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import engine
from engine import hookspecs
from engine.events import Event
from engine.testing import PluginContract

Pages = Callable[[str], Any]


def test_the_page_does_what_it_shows(
    page: Pages, play: Callable[..., int], console: Callable[..., str], tmp_path: Path
) -> None:
    site, source = tmp_path / ".site", tmp_path / "engine-tide"

    def run(words: list[str], folder: Path) -> str:
        if words[0] == "pip":
            return installed(folder / words[-1], site)
        return console(words, folder, PYTHONPATH=f"{source}:{site}", COLUMNS="100")

    assert play(page("plugins.md"), tmp_path, run) >= 7


def installed(folder: Path, site: Path) -> str:
    """What `pip install -e` does, without a network and beside the environment."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, *offline, str(folder)], check=True)
    (site / "engine_tide").rename(site / "copied")  # the source folder is found first
    return ""


def test_every_hook_is_documented(page: Pages) -> None:
    hooks = {
        f"{name}({', '.join(inspect.signature(hook).parameters)})"
        for name, hook in vars(hookspecs).items()
        if name.startswith("engine_")
    }
    assert set(page("plugins.md").table("The hooks")) == hooks


def test_every_event_is_documented_and_public(page: Pages) -> None:
    for event in get_args(Event):
        assert f"`{event.__name__}`" in page("plugins.md").text
        assert getattr(engine, event.__name__) is event


def test_every_test_of_the_contract_is_documented(page: Pages) -> None:
    tests = [name for name in vars(PluginContract) if name.startswith("test_")]
    assert list(page("plugins.md").table("Testing")) == tests
