"""What a run will take, as `engine plan` shows it: assumed by stages, or measured by a pilot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from engine.cli import visible
from engine.cli.tables import grid

if TYPE_CHECKING:
    from rich.console import Console

    from engine.forecast import Forecast
    from engine.planning import Estimated

__all__ = ["show_estimate", "show_forecast"]

ASSUMED = ["stage", "in", "out", "calls", "new", "cached", "written", "cost", "hours", "bytes"]
MEASURED = ["stage", "tried", "in", "out", "calls", "new", "cached", "written", "cost", "time"]


def show_forecast(console: Console, stages: Mapping[str, Forecast]) -> None:
    """Print what the stages' own plans say."""
    from rich.text import Text

    told = {key: one for key, one in stages.items() if one.takes is not None or one.kind != "sink"}
    console.print()
    console.print(Text("What all of it takes, as its stages assume", "bold"))
    rows: list[list[object]] = []
    for key, one in told.items():
        takes = one.takes
        rows_in = None if one.kind == "source" else _count(one.rows_in)
        row: list[object] = [key, rows_in, _count(one.rows)]
        if takes is not None:
            figures = (takes.calls, takes.new, takes.cached, takes.out)
            row += [short(n) for n in figures]
            row += [_money(one.cost or 0.0), _hours(takes.hours), _bytes(takes.bytes)]
        rows.append(row + [None] * (len(ASSUMED) - len(row)))
    known = [one.takes for one in stages.values() if one.takes is not None]
    names = ("calls", "new", "cached", "out")
    total: list[object] = ["in all", None, None]
    total += [short(sum(getattr(takes, name) for takes in known)) for name in names]
    total.append(_money(sum(one.cost or 0.0 for one in stages.values())))
    total.append(_hours(sum(takes.hours for takes in known)))
    total.append(_bytes(sum(takes.bytes for takes in known)))
    grid(console, ASSUMED, [*rows, total])
    said = "Nothing of this is measured: rows, calls and tokens are what the authors of the stages "
    said += "think (prompt tokens new and from a server's cache, tokens written)"
    if any(one.cost is not None for one in told.values()):
        said += "; the cost follows from the chats' `prices`"
    if any(one.rows is None for one in told.values()):
        said += "; a `?` is what is not known beforehand"
    if silent := [key for key, one in told.items() if one.calls and one.takes is None]:
        said += f"; what {', '.join(silent)} will take is not said, and not in the sum"
    console.print(Text(f"{said}. `--pilot 50` measures.", "dim"))


def show_estimate(console: Console, made: Estimated, pilot: int) -> None:
    """Print what a pilot has measured, scaled to the whole run."""
    from rich.text import Text

    scale = "as it stands" if made.factor == 1 else f"at {made.factor:.3g} times its scale"
    console.print(
        Text(
            f"{visible(made.pipeline)}, {scale}, from a pilot of up to {pilot} rows a stage", "bold"
        )
    )
    rows = [
        [
            key,
            short(one.measured),
            _count(one.rows_in) if one.kind != "source" else None,
            _count(one.rows),
            *(short(n) for n in (one.calls, one.new, one.cached, one.out)),
            _money(one.cost),
            _time(one.hours),
        ]
        for key, one in made.stages.items()
    ]
    totals = [short(made.total(name)) for name in ("calls", "new", "cached", "out")]
    total = ["in all", None, None, None, *totals, _money(made.total("cost")), _time(made.hours)]
    grid(console, MEASURED, [*rows, total])
    console.print()
    for line in _sentences(made):
        console.print(Text(line))
    for line in _cautions(made):
        console.print(Text(visible(line), "yellow"))


def _sentences(made: Estimated) -> Iterable[str]:
    rows = f"{made.rows:,.0f}"
    yield f"accepted rows: {rows}{_off(made.error)} (those that leave {made.counted_at})"
    if made.total("calls"):
        tokens = made.total("new") + made.total("cached") + made.total("out")
        yield f"tokens: {short(tokens)}{_off(made.off('out'), ' (95%, from rows that differ)')}"
    if cost := made.total("cost"):
        yield (
            f"cost: {_money(cost)}{_off(made.off('cost'))}, "
            f"{_money(cost / made.rows * 1000) if made.rows else '?'} for 1,000 accepted rows"
        )
    if made.hours:
        yield f"time: {_time(made.hours)}, which {made.slowest} needs; stages work side by side"
    if made.kept is not None:
        yield f"of the tokens written, {made.kept:.0%} stand in what is kept"
    paid = f", {_money(made.paid)}" if made.paid else ""
    if made.paid_calls:
        yield f"the pilot paid for {short(made.paid_calls)} calls{paid}: a run reuses them"
    elif made.total("calls"):
        yield "the pilot paid for nothing: all that it asked for was in the store"


def _cautions(made: Estimated) -> Iterable[str]:
    yield from made.notes
    for key, one in made.stages.items():
        if one.note:
            yield f"{key}: {one.note}"
    streams = [
        key
        for key, one in made.stages.items()
        if one.kind == "stream" and 0 < one.rows < one.rows_in
    ]
    if streams:
        yield f"{', '.join(streams)}: what a stream drops may grow faster than its rows do"


def _off(part: float, why: str = "") -> str:
    """Return how far off a figure may be, if that is to be told."""
    return f" ±{part:.0%}{why}" if part >= 0.005 else ""


def short(number: float) -> str:
    """Return a number in at most five characters; "" for none."""
    if not number:
        return ""
    if number < 9999.5:
        return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
    power = min(4, int(math.log10(number * 1.0005) / 3))
    return f"{number / 1000**power:.3g}{'kMGT'[power - 1]}"


def _count(number: float | None) -> str:
    return "?" if number is None else f"{number:,.0f}" if number else ""


def _money(cost: float) -> str:
    return "" if not cost else f"{cost:,.2f}" if cost >= 1 else f"{cost:.2g}"


def _hours(hours: float) -> str:
    return f"{hours:.2g}" if hours else ""


def _bytes(count: float) -> str:
    return f"{short(count)}B" if count else ""


def _time(hours: float) -> str:
    """Return a duration as people say it: 12 s, 3 min, 2 h 10 min, 3 d 4 h."""
    seconds = hours * 3600
    if seconds < 0.05:
        return ""
    if seconds < 90:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
