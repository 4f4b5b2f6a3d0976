"""The page of the command line is made from the commands, and all of them are explained."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from engine.cli import COMMANDS, group
from engine.cli.reference import reference

ROOT = Path(__file__).parents[2]


def commands(found: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in found.list_commands(context):
        command = found.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from commands(command, context)


ALL = list(commands(group, click.Context(group)))


def test_the_page_is_what_the_commands_say() -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert page == reference(), "run `make docs`"


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
