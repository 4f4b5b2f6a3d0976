"""`engine plan FILE`: what a run would reuse, do again and why, and what it will take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from engine.cli import visible
from engine.cli.tables import grid, print_json, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from engine.pipeline import Pipeline
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
@click.option(
    "--pilot", type=click.IntRange(min=1), metavar="N", help="Run about N rows, and estimate all."
)
@click.option(
    "--rows", type=click.IntRange(min=1), metavar="N", help="Estimate for N accepted rows."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: str,
    overrides: tuple[str, ...],
    limit: int | None,
    keep: tuple[str, ...],
    plugins: tuple[str, ...],
    pilot: int | None,
    rows: int | None,
    as_json: bool,
) -> int:
    """Say what `engine run` would reuse, what it would do again, and why; and what it will take.

    No call is made, no resource is opened, nothing is written; another engine may be running.
    Sources are read. `again` are rows that are computed anew with the replies that the store holds,
    at no cost; `to do` needs calls, or work that planning does not do; `more` may still come from
    stages above. What it will take is told where stages say so: it is what their authors assume.

    With --pilot, a sample of about N rows a stage is run, and calls, tokens, time and cost of the
    whole run are estimated from what was measured. The run reuses all of it, so nothing is paid
    twice. No sink writes anything.
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
    if pilot is not None:
        return anyio.run(_pilot, pipeline, pilot, rows, limit, keep, as_json)
    if rows is not None:
        raise click.UsageError("--rows scales what a pilot has measured: give --pilot, too")
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
        said = {
            "done": "is done",
            "failed": "failed",
            "running": "did not end",
            "pilot": "was a pilot",
        }
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
    if plan.forecast:
        from engine.cli.estimate import show_forecast

        show_forecast(console, plan.forecast)


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


async def _pilot(
    pipeline: Pipeline,
    rows: int,
    accepted: int | None,
    limit: int | None,
    keep: tuple[str, ...],
    as_json: bool,
) -> int:
    """Run a pilot, which ends as a run does when it is stopped, and show what it says."""
    import contextlib
    import signal
    import sys

    import anyio

    from engine.cli.estimate import show_estimate
    from engine.cli.progress import Progress
    from engine.cli.run import again, heed
    from engine.planning import open_pilot, scaled

    run = open_pilot(pipeline, rows, limit=limit, keep=keep)
    stopped: list[int] = []
    progress = Progress(run, quiet=as_json)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(heed, signals, run, stopped, progress)
                with progress, contextlib.redirect_stdout(sys.stderr):
                    tasks.start_soon(progress.live)
                    async with run:
                        await run.finish()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            from engine.errors import first_error

            error = first_error(group)
            if isinstance(error, BaseExceptionGroup):
                raise
            raise error from None
    if run.summary.status != "pilot":
        line = again(click.get_current_context())
        click.echo(f"engine: stopped; this goes on from here:\n{line}", err=True)
        return 128 + stopped[0] if stopped else run.summary.exit_code
    estimated = scaled(run.pilot, accepted)
    if as_json:
        print_json(estimated.as_dict())
    else:
        show_estimate(stdout(), estimated, rows)
    return 0
