"""`engine runs FILE`: the runs of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from engine.accounting import paid
from engine.cli.tables import grid, opened, print_json, stdout, when
from engine.views import clock

if TYPE_CHECKING:
    from engine.past import Past
    from engine.store.protocol import RunRecord

__all__ = ["command"]

COLUMNS = ["run", "generation", "when", "status", "finished", "rejected", "dead"]
COLUMNS += ["calls", "replayed", "cost", "took"]


@click.command("runs")
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: str, as_json: bool) -> int:
    """List the runs of a pipeline, oldest first.

    `calls` were paid, `replayed` ones were answered from the store. A run that was killed shows as
    interrupted; what it had finished is counted, and what it had paid but for the last seconds.
    """
    with opened(file) as past:
        runs = [describe(past, record) for record in past.store.runs()]
    if as_json:
        print_json({"file": file, "runs": runs})
        return 0
    rows = [
        (
            r["id"],
            r["generation"] if runs[-1]["generation"] > 1 else None,
            when(r["started"]),
            r["status"],
            r["finished"],
            r["rejected"] or None,
            r["dead"] or None,
            r["calls"] or None,
            r["replayed"] or None,
            f"{r['cost']:.4f}" if r["cost"] else None,
            None if r["seconds"] is None else clock(r["seconds"]),
        )
        for r in runs
    ]
    console = stdout()
    grid(console, COLUMNS, rows, left=("when", "status"))
    for r in runs:
        if r["pid"] is not None:
            console.print(f"run {r['id']} is running in process {r['pid']}")
    return 0


def describe(past: Past, record: RunRecord) -> dict[str, Any]:
    """Return what is known of a run, as plain JSON; `calls` and the like are null if it is not."""
    status, pid = past.status(record)
    summary = record.summary
    spent: dict[str, Any] = dict.fromkeys(("calls", "replayed", "cost"))
    if summary:
        all_paid = [one for models in paid([record]).values() for one in models.values()]
        spent["calls"] = sum(one.calls for one in all_paid)
        spent["cost"] = sum((one.cost for one in all_paid), 0.0)
    if "stages" in summary:
        spent["replayed"] = sum(stage["replayed"] for stage in summary["stages"].values())
        counts = {name: summary[name] for name in ("finished", "rejected", "dead")}
    else:
        counts = past.counts(record)
    return {
        "id": record.id,
        "generation": record.generation,
        "started": record.started,
        "ended": record.ended,
        "seconds": summary.get("seconds"),
        "status": status,
        "pid": pid,
        **counts,
        **spent,
    }
