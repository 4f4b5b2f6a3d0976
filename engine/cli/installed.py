"""What the commands on plugins share: all of them loaded, and data written where it is wanted."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import visible

if TYPE_CHECKING:
    from engine.plugins import Plugins

__all__ = ["load_all", "say_left_out", "write"]


def load_all() -> tuple[Plugins, list[str], dict[str, Exception]]:
    """Return all plugins that can be loaded, their names, and those that cannot be, and why."""
    from engine.plugins import Plugins, installed

    plugins = Plugins()
    with contextlib.redirect_stdout(sys.stderr):  # what a module prints is talk
        broken = plugins.load_installed()
    return plugins, [name for name in sorted(installed()) if name not in broken], broken


def say_left_out(broken: dict[str, Exception]) -> None:
    """Say on stderr which plugins are missing from what is printed."""
    for name, error in broken.items():
        click.echo(f"engine: plugin {name} is left out: {visible(str(error))}", err=True)


def write(text: str, output: str | None) -> None:
    """Write data to a file, or to stdout."""
    if output is None:
        click.echo(text, nl=False)
    else:
        Path(output).write_text(text, "utf-8")
