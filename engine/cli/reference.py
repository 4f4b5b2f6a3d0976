"""The pages that are made from the code: `python -m engine.cli.reference docs`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click

from engine.cli import COMMANDS, group

__all__ = ["PAGES"]

COMMAND_LINE = """\
# Command line

Made from the commands by `make docs`; a test compares.

Data goes to stdout, talk to stderr. The [exit codes](pipelines.md#exit-codes) are those of a run;
a wrong command line gives 2. Every command has `--help`; `engine --version` tells the version.
"""


def command_line() -> str:
    """Return the page: every command with its arguments, options and help."""
    context = click.Context(group, info_name="engine")
    index = [f"| [`engine {name}`](#engine-{name}) | {brief} |" for name, brief in COMMANDS.items()]
    parts = [COMMAND_LINE, "\n".join(["| command | what it does |", "|---|---|", *index]) + "\n"]
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


STAGES = """\
# Reference

Made from the code by `make docs`; a test compares. The stages and resources that come along, as
`engine stages NAME` shows them, and what can be imported.
"""
MODULES = ("engine", "engine.chat", "engine.rows", "engine.text", "engine.testing")
OURS = "st-engine"
"""How the names of our own distributions begin."""


def stages() -> str:
    """Return the page of what comes along: stages, resources, and the public names of modules."""
    from engine.contracts import contract
    from engine.plugins import Plugins, installed

    parts = [STAGES]
    for namespace, entry in sorted(installed().items()):
        if entry.dist is None or not entry.dist.name.startswith(OURS):
            continue
        plugins = Plugins()
        plugins.load(namespace)
        pages = [contract(spec) for spec in plugins.stages(namespace)]
        pages += [contract(spec) for spec in plugins.resources(namespace)]
        for page in pages:
            lasting = {k: v for k, v in page.facts.items() if not k.startswith("defined")}
            text = dataclasses.replace(page, facts=lasting).markdown()
            parts.append(re.sub("^#", "##", text, flags=re.MULTILINE))
    for module in MODULES:
        rows = [f"| `{name}` | {meaning} |" for name, meaning in _names(module)]
        parts.append(
            "\n".join([f"## `{module}`\n", "| name | what it is |", "|---|---|", *rows, ""])
        )
    return "\n".join(parts)


def _names(module: str) -> Iterator[tuple[str, str]]:
    """Yield (name, first sentence) of what a module exports."""
    from engine.docstrings import assigned_docs, summary

    exported = import_module(module)
    found = [(name, getattr(exported, name)) for name in exported.__all__]
    assigned: dict[str, str] = {}
    for other in [m for name, m in sys.modules.items() if name.partition(".")[0] == "engine"]:
        assigned |= assigned_docs(other)
    for name, value in found:
        own = inspect.isclass(value) or inspect.isroutine(value)
        doc = inspect.getdoc(value) or "" if own else assigned.get(name, "")
        yield name, summary(doc).replace("|", "\\|")


PAGES = {"cli.md": command_line, "reference.md": stages}
"""File in `docs/` -> what makes it."""

if __name__ == "__main__":
    for file, make in PAGES.items():
        (Path(sys.argv[1]) / file).write_text(make(), "utf-8")
