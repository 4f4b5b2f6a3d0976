"""The command line: parse, print, and no logic. `engine --help` loads nothing but click."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

__all__ = ["main"]

COMMANDS = {
    "run": "Run a pipeline; running it again resumes it.",
    "validate": "Check a pipeline without running it.",
    "graph": "Draw a pipeline.",
    "stages": "List stages and resources, or show the contract of one.",
    "plugins": "List the installed plugins.",
    "schema": "Print a JSON Schema by which an editor completes pipelines.",
    "new": "Make a plugin to begin from.",
    "plan": "Say what a run would reuse and do again, why, and what it will take.",
    "runs": "List the runs of a pipeline.",
    "inspect": "Show what became of a run, or of a row.",
    "export": "Write the finished rows that are there so far.",
    "diff": "Compare two runs.",
    "redrive": "Try the dead letters of a run again.",
    "store": "Look after a store: what is damaged, what takes room, what can go.",
    "trace": "Show where each phrase of a row came from.",
}


class _Lazy(click.Group):
    """A group whose commands are modules, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"engine.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from engine.errors import nearest

        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(
                f"no command {args[0]!r}{nearest(args[0], COMMANDS, say='; did you mean {}?')}"
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output left: there is nobody to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(0)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="st-engine", prog_name="engine")
def group() -> None:
    """Pipelines of async stages for alignment research.

    RUN is FILE (that pipeline's newest run) or FILE@ID.
    """


def main() -> None:
    """Run the command line; an error that the engine raises on purpose is a line and a code."""
    from engine.errors import EngineError

    try:
        sys.exit(group.main(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except EngineError as error:
        click.echo(f"engine: {visible(str(error))}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"engine: {visible(str(error))}", err=True)
        sys.exit(4)


def visible(text: str) -> str:
    """Return text that cannot steer a terminal: what is not printable is escaped."""
    return "".join(
        c
        if c.isprintable() or c in "\n\t"
        else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )


def escaped(line: str) -> str:
    """Return the same JSON with what is not printable as JSON's own escapes."""
    import json

    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
