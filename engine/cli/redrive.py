"""`engine redrive RUN`: try the dead letters of a run again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from engine.cli import visible
from engine.cli.run import command as run_command
from engine.cli.tables import opened

if TYPE_CHECKING:
    from engine.past import Past
    from engine.store.protocol import RunRecord

__all__ = ["command"]

_OPTIONS = [o for o in run_command.params if o.name not in ("file", "fresh")]


def _redrive(run: str, stage: str | None, dry_run: bool, **options: Any) -> int:
    """Try the dead letters of a run again, and run the pipeline, as `engine run` does.

    A dead letter stays dead while what made it is unchanged: this forgets that it died. What it has
    paid for is in the store, and is not paid for again. RUN is FILE or FILE@ID.
    """
    with opened(run) as past:
        keys, others, told = _dead(past, past.run, stage)
        file = past.file
    click.echo(f"engine: {told}", err=True)
    if dry_run or not (keys or others):
        return 0
    context = click.get_current_context()
    return int(context.invoke(run_command, file=file, fresh=False, redrive=keys, **options))


def _dead(past: Past, record: RunRecord, stage: str | None) -> tuple[list[bytes], int, str]:
    """Return the memo keys of the dead letters to forget, how many others, and a line on them."""
    from engine.errors import InputError, nearest

    if record.generation != past.store.generation:
        raise InputError(
            f"run {record.id} belongs to generation {record.generation}, and a run goes on from "
            f"generation {past.store.generation}: nothing of the older one is tried again"
        )
    if stage is not None and stage not in record.stages:
        near = nearest(stage, record.stages, say="; did you mean {!r}?")
        raise InputError(f"run {record.id} of {past.file} has no stage {stage!r}{near}")
    keys, counts, gone = [], Counter[str](), 0
    for row in past.store.rows(fate="dead", run=record.id):
        if stage is not None and row.stage != stage:
            continue
        key = bytes.fromhex(row.note.get("memo", ""))
        memo = past.store.memo(key) if key else None
        if memo is not None and "dead" in (memo.kind, memo.note.get("kind")):
            keys.append(key)
            counts[row.stage] += 1
        else:
            gone += 1  # any run tries it: it is not recorded, or was tried since
    where = ", ".join(f"{key} {count}" for key, count in counts.items())
    told = f"run {record.id}: {_letters(len(keys))} to try again" + (f" ({where})" if keys else "")
    if gone:
        told += f"; {_letters(gone)} that any run tries again, or has tried since"
    return keys, gone, visible(told)


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


command = click.Command(
    "redrive",
    callback=_redrive,
    params=[
        click.Argument(["run"]),
        click.Option(["--stage"], metavar="KEY", help="Only those of this stage."),
        click.Option(["--dry-run"], is_flag=True, help="Say how many there are; run nothing."),
        *_OPTIONS,
    ],
    help=_redrive.__doc__,
)
