"""The summary of a run: counts, tokens, reasons with examples; on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.cli import visible
from engine.views import clock, stage_numbers

if TYPE_CHECKING:
    from engine.runs import Summary

__all__ = ["print_summary"]


def print_summary(summary: Summary) -> None:
    """Print how a run ended."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(
        Text(
            f"{summary.pipeline}: {summary.status}: {summary.finished} finished, "
            f"{summary.rejected} rejected, {summary.dead} dead, {clock(summary.seconds)}",
            style="bold",
        )
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    columns = ["stage", "in", "out", "rejected", "dead", "reused", "calls", "tokens in", "out"]
    for column in columns:
        table.add_column(column, justify="left" if column == "stage" else "right", no_wrap=True)
    for key, c in summary.stages.items():
        table.add_row(key, *(str(n) if n else "" for n in stage_numbers(c)))
    console.print(table)
    cost = sum(c.cost for c in summary.stages.values())
    replayed = sum(c.replayed for c in summary.stages.values())
    if cost:
        console.print(Text(f"cost: {cost:.4f}"))
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
        for reason, count in c.reasons.most_common():
            console.print(Text(f"{key}: {count} x {visible(reason)}", style="yellow"))
            for example in c.examples.get(reason, ()):
                if example:
                    console.print(
                        Text(f"    {visible(example).replace(chr(10), ' ')[:160]}", style="dim")
                    )
    if summary.error:
        console.print(Text(visible(summary.error), style="red"))
