"""The page docs/cli.md, made from the commands: `python -m engine.cli.reference docs/cli.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from engine.cli import COMMANDS, group

__all__ = ["reference"]

HEAD = """\
# Command line

Made from the commands by `make docs`; a test compares.

Data goes to stdout, talk to stderr. The [exit codes](pipelines.md#exit-codes) are those of a run;
a wrong command line gives 2. Every command has `--help`; `engine --version` tells the version.
"""


def reference() -> str:
    """Return the page: every command with its arguments, options and help."""
    context = click.Context(group, info_name="engine")
    index = [f"| [`engine {name}`](#engine-{name}) | {brief} |" for name, brief in COMMANDS.items()]
    parts = [HEAD, "\n".join(["| command | what it does |", "|---|---|", *index]) + "\n"]
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        parts += _pages(command, context, name)
    return "\n".join(parts)


def _pages(command: click.Command, parent: click.Context, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"## `{context.command_path}`\n\n```\n{usage}\n```\n"
    yield "\n\n".join(_paragraphs(command.help or "")) + "\n"
    options = [option for option in command.params if isinstance(option, click.Option)]
    if options:
        rows = [_row(option, context) for option in options]
        yield "\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n"
    if isinstance(command, click.Group):
        for inner, found in command.commands.items():
            yield from _pages(found, context, inner)


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n")]


def _row(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    assert record is not None  # none of ours is hidden
    name, meaning = (part.replace("|", "\\|") for part in record)
    return f"| `{name}` | {' '.join(meaning.split())} |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), "utf-8")
