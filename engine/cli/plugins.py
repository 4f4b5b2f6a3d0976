"""`engine plugins`: what is installed, and the traceback of what is broken."""

from __future__ import annotations

import traceback

import click

__all__ = ["command"]


@click.command("plugins")
def command() -> int:
    """List the installed plugins: name, version, stages, resources."""
    from engine.plugins import Plugins, installed

    broken = False
    for namespace, entry in sorted(installed().items()):
        plugins = Plugins()
        owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        click.secho(f"{namespace}", bold=True, nl=False)
        click.echo(f"  {owner}")
        try:
            plugins.load(namespace)
        except Exception as error:
            broken = True
            cause = error.__cause__ or error
            click.echo(f"  broken: {error}", err=True)
            click.echo("".join(traceback.format_exception(cause)).rstrip(), err=True)
            continue
        for spec in plugins.stages(namespace):
            click.echo(f"  {spec.name:<24} {spec.kind:<7} {_first_line(spec.doc)}")
        for found in plugins.resources(namespace):
            click.echo(f"  {found.name:<24} resource {_first_line(found.doc)}")
    return 1 if broken else 0


def _first_line(doc: str) -> str:
    return doc.partition("\n")[0]
