"""`engine inspect RUN [ROW]`: what became of a run, or of one of its rows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from engine.cli.runs import describe
from engine.cli.tables import grid, in_a_line, opened, print_json, stdout, when
from engine.views import clock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console

    from engine.past import Past
    from engine.store.protocol import RowRecord, RunRecord

__all__ = ["command"]

SHOWN = 5
"""Dead letters that are shown without being asked for."""
EXAMPLES = 3


@click.command("inspect")
@click.argument("run")
@click.argument("row", required=False)
@click.option("--dead", is_flag=True, help="Show all dead letters.")
@click.option("--rejected", is_flag=True, help="Show all rejected rows.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(run: str, row: str | None, dead: bool, rejected: bool, as_json: bool) -> int:
    """Show what became of a run: its stages, why rows were dropped, dead letters, what was kept.

    RUN is FILE or FILE@ID. ROW is the beginning of a row's id: its fate, its fields.
    """
    with opened(run) as past:
        record = past.run
        if row is not None:
            found = past.store.find_rows(_hex(row), run=record.id, stages=record.stages)
            if not found:
                return _no_row(past, record, row)
            told: Any = [describe_row(one) for one in found]
            show: Any = _show_rows
        elif dead or rejected:
            fates = [fate for fate, on in (("dead", dead), ("rejected", rejected)) if on]
            told = [describe_row(r) for fate in fates for r in _rows(past, record, fate)]
            show = _show_rows
        else:
            told, show = describe_run(past, record), _show_run
        if as_json:
            print_json(told)
        else:
            show(stdout(), told)
    return 0


def _hex(row: str) -> str:
    from engine.errors import InputError

    if not row or len(row) > 32 or any(c not in "0123456789abcdef" for c in row.lower()):
        raise InputError(f"{row!r} is not the beginning of a row's id, which is 32 hex digits")
    return row.lower()


def _no_row(past: Past, record: RunRecord, row: str) -> int:
    from engine.errors import InputError

    raise InputError(
        f"run {record.id} of {past.file} has no row whose id begins with {row!r}: "
        f"`engine trace {past.file}@{record.id}` lists the finished ones"
    )


def _rows(past: Past, record: RunRecord, fate: Any) -> Iterable[RowRecord]:
    return past.store.rows(fate=fate, run=record.id)


def describe_row(record: RowRecord) -> dict[str, Any]:
    """Return a line of a manifest as plain JSON."""
    return {
        "row_id": record.row_id.hex(),
        "fate": record.fate,
        "stage": record.stage,
        "order": list(record.order),
        **{k: v for k, v in record.note.items() if k not in ("memo",)},
        "fields": dict(record.fields),
    }


def describe_run(past: Past, record: RunRecord) -> dict[str, Any]:
    """Return what a run did, as plain JSON."""
    stages: dict[str, Any] = {}
    summary = record.summary.get("stages", {})
    found = past.store.count_rows(record.id)
    for key in record.stages or summary:
        held = {f: found[f, key] for f in ("finished", "rejected", "dead") if (f, key) in found}
        stages[key] = summary.get(key, held)
    return {
        **describe(past, record),
        "error": record.summary.get("error", ""),
        "stages": stages,
        "reasons": _reasons(past, record),
        "dead_letters": [describe_row(r) for r in _rows(past, record, "dead")],
        "kept": {
            key: stage["accepted"] for key, stage in record.stages.items() if stage["accepted"]
        },
    }


def _reasons(past: Past, record: RunRecord) -> list[dict[str, Any]]:
    """Return why rows were rejected, by stage, with examples."""
    reasons: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in _rows(past, record, "rejected"):
        why = row.stage, str(row.note["reason"])
        reasons[why] += 1
        some = examples.setdefault(why, [])
        if len(some) < EXAMPLES:
            example = row.note.get("example") or _excerpt(row.fields)
            some.append({"row_id": row.row_id.hex(), "example": str(example)})
    return [
        {"stage": why[0], "reason": why[1], "rows": count, "examples": examples[why]}
        for why, count in reasons.most_common()
    ]


def _excerpt(fields: Mapping[str, Any]) -> str:
    texts = [str(v) for v in fields.values() if isinstance(v, str) and v]
    return " | ".join(text[:60] for text in texts[-3:])


# --- for people ---------------------------------------------------------------------------------


def _show_run(console: Console, run: Mapping[str, Any]) -> None:
    from rich.text import Text

    took = "" if run["seconds"] is None else f", {clock(run['seconds'])}"
    by = "" if run["pid"] is None else f" by process {run['pid']}"
    head = f"run {run['id']} (generation {run['generation']}, {when(run['started'])}): "
    head += f"{run['status']}{by}: {run['finished']} finished, {run['rejected']} rejected, "
    console.print(Text(f"{head}{run['dead']} dead{took}", "bold"))
    columns = ["stage", "in", "out", "rejected", "dead", "reused", "calls", "replayed", "cost"]
    if any("received" in stage for stage in run["stages"].values()):
        rows = [_numbers(key, stage) for key, stage in run["stages"].items()]
        grid(console, columns, rows)
    else:
        ended = "It was killed" if run["pid"] is None else "It has not ended"
        console.print(Text(f"{ended}: of its stages, this is known by the rows alone.", "dim"))
        counts = [
            (key, stage.get("finished"), stage.get("rejected"), stage.get("dead"))
            for key, stage in run["stages"].items()
        ]
        grid(console, ["stage", "finished", "rejected", "dead"], counts)
    for key, older in run["kept"].items():
        count = f"{len(older)} older fingerprint{'s' if len(older) > 1 else ''}"
        console.print(Text(f"kept: stage {key} accepts results of {count}", "cyan"))
    for reason in run["reasons"]:
        line = f"{reason['stage']}: {reason['rows']} x {in_a_line(reason['reason'])}"
        console.print(Text(line, "yellow"))
        for example in reason["examples"]:
            console.print(_line(f"    {example['row_id'][:12]}  {in_a_line(example['example'])}"))
    for letter in run["dead_letters"][:SHOWN]:
        _show_row(console, letter, short=True)
    if len(run["dead_letters"]) > SHOWN:
        more = len(run["dead_letters"]) - SHOWN
        console.print(Text(f"{more} dead letters more: --dead shows them", "dim"))
    if run["error"]:
        console.print(Text(in_a_line(run["error"], 2000), "red"))


def _numbers(key: str, stage: Mapping[str, Any]) -> list[object]:
    counts = [stage["received"], stage["out"], stage["rejected"] + stage["rejected_children"]]
    counts += [stage[name] for name in ("dead", "reused", "calls", "replayed")]
    cost = f"{stage['cost']:.4f}" if stage["cost"] else None
    return [key, *(count or None for count in counts), cost]


def _show_rows(console: Console, rows: list[Mapping[str, Any]]) -> None:
    for row in rows:
        _show_row(console, row)


def _show_row(console: Console, row: Mapping[str, Any], *, short: bool = False) -> None:
    from rich.text import Text

    colour = {"finished": "green", "rejected": "yellow", "dead": "red"}[row["fate"]]
    line = Text(f"{row['fate']} ", colour).append(row["row_id"], "bold")
    line.append(f" at stage {row['stage']}")
    if row.get("attempts"):
        line.append(f", {row['attempts']} attempt{'s' if row['attempts'] > 1 else ''}")
    if row.get("cost"):
        line.append(f", cost {row['cost']:.4f}")
    console.print(line)
    for name in ("reason", "error", "at"):
        if row.get(name):
            console.print(_line(f"  {in_a_line(row[name], 2000)}", colour))
    for name, value in row["fields"].items():
        shown = in_a_line(value, 120 if short else 2000)
        console.print(_line(f"  {in_a_line(name)}: ", "dim").append(shown, "default"))


def _line(text: str, style: str = "dim") -> Any:
    from rich.text import Text

    return Text(text, style)
