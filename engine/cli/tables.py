"""What the commands that look at runs share: tables, times, JSON, and values in a line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from engine.cli import visible

if TYPE_CHECKING:
    from rich.console import Console

    from engine.past import Past

__all__ = ["grid", "in_a_line", "json_of", "opened", "print_json", "stdout", "when"]

PIPE_WIDTH = 160
"""Columns where stdout is no terminal."""


def stdout() -> Console:
    """Return a console for data that people read; markup in it is text."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width)


def grid(
    console: Console,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    left: Iterable[str] = (),
) -> None:
    """Print a table whose numbers stand to the right; columns without any value are left out."""
    from rich.table import Table
    from rich.text import Text

    gap = 2 if console.width >= 100 else 1
    table = Table(box=None, padding=(0, gap, 0, 0), header_style="dim", pad_edge=False)
    cells = [[visible("" if v is None else str(v)) for v in row] for row in rows]
    kept = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in cells)]
    lefts = {columns[0], *left}
    for i in kept:
        justify: Any = "left" if columns[i] in lefts else "right"
        table.add_column(columns[i], justify=justify, no_wrap=True, overflow="ellipsis")
    for row in cells:
        table.add_row(*(Text(row[i]) for i in kept))
    console.print(table)


def print_json(value: Any) -> None:
    """Print a value as JSON, indented, on stdout."""
    import json

    text = json.dumps(json_of(value), indent=2, ensure_ascii=False)
    click.echo(text.encode("utf-8", "backslashreplace").decode())


def json_of(value: Any) -> Any:
    """Return a value of a row as plain JSON; bytes are told in hex."""
    from engine.rows import plain

    value = plain(value)
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, list):
        return [json_of(item) for item in value]
    if isinstance(value, dict):
        return {name: json_of(item) for name, item in value.items()}
    return value


def when(seconds: float) -> str:
    """Return a wall time as people read it, here: the year only if it is another one."""
    then, now = time.localtime(seconds), time.localtime()
    return time.strftime("%m-%d %H:%M" if then.tm_year == now.tm_year else "%Y-%m-%d", then)


def in_a_line(value: object, most: int = 200) -> str:
    """Return a value in one line of at most so many characters, that cannot steer a terminal."""
    if not isinstance(value, str):
        import json

        value = json.dumps(json_of(value), ensure_ascii=False)
    text = " ".join(visible(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def opened(run: str) -> Past:
    """Open the store of FILE or FILE@ID; say on stderr if the file cannot be read any more."""
    from engine.past import open_past

    past = open_past(run)
    if past.problem:
        click.echo(f"engine: note: {visible(past.problem)}", err=True)
    return past
