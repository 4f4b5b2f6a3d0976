"""`engine plan FILE`: what a run would reuse, do again and why, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from engine.cli import visible
from engine.cli.tables import grid, print_json, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from engine.planning import Plan, StagePlan

__all__ = ["command"]

COLUMNS = ["stage", "rows", "reused", "again", "to-do", "more", "rejected", "dead"]


@click.command("plan")
@click.argument("file", type=click.Path())
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Take the first N source rows."
)
@click.option(
    "--keep", multiple=True, metavar="stages.KEY", help="Accept this stage's older results."
)
@click.option("--plugin", "plugins", multiple=True, metavar="NAME", help="Load a plugin, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: str,
    overrides: tuple[str, ...],
    limit: int | None,
    keep: tuple[str, ...],
    plugins: tuple[str, ...],
    as_json: bool,
) -> int:
    """Say what `engine run` would reuse, what it would do again, and why.

    No call is made, no resource is opened, nothing is written; another engine may be running.
    Sources are read. `again` are rows that are computed anew with the replies that the store holds,
    at no cost; `to do` needs calls, or work that planning does not do; `more` may still come from
    stages above.
    """
    import anyio

    from engine.keeping import check_keep
    from engine.past import talking
    from engine.pipeline import read_pipeline
    from engine.planning import make_plan
    from engine.store import find_runs

    with talking():
        pipeline = read_pipeline(file, overrides=overrides, plugins=plugins)
    kept = check_keep(pipeline, keep)
    folder = pipeline.document.folder / ".engine" / pipeline.name
    store = find_runs(folder) if (folder / "store.sqlite").is_file() else None

    async def plan() -> Plan:
        return await make_plan(pipeline, store, limit=limit, keep=kept)

    try:
        with talking():
            made = anyio.run(plan)
    finally:
        if store is not None:
            store.close()
    if as_json:
        print_json(made.as_dict())
    else:
        _show(stdout(), made)
    return 0


def _show(console: Console, plan: Plan) -> None:
    from rich.text import Text

    head = Text(visible(plan.pipeline), "bold")
    if plan.run is None:
        head.append(": there is no store yet: this would be the first run", "")
    else:
        said = {"done": "is done", "failed": "failed", "running": "did not end"}
        status = said.get(plan.status or "", f"was {plan.status}")
        head.append(f": would go on from run {plan.run}, which {status}", "")
    console.print(head)
    grid(console, COLUMNS, [_numbers(key, stage) for key, stage in plan.stages.items()])
    console.print()
    for reason, stages in _reasons(plan).items():
        console.print(Text(visible(reason), "yellow"))
        console.print(Text(f"  {', '.join(stages)}"))
    for waits, stages in _waiting(plan).items():
        console.print(Text(f"depends on {waits}", "cyan"))
        console.print(Text(f"  {', '.join(stages)}"))
    held = sum(stage.counters.replayed for stage in plan.stages.values())
    kept = sum(stage.kept for stage in plan.stages.values())
    if kept:
        console.print(f"{_rows(kept)} accepted from an older fingerprint, as --keep asked")
    if held:
        console.print(f"{held:,} call{'s' if held > 1 else ''} would be answered from the store")
    console.print(Text(f"{_rows(plan.finished)} would finish without any call", "bold"))


def _numbers(key: str, stage: StagePlan) -> list[object]:
    told = stage.as_dict()
    counts = [told[name] for name in ("rows", "reused", "again")]
    counts += [stage.work + stage.waiting, _more(stage, "any" if stage.kind != "source" else "")]
    counts += [told["rejected"], told["dead"]]
    return [key, *(count if count else None for count in counts)]


def _more(stage: StagePlan, many: str) -> str:
    if stage.open and stage.kind == "source":
        return "any"
    return many if stage.more is None else f"+{stage.more}" if stage.more else ""


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _reasons(plan: Plan) -> dict[str, list[str]]:
    """Return each reason for which something is done, and the stages with their rows."""
    found: dict[str, list[str]] = {}
    for key, stage in plan.stages.items():
        told = dict(stage.why)
        if stage.changes:
            told.setdefault("; ".join(stage.changes), 0)
        for reason, count in told.items():
            found.setdefault(reason, []).append(f"{key} {_rows(count)}" if count else key)
    return found


def _waiting(plan: Plan) -> dict[str, list[str]]:
    """Return what is not known before other stages have run: those -> stages with their rows."""
    found: dict[str, list[Any]] = {}
    for key, stage in plan.stages.items():
        if stage.more == 0:
            continue
        bound = "" if stage.more is None else f" (up to {_rows(stage.more)} more)"
        found.setdefault(", ".join(stage.waits_for), []).append(key + bound)
    return found
