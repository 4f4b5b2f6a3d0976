"""The pages that are made from the code say what it says, and nothing goes without a word."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from engine.cli import COMMANDS, group
from engine.cli.reference import PAGES

ROOT = Path(__file__).parents[2]


def commands(found: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in found.list_commands(context):
        command = found.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from commands(command, context)


ALL = list(commands(group, click.Context(group)))


@pytest.mark.parametrize("file", PAGES)
def test_a_page_is_what_the_code_says(file: str) -> None:
    page = (ROOT / "docs" / file).read_text("utf-8")
    assert page == PAGES[file](), "run `make docs`"


def test_all_that_can_be_imported_is_explained() -> None:
    names = PAGES["reference.md"]().partition("## `engine`")[2]
    assert "`FakeChat`" in names
    assert not [line for line in names.splitlines() if line.endswith("|  |")]


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_each_command_and_option_is_explained(name: str, command: click.Command) -> None:
    assert command.help
    assert command.help.partition("\n")[0].strip().endswith(".")
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts}"
        else:
            assert option.human_readable_name.isupper()


def test_the_brief_list_has_a_sentence_for_each() -> None:
    assert {name for name, _ in ALL} >= set(COMMANDS)
    assert all(brief.endswith(".") for brief in COMMANDS.values())
