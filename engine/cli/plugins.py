"""`engine plugins`: what is installed, and the traceback of what is broken."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import traceback
from typing import TYPE_CHECKING, Any

import click

from engine.cli import visible

if TYPE_CHECKING:
    from engine.plugins import Plugins

__all__ = ["command"]


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def command(as_json: bool) -> int:
    """List the installed plugins: name, distribution, version, and what each one registers.

    Of a plugin that cannot be loaded the traceback is shown, and the exit code is 2. What a stage
    or resource is, `engine stages` tells.
    """
    from engine.cli.installed import load_all

    plugins, _, broken = load_all()
    found = _described(plugins, broken)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return 2 if broken else 0
    for plugin in found:
        _print(plugin)
    for name, error in broken.items():
        shown = "".join(traceback.format_exception(error.__cause__ or error))
        click.echo(
            f"\nengine: plugin {name} is broken: {visible(f'{error}{chr(10)}{shown}')}", err=True
        )
    return 2 if broken else 0


def _described(plugins: Plugins, broken: dict[str, Exception]) -> list[dict[str, Any]]:
    from engine.plugins import installed

    found = []
    for name, entry in sorted(installed().items()):
        works = name not in broken
        module = plugins.manager.get_plugin(name)
        callers = plugins.manager.get_hookcallers(module) if works and module else None
        found.append(
            {
                "name": name,
                "distribution": entry.dist.name if entry.dist else None,
                "version": entry.dist.version if entry.dist else None,
                "module": entry.value,
                "stages": [spec.name for spec in plugins.stages(name)] if works else [],
                "resources": [spec.name for spec in plugins.resources(name)] if works else [],
                "hooks": sorted(caller.name for caller in callers or ()),
                "error": None if works else str(broken[name]),
            }
        )
    return found


def _print(plugin: dict[str, Any]) -> None:
    owner = f"{plugin['distribution'] or 'no distribution'} {plugin['version'] or ''}".strip()
    click.secho(visible(plugin["name"]), bold=True, nl=False)
    click.echo(visible(f"  {owner}, {plugin['module']}"), nl=False)
    click.echo() if plugin["error"] is None else click.secho("  broken", fg="red")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for what in ("stages", "resources", "hooks"):
        if plugin[what]:
            names = ", ".join(name.removeprefix(f"{plugin['name']}.") for name in plugin[what])
            line = f"  {what:<11}{visible(names)}"
            click.echo(textwrap.fill(line, width, subsequent_indent=" " * 13))
