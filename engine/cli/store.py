"""`engine store check|du|gc FILE`: look after a pipeline's store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import visible
from engine.cli.tables import grid, print_json, stdout

if TYPE_CHECKING:
    from engine.store.checking import Report
    from engine.store.room import Room

__all__ = ["command"]

SHOWN = 20
"""Damages that are told one by one."""


@click.group("store")
def command() -> None:
    """Look after a pipeline's store.

    FILE is the pipeline's file, or the folder of its store (`.engine/NAME`).
    """


@command.command("check")
@click.argument("file", type=click.Path())
@click.option("--repair", is_flag=True, help="Drop what is damaged, so that it is done again.")
def check(file: str, repair: bool) -> int:
    """Read all of a store, and tell what is damaged and what that costs.

    Exit code 4 if something is. `--repair` copies all that is sound into a new database and keeps
    the old one beside it.
    """
    from engine.store.checking import check as look
    from engine.store.checking import repair as mend

    folder = store_folder(file)
    found = look(folder)
    _tell(found)
    if not found.damages:
        click.echo("no damage")
        return 0
    if not repair:
        place = "FILE" if file.startswith("-") else visible(file)
        click.echo(f"`engine store check --repair {place}` drops what is damaged", err=True)
        return 4
    mended = mend(folder)
    kept = ", ".join(f"{count:,} {table}" for table, count in mended.records.items())
    click.echo(f"repaired: kept {kept}; the damaged database lies at {mended.aside}")
    return 0


@command.command("du")
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON; sizes are in bytes.")
def du(file: str, as_json: bool) -> int:
    """Show what takes room in a store.

    Records are reckoned by their values; `database` is the file that holds them.
    """
    from engine.store.room import usage

    found = usage(store_folder(file))
    if as_json:
        print_json([asdict(room) for room in found])
    else:
        _print(found)
    return 0


@command.command("gc")
@click.argument("file", type=click.Path())
@click.option("--runs", type=click.IntRange(min=1), help="Keep only the newest N runs.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
def gc(file: str, runs: int | None, dry_run: bool) -> int:
    """Remove what nothing needs any more.

    That is: generations older than the newest, with their runs; texts and blobs that nothing refers
    to; what killed runs left; work folders of finished rows.
    """
    from engine.store.room import collect

    freed = collect(store_folder(file), runs=runs, dry_run=dry_run)
    if not freed:
        click.echo("nothing to remove")
        return 0
    _print(freed)
    click.echo("this would be removed" if dry_run else "removed")
    return 0


def store_folder(file: str) -> Path:
    """Return the folder of a pipeline's store. Raises InputError for a file without a name."""
    from engine.errors import InputError
    from engine.loader import load

    if Path(file).is_dir():
        return Path(file)
    document = load(file)
    name = document.value.get("name") if isinstance(document.value, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{file} has no `name`: give the folder of its store (.engine/NAME)")
    return Path(document.folder) / ".engine" / name


def _tell(found: Report) -> None:
    rows = [(table, f"{count:,}") for table, count in found.records.items()]
    grid(stdout(), ("sound", "records"), [*rows, ("blobs", f"{found.blobs:,}")])
    for damage in found.damages[:SHOWN]:
        click.echo(visible(f"damaged: {damage.what}; lost: {damage.costs}"), err=True)
    if len(found.damages) > SHOWN:
        click.echo(f"... and {len(found.damages) - SHOWN:,} more", err=True)


def _print(found: list[Room]) -> None:
    rows = [(room.what, room.of, f"{room.count:,}", _size(room.bytes)) for room in found]
    grid(stdout(), ("what", "of", "count", "size"), rows, left=("of",))


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
