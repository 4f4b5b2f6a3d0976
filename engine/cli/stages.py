"""`engine stages [NAME]`: what there is to use, and the contract of one as a page."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import visible

if TYPE_CHECKING:
    from engine.contracts import Page
    from engine.plugins import Plugins
    from engine.resources import ResourceSpec
    from engine.stages import StageSpec

__all__ = ["command"]


@click.command("stages")
@click.argument("name", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown"]),
    default="text",
    show_default=True,
    help="How to print the page of one.",
)
def command(name: str | None, form: str) -> int:
    """List the stages and resources of the installed plugins, or show the contract of one.

    NAME is a stage or resource (`pink.critique`, `embedded.chat`), a stage of a file
    (`./my_stages.py:shout`), or a plugin, whose stages are listed.
    """
    if name is None:
        from engine.cli.installed import load_all, say_left_out

        plugins, names, broken = load_all()
        _list(plugins, names)
        say_left_out(broken)
        return 2 if broken else 0
    from engine.contracts import contract
    from engine.plugins import Plugins

    with contextlib.redirect_stdout(sys.stderr):  # what a module prints is talk
        plugins = Plugins()
        if name.isidentifier():
            plugins.load(name)
        else:
            page = contract(_found(plugins, name), name)
    if name.isidentifier():
        _list(plugins, [name])
    elif form == "markdown":
        click.echo(visible(page.markdown()), nl=False)
    else:
        _print(page)
    return 0


def _found(plugins: Plugins, name: str) -> StageSpec | ResourceSpec:
    from engine.errors import PluginError, nearest
    from engine.plugins import local_stage

    if name.startswith(("./", "../", "/")):
        file, _, function = name.rpartition(":")
        if not file.endswith(".py"):
            raise PluginError(f"{name!r} names no function: write ./file.py:function")
        return local_stage(Path(file).resolve(), function)
    namespace = name.partition(".")[0]
    plugins.load(namespace)
    known: dict[str, StageSpec | ResourceSpec] = {s.name: s for s in plugins.stages(namespace)}
    known |= {r.name: r for r in plugins.resources(namespace)}
    if name not in known:
        raise PluginError(
            f"plugin {namespace!r} has no {name!r}"
            + nearest(name, known, say="; did you mean {!r}?")
            + f" (it has: {', '.join(sorted(known)) or 'nothing'})"
        )
    return known[name]


def _list(plugins: Plugins, names: list[str]) -> None:
    from engine.contracts import kind_of
    from engine.docstrings import summary

    lines: list[tuple[str, str, str]] = []
    for namespace in names:
        for stage in plugins.stages(namespace):
            lines.append((stage.name, kind_of(stage), summary(stage.doc)))
        for found in plugins.resources(namespace):
            lines.append((found.name, "resource", summary(found.doc)))
    longest = max((len(name) for name, _, _ in lines), default=0)
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for name, kind, doc in lines:
        click.secho(visible(f"{name:<{longest}}"), bold=True, nl=False)
        line = visible(f"  {kind:<8}  {doc}").replace("\n", " ")
        left = room - longest
        click.echo(line if len(line) <= left else line[: left - 1] + "…")


def _print(page: Page) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)

    def say(words: Text | Table, indent: int = 2) -> None:
        console.print(Padding(words, (0, 0, 0, indent), expand=False))

    with console.capture() as printed:
        say(Text(visible(page.name), "bold"), 0)
        if page.doc:
            say(Text(f"{visible(page.doc)}\n"))
        for name, value in page.facts.items():
            say(Text().append(f"{name:<10}  ", "dim").append(visible(value)))
        for title, entries in page.sections.items():
            console.print()
            say(Text(title, "bold"), 0)
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(no_wrap=True)
            for entry in entries:
                needed = entry.default in ("", "required")
                what = Text().append(visible(entry.type), "cyan")
                what.append(visible(f"  {'' if needed else '= '}{entry.default}"), "dim")
                grid.add_row(Text(visible(entry.name)), what)
                if entry.meaning:
                    grid.add_row("", Text(visible(entry.meaning)))
            say(grid)
        console.print()
        say(Text("In a pipeline", "bold"), 0)
        say(Text(visible(page.example)))
    click.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))
