"""`engine diff RUN RUN`: what differs between two runs, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import click

from engine.cli import visible
from engine.cli.inspect import describe_run
from engine.cli.tables import grid, in_a_line, opened, print_json, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from engine.past import Past
    from engine.store.protocol import RowRecord, RunRecord

__all__ = ["command"]

NEAR = 6
"""Equal words that are shown beside a change."""
MOST_WORDS = 4000
"""Words of a text beyond which its changes are not looked for."""


@click.command("diff")
@click.argument("run_a", metavar="RUN")
@click.argument("run_b", metavar="RUN")
@click.option("--rows", "most", default=10, show_default=True, help="How many rows to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all rows.")
def command(run_a: str, run_b: str, most: int, as_json: bool) -> int:
    """Compare two runs: which stages were made of something else, and which rows changed.

    RUN is FILE or FILE@ID. Rows are the same row where their ids are equal.
    """
    with opened(run_a) as a, opened(run_b) as b:
        one, two = a.run, b.run
        only_a, only_b, changed, same = compare(a, one, b, two)
        told = {
            "a": _counted(a, one),
            "b": _counted(b, two),
            "changes": _changes(one, two),
            "rows": {"same": same, "only_a": only_a, "only_b": only_b, "changed": len(changed)},
        }
        pairs = (_pair(a, one, b, two, row_id) for row_id in changed)
        if as_json:
            rows = [{"row_id": row_id, "fields": fields} for row_id, fields in pairs]
            print_json(told | {"rows": told["rows"] | {"changed": rows}})
        else:
            _show(stdout(), told, pairs, most)
    return 0


def _counted(past: Past, record: RunRecord) -> dict[str, Any]:
    described = describe_run(past, record)
    return {
        "file": past.file,
        **{name: described[name] for name in ("id", "generation", "status", "finished")},
        **{name: described[name] for name in ("rejected", "dead")},
        "stages": described["stages"],
    }


def _changes(one: RunRecord, two: RunRecord) -> dict[str, list[str]]:
    """Return what each stage that both runs have was made of, where it differs; and lone stages."""
    from engine.fingerprint import changes

    found = {}
    for key in dict.fromkeys([*one.stages, *two.stages]):
        if key not in one.stages or key not in two.stages:
            found[key] = [f"only in run {one.id if key in one.stages else two.id}"]
        elif differing := changes(one.stages[key], two.stages[key]):
            found[key] = differing
    return found


def compare(
    a: Past, one: RunRecord, b: Past, two: RunRecord
) -> tuple[list[str], list[str], list[str], int]:
    """Return the ids of finished rows in A alone, in B alone, in both but changed; and the rest."""
    before = _digests(a, one)
    only_b, changed, same = [], [], 0
    for row_id, held in _digests(b, two).items():
        known = before.pop(row_id, None)
        if known is None:
            only_b.append(row_id)
        elif known == held:
            same += 1
        else:
            changed.append(row_id)
    return list(before), only_b, changed, same


def _digests(past: Past, record: RunRecord) -> dict[str, bytes]:
    from engine.keys import canonical, digest

    rows = past.store.rows(fate="finished", run=record.id)
    return {row.row_id.hex(): digest(canonical(row.fields)) for row in rows}


def _pair(a: Past, one: RunRecord, b: Past, two: RunRecord, row_id: str) -> tuple[str, Any]:
    """Return a row's changed fields: name -> what A and B have; what one lacks is left out."""
    from engine.keys import canonical

    old, new = _finished(a, one, row_id).fields, _finished(b, two, row_id).fields
    fields = {}
    for name in dict.fromkeys([*old, *new]):
        sides = {s: f[name] for s, f in (("a", old), ("b", new)) if name in f}
        if len(sides) == 1 or canonical(sides["a"]) != canonical(sides["b"]):
            fields[name] = sides
    return row_id, fields


def _finished(past: Past, record: RunRecord, row_id: str) -> RowRecord:
    found = past.store.find_rows(row_id, run=record.id, stages=record.stages)
    return next(row for row in found if row.fate == "finished")


# --- for people ---------------------------------------------------------------------------------


def _show(console: Console, told: Mapping[str, Any], pairs: Iterator[Any], most: int) -> None:
    from rich.text import Text

    a, b, rows = told["a"], told["b"], told["rows"]
    for name, side, style in (("A", a, "red"), ("B", b, "green")):
        counts = ", ".join(f"{side[what]} {what}" for what in ("finished", "rejected", "dead"))
        line = Text(f"{name} ", style).append(f"{visible(side['file'])}@{side['id']}", "bold")
        console.print(line.append(f" {side['status']}: {counts}"))
    for key, phrases in told["changes"].items():
        console.print(Text(f"{key}: {in_a_line('; '.join(phrases), 2000)}", "yellow"))
    grid(console, ["stage", *_COLUMNS], list(_side_by_side(a["stages"], b["stages"])))
    console.print(
        Text(
            f"rows: {rows['same']} the same, {rows['changed']} changed, "
            f"{len(rows['only_a'])} only in A, {len(rows['only_b'])} only in B",
            "bold",
        )
    )
    for sign, side, style in (("-", "only_a", "red"), ("+", "only_b", "green")):
        for row_id in rows[side][:most]:
            console.print(Text(f"{sign} {row_id}", style))
        if len(rows[side]) > most:
            console.print(Text(f"{sign} {len(rows[side]) - most} more", "dim"))
    for (row_id, fields), _ in zip(pairs, range(most), strict=False):
        console.print(Text(f"~ {row_id}", "bold"))
        for name, sides in fields.items():
            line = Text(f"  {in_a_line(name)}: ", "dim")
            console.print(line.append_text(_changed(sides, marked=not console.is_terminal)))
    if rows["changed"] > most:
        console.print(Text(f"~ {rows['changed'] - most} more: --rows {rows['changed']}", "dim"))


_COLUMNS = ("in A", "in B", "out A", "out B", "rejected A", "rejected B", "dead A", "dead B")


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[list[object]]:
    for key in dict.fromkeys([*a, *b]):
        row: list[object] = [key]
        for name in ("received", "out", "rejected", "dead"):
            for stage in (a.get(key, {}), b.get(key, {})):
                count = stage.get(name, stage.get("finished") if name == "out" else None)
                if name == "rejected":
                    count = (count or 0) + stage.get("rejected_children", 0)
                row.append(count or None)
        yield row


def _changed(sides: Mapping[str, Any], *, marked: bool) -> Any:
    """Return the two values of a field, the changed words coloured, and `marked` as git does it."""
    from rich.text import Text

    if len(sides) == 1:
        ((side, value),) = sides.items()
        return Text(
            f"only in {side.upper()}: {in_a_line(value)}", "red" if side == "a" else "green"
        )
    old, new = (_words(value) for value in (sides["a"], sides["b"]))
    if max(len(old), len(new)) > MOST_WORDS:
        line = Text(in_a_line("".join(old)), "red")
        return line.append(" -> ", "dim").append(in_a_line("".join(new)), "green")
    painted = Text()
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for how, i, j, k, m in matcher.get_opcodes():
        if how == "equal":
            words, cut = old[i:j], 2 * NEAR
            shown = [*words[:cut], " … ", *words[-cut:]] if j - i > 2 * cut + 2 else words
            painted.append("".join(shown), "dim")
            continue
        gone, come = "".join(old[i:j]), "".join(new[k:m])
        if gone:
            painted.append(f"[-{gone}-]" if marked else gone, "red strike")
        if come:
            painted.append(f"{{+{come}+}}" if marked else come, "green")
    return painted


def _words(value: object) -> list[str]:
    """Return a value's words and what stands between them."""
    return re.findall(r"\s+|\w+|[^\w\s]", in_a_line(value, 1 << 30))
