"""`engine export RUN`: the finished rows that are there so far, as a dataset."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli import visible
from engine.cli.tables import opened

__all__ = ["command"]


@click.command("export")
@click.argument("run")
@click.option("--stage", metavar="KEY", help="A sink, or a stage whose rows finish.")
@click.option("--to", metavar="PATH", help="Write here: .jsonl, .parquet, or a folder.")
def command(run: str, stage: str | None, to: str | None) -> int:
    """Write the finished rows of a run, though it has not ended, or was stopped.

    RUN is FILE or FILE@ID. Without --to, every dataset of the pipeline is written where its sink
    would write it, with the sink's settings: the same bytes, for these rows. With --to, the columns
    are those of the pipeline's dataset of these rows, if it has one. Nothing is pushed to a hub.
    """
    import anyio

    from engine.errors import InputError, short_path
    from engine.exporting import exports

    with opened(run) as past:
        record = past.run
        if record.status == "pilot" and past.number is None:
            raise InputError(
                f"{past.file} has only been tried: run {record.id} is a pilot, whose rows are a "
                f"sample. `engine run {past.file}` makes the rest; {past.file}@{record.id} names it"
            )
        planned = exports(past.require(), stage, Path(to) if to else None)
        if not past.counts(record)["finished"]:
            click.echo(f"engine: run {record.id} of {visible(past.file)} has no finished rows: "
                       "nothing is written", err=True)  # fmt: skip
            return 1
        for export in planned:
            count = anyio.run(export.write, past, record)
            place = short_path(str(export.path))
            click.echo(f"engine: {count:,} rows of run {record.id} -> {visible(place)}", err=True)
    return 0
