"""The summary of a run: counts, tokens, reasons with examples; on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.cli import visible
from engine.views import SPENT_COLUMNS, STAGE_COLUMNS, clock, spent_line, spent_rows, stage_numbers

if TYPE_CHECKING:
    from rich.table import Table

    from engine.accounting import Summary
    from engine.services import Counters

ITEMS = 20  # reasons of a stage

__all__ = ["plain_table", "print_summary", "spent_table"]


def plain_table(*columns: str, names: int = 1) -> Table:
    """Return an empty table without lines, whose first `names` columns are names."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < names else "right", no_wrap=True)
    return table


def spent_table(stages: Mapping[str, Counters]) -> Table:
    """Return what paid calls have taken, by stage and model."""
    table = plain_table(*SPENT_COLUMNS, names=2)
    for stage, model, *numbers in spent_rows(stages):
        table.add_row(stage, visible(model), *numbers)
    return table


def print_summary(summary: Summary) -> None:
    """Print how a run ended."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(
        Text(
            f"{summary.pipeline}: {summary.status}: {summary.finished} finished, "
            f"{summary.rejected} rejected, {summary.dead} dead, {clock(summary.seconds)}",
            style="bold",
        )
    )
    table = plain_table("stage", *STAGE_COLUMNS)
    for key, c in summary.stages.items():
        table.add_row(key, *(f"{n:,}" if n else "" for n in stage_numbers(c)))
    console.print(table)
    if spent := spent_line(summary.stages):
        console.print(spent_table(summary.stages))
        console.print(Text(spent))
    replayed = sum(c.replayed for c in summary.stages.values())
    if replayed:
        console.print(Text(f"{replayed} calls were answered from the store and not paid again"))
    for field, counts in summary.tally.items():
        parts = ", ".join(
            f"{visible(v)} {n}" for v, n in sorted(counts.items(), key=lambda x: -x[1])
        )
        console.print(Text(f"{field}: {parts}"))
    for key, c in summary.stages.items():
        for field, count in c.sanitised.items():
            console.print(
                Text(f"{key}: {count} lone surrogates in {field!r} were written as U+FFFD")
            )
        for reason, count in c.reasons.most_common(ITEMS):
            console.print(Text(f"{key}: {count} x {visible(reason)}", style="yellow"))
            for example in c.examples.get(reason, ()):
                if example:
                    console.print(
                        Text(f"    {visible(example).replace(chr(10), ' ')[:160]}", style="dim")
                    )
        if (left := len(c.reasons) - ITEMS) > 0:
            console.print(Text(f"{key}: … {left:,} more reasons: `engine inspect` lists the rows"))
