"""`engine trace RUN ROW`: where each phrase of a finished row came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from engine.cli import visible
from engine.cli.tables import opened

if TYPE_CHECKING:
    from engine.store.protocol import RowRecord
    from engine.text import Text

__all__ = ["command"]

LONG = 120  # characters of one phrase in a prompt
COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red", "bright_cyan", "bright_green")


@click.command("trace")
@click.argument("run")
@click.argument("row", required=False)
@click.option("--field", "only", metavar="NAME", help="Show one field alone, such as `chosen`.")
@click.option("--depth", default=1, show_default=True, help="How many prompts to look behind.")
def command(run: str, row: str | None, only: str | None, depth: int) -> int:
    """Show which reply, template, source or stage made each phrase of a row.

    Each phrase is followed by the number of its source; what has no number stands in the code.

    RUN is FILE or FILE@ID. ROW is the beginning of a row's id, or its number (1 is the first);
    left out, the finished rows are listed.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    with opened(run) as past:
        records = list(past.store.rows(fate="finished", run=past.run.id))
        if not records:
            click.echo(f"engine: {run} has no finished rows", err=True)
            return 1
        if row is None:
            _list(console, records)
            return 0
        record = _chosen(records, row, only)
        _Trace(console, depth).show(record, only)
    return 0


def _chosen(records: list[RowRecord], row: str, field: str | None) -> RowRecord:
    """Return the row of a number or an id; of one that finished in several stages, the first.

    If a field is asked for, the first that has it.
    """
    from engine.errors import InputError

    if row.isdigit() and len(row) < 6:
        if not 1 <= int(row) <= len(records):
            raise InputError(f"there is no row {row}: the run has {len(records)} finished rows")
        first = records[int(row) - 1]
        found = [first, *(record for record in records if record.row_id == first.row_id)]
    else:
        found = [r for r in records if r.row_id.hex().startswith(row.lower())]
    ids = {record.row_id for record in found}
    if len(ids) != 1:
        many = f"{len(ids)} finished rows begin" if found else "no finished row begins"
        raise InputError(f"{many} with {row!r}: `engine trace RUN` lists them")
    return next((record for record in found if field in record.fields), found[0])


def _list(console: Any, records: list[RowRecord]) -> None:
    from rich.text import Text as Painted

    branched = len({record.stage for record in records}) > 1
    for i, record in enumerate(records, 1):
        shown = [t for _, t in texts(record.fields)] or list(record.fields.values())
        excerpt = " · ".join(str(value).replace("\n", " ")[:40] for value in shown)
        line = Painted(f"{i:>4} ", "dim")
        line.append(record.row_id.hex()[:12], "bold")
        line.append(f"  {record.stage}" if branched else "")
        line.append(f"  {visible(excerpt)[:100]}")
        console.print(line)


def texts(value: Any, path: str = "") -> Iterator[tuple[str, Text]]:
    """Yield (path, text) of every text in a field value, such as `chosen[0].content`."""
    from pydantic import BaseModel

    from engine.text import Text

    if isinstance(value, Text):
        yield path, value
    elif isinstance(value, BaseModel):
        yield from texts(value.__dict__, path)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from texts(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from texts(item, f"{path}[{i}]")


class _Trace:
    """Paints texts by source, numbers the sources, and tells what each one is."""

    def __init__(self, console: Any, depth: int) -> None:
        self._console, self._depth = console, depth
        self._numbers: dict[bytes, int] = {}
        self._leaves: list[tuple[Text, int]] = []

    def show(self, record: RowRecord, only: str | None) -> None:
        """Print the row's texts, then the legend."""
        from rich.text import Text as Painted

        from engine.errors import InputError, nearest

        fields = record.fields
        if only is not None:
            if only not in fields:
                raise InputError(
                    f"the row has no field {only!r}"
                    + nearest(only, fields, say="; did you mean {}?")
                )
            fields = {only: fields[only]}
        self._console.print(Painted(f"row {record.row_id.hex()}", "bold"))
        for path, text in texts(dict(fields)):
            self._console.print(Painted(path, "dim"))
            self._console.print(self._painted(text, 0))
        self._console.print()
        shown = 0
        while shown < len(self._leaves):
            leaf, depth = self._leaves[shown]
            shown += 1
            self._tell(leaf, shown, depth)

    def _number(self, leaf: Text, depth: int) -> int:
        did = leaf.did
        if did not in self._numbers:
            self._leaves.append((leaf, depth))
            self._numbers[did] = len(self._leaves)
        return self._numbers[did]

    def _painted(self, text: Text, depth: int) -> Any:
        from rich.text import Text as Painted

        from engine.text.origins import is_literal

        line = Painted("  ")
        for span in text.spans():
            phrase = visible(str(text)[span.start : span.stop]).replace("\n", "\n      ")
            if is_literal(span.leaf):
                line.append(phrase, "dim")
                continue
            number = self._number(span.leaf, depth)
            colour = COLOURS[(number - 1) % len(COLOURS)]
            line.append(_shortened(phrase) if depth else phrase, colour)
            line.append(f"[{number}]", f"dim {colour}")
        return line

    def _tell(self, leaf: Text, number: int, depth: int) -> None:
        from rich.text import Text as Painted

        from engine.text.origins import describe

        line = Painted(f"[{number}] ", COLOURS[(number - 1) % len(COLOURS)])
        self._console.print(line.append(visible(describe(leaf)), ""))
        origin = leaf.origin
        if origin is None or not origin.inputs or depth >= self._depth:
            return
        roles = origin.params.get("roles", [])
        for i, read in enumerate(origin.inputs):
            role = roles[i] if i < len(roles) else "begins" if origin.op == "call" else "from"
            prompt = self._painted(read, depth + 1)
            self._console.print(Painted(f"    {role}:", "dim").append_text(prompt))


def _shortened(phrase: str) -> str:
    """Return a long phrase of a prompt by its beginning and end: few-shots fill pages."""
    cut = LONG // 2
    if len(phrase) < 2 * LONG:
        return phrase
    return f"{phrase[:cut].rstrip()} … {len(phrase) - 2 * cut} more … {phrase[-cut:].lstrip()}"
