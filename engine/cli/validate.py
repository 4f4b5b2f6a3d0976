"""`engine validate FILE...`: everything that can be known before a run."""

from __future__ import annotations

import click

from engine.cli import visible
from engine.errors import InputError

__all__ = ["command"]


@click.command("validate")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value.")
@click.option("--plugin", "plugins", multiple=True, metavar="NAME", help="Load a plugin, too.")
def command(files: tuple[str, ...], overrides: tuple[str, ...], plugins: tuple[str, ...]) -> int:
    """Check pipelines without running them: names, configuration, wiring, types."""
    from engine.pipeline import read_pipeline

    failed = False
    for file in files:
        try:
            pipeline = read_pipeline(file, overrides=overrides, plugins=plugins)
        except InputError as error:
            failed = True
            click.echo(visible(str(error)), err=True)
            continue
        stages = " -> ".join(pipeline.order)
        click.echo(f"{file}: ok: {len(pipeline.stages)} stages: {stages}")
        for note in pipeline.notes:
            click.echo(f"{file}: note: {visible(note)}", err=True)
    return 2 if failed else 0
