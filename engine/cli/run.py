"""`engine run FILE`: run, show progress, sum up. stdout is data, stderr is talk."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, TextIO

import click

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.accounting import Summary
    from engine.cli.progress import Progress
    from engine.runs import Run

__all__ = ["again", "command", "heed"]


@click.command("run")
@click.argument("file", type=click.Path())
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Take the first N source rows."
)
@click.option("--fresh", is_flag=True, help="Start anew: reuse nothing that earlier runs made.")
@click.option(
    "--keep", multiple=True, metavar="stages.KEY", help="Accept this stage's older results."
)
@click.option("--plugin", "plugins", multiple=True, metavar="NAME", help="Load a plugin, too.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, no summary; only errors.")
def command(
    file: str,
    overrides: tuple[str, ...],
    limit: int | None,
    fresh: bool,
    keep: tuple[str, ...],
    plugins: tuple[str, ...],
    quiet: bool,
    redrive: Sequence[bytes] = (),
) -> int:
    """Run a pipeline. Running it again reuses what is still valid and does the rest.

    A pipeline without a sink prints its finished rows on stdout, one JSON object a line.
    """
    import anyio

    from engine.runs import open_run

    run = open_run(
        file,
        set=overrides,
        limit=limit,
        fresh=fresh,
        keep=keep,
        plugins=plugins,
        redrive=redrive,
    )
    return anyio.run(_run, run, again(click.get_current_context()), quiet)


def again(context: click.Context) -> str:
    """Return the command line that goes on from where this one stops."""
    words = ["engine", str(context.info_name), context.params["file"]]
    for parameter in context.command.params:
        value = context.params[str(parameter.name)]
        if not isinstance(parameter, click.Option) or parameter.name == "fresh" or not value:
            continue  # another `--fresh` would begin anew
        name = parameter.opts[0]
        if parameter.is_flag:
            words.append(name)
        for one in value if parameter.multiple else [] if parameter.is_flag else [value]:
            words += [name, str(one)]
    return shlex.join(words)


async def _run(run: Run, again: str, quiet: bool) -> int:
    import anyio

    # Up to the last line: a signal too many must not cost the one that says how to go on.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        return await _watched(run, again, quiet, signals)


async def _watched(
    run: Run, again: str, quiet: bool, signals: AsyncIterator[signal.Signals]
) -> int:
    import anyio

    from engine.cli.progress import Progress
    from engine.cli.summary import print_summary

    prints = not any(stage.spec.is_sink for stage in run.pipeline.stages.values())
    stdout = sys.stdout
    stopped: list[int] = []
    summary: Summary | None = None
    progress = Progress(run, quiet=quiet)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heed, signals, run, stopped, progress)
            # What a stage prints is talk: stdout is for rows.
            with progress, contextlib.redirect_stdout(sys.stderr):
                tasks.start_soon(progress.live)
                async with run:
                    if prints and stdout is not None:
                        await _print_rows(run, stdout)
                    summary = await run.finish()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        from engine.errors import first_error

        error = first_error(group)
        if isinstance(error, BaseExceptionGroup):
            raise
        raise error from None
    finally:
        if not quiet and run.started:
            print_summary(run.summary)
            if run.summary.dead:
                file = shlex.quote(click.get_current_context().params["file"])
                click.echo(
                    f"engine: `engine inspect {file} --dead` tells more of the dead rows; `engine "
                    f"redrive {file}` tries them again",
                    err=True,
                )
    if stopped and run.summary.status == "interrupted":  # else it ended before it could be
        click.echo(f"engine: stopped; this goes on from here:\n{again}", err=True)
        return 128 + stopped[0]
    return summary.exit_code if summary is not None else 1


async def _print_rows(run: Run, stdout: TextIO) -> None:
    import anyio.to_thread
    import orjson

    from engine.cli import escaped
    from engine.rows import plain

    async for row in run:
        record = {"row_id": row.row_id} | {name: plain(value) for name, value in row.fields.items()}
        try:
            line = orjson.dumps(record)
        except TypeError:  # lone surrogates
            import json

            line = json.dumps(record).encode()
        if stdout.isatty():  # a file gets the rows as they are; a terminal must not obey them
            line = escaped(line.decode()).encode()
        try:  # in a thread: a reader that takes its time must hold up no call, and no signal
            await anyio.to_thread.run_sync(_print_line, stdout.buffer, line + b"\n")
        except BrokenPipeError:  # it left: what is in flight is paid
            await run.drain()
            raise


def _print_line(stdout: BinaryIO, line: bytes) -> None:
    stdout.write(line)
    stdout.flush()


async def heed(
    signals: AsyncIterator[signal.Signals], run: Run, stopped: list[int], progress: Progress
) -> None:
    """Drain on the first signal, stop at once on the second; a third ends the process."""
    import anyio

    async with anyio.create_task_group() as tasks:
        async for number in signals:
            stopped.append(int(number))
            if len(stopped) == 1:
                progress.say(
                    "engine: stopping once the calls in flight are done; again stops at once"
                )
                tasks.start_soon(run.drain)
            elif len(stopped) == 2:
                run.stop()
            else:  # as a kill would: what is stored is whole
                os._exit(128 + number)
