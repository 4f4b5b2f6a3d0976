"""`engine new plugin NAME`: a folder to begin from."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.group("new")
def command() -> None:
    """Make something new to begin from."""


@command.command("plugin")
@click.argument("name")
@click.option(
    "--in",
    "parent",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="The folder to make it in.  [default: here]",
)
def plugin(name: str, parent: Path) -> int:
    """Make a plugin: a folder engine-NAME with a source, a map, a stream, and their tests.

    NAME is the namespace of its stages, such as `pink` of `pink.critique`.
    """
    from engine.scaffold import new_plugin

    folder = new_plugin(name, parent)
    click.echo(f"{folder}: a source, a map that asks a chat, a stream, and their tests")
    place = folder if folder.is_absolute() else f"./{folder}"  # a bare name is one of the index
    click.echo(f"  pip install -e {place}\n  pytest {folder}\n  engine run {folder}/pipeline.yaml")
    return 0
