"""What a notebook shows of rows, pipelines and runs: HTML without scripts; see `text.painting`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from engine.text import Text
from engine.text.painting import PAGE, PROSE, SMALL, Sources, escaped, table

if TYPE_CHECKING:
    from engine.accounting import Summary
    from engine.pipeline import Pipeline
    from engine.rows import Row
    from engine.services import Counters, Spent
    from engine.wiring import WiredStage

__all__ = [
    "SPENT_COLUMNS",
    "STAGE_COLUMNS",
    "clock",
    "pipeline_html",
    "row_html",
    "rows_html",
    "spent_line",
    "spent_rows",
    "stage_numbers",
    "summary_html",
]

ITEMS = 20  # of a list
ROWS = 5  # of a stage that was tried
DEPTH = 6  # of values in values
EXAMPLE = 160  # characters
WHOLE = ";white-space:nowrap"
NUMBER = f"{WHOLE};text-align:right;font-variant-numeric:tabular-nums"
WIDE = ";min-width:9em"
STAGE_STYLES = (WHOLE, WHOLE, WHOLE, WIDE, WIDE, WHOLE, WHOLE)
_PLAIN = (bool, int, float)
STAGE_COLUMNS = ("in", "out", "rejected", "dead", "reused")
SPENT_COLUMNS = ("stage", "model", "calls", "tokens new", "cached", "out", "cost")


def page(*parts: str) -> str:
    """Parts below each other."""
    return f'<div style="{PAGE}">{"".join(parts)}</div>'


def small(text: str) -> str:
    """A line of lesser weight; the text is escaped."""
    return f'<div style="{SMALL}">{escaped(text)}</div>'


# --- rows -----------------------------------------------------------------------------------------


def row_html(row: Row) -> str:
    """A row's fields as a table, its texts painted by their sources."""
    sources = Sources()
    name, row_id = type(row).__name__, row.row_id[:12]
    cells = [[_name(key), _value(value, sources)] for key, value in row.fields.items()]
    head = f"<b>{escaped(name)}</b>" + (f" {escaped(row_id)}" if row_id else "")
    return page(f"<div>{head}</div>", table([], cells, styles=[WHOLE]), sources.legend())


def rows_html(rows: Sequence[Row], rejected: Mapping[str, int]) -> str:
    """The rows of a stage that was tried, the first few of them, and why others were dropped."""
    told = [f"{len(rows)} rows" + (f", the first {ROWS}" if len(rows) > ROWS else "")]
    told += [f"{count} x {reason}" for reason, count in rejected.items()]
    return page(*(row_html(row) for row in rows[:ROWS]), small(" · ".join(told)))


def _name(name: str) -> str:
    return f'<span style="opacity:.7">{escaped(name)}</span>'


def _value(value: Any, sources: Sources, depth: int = 0) -> str:
    """A field's value: texts painted, dialogues as turns, what is nested as tables."""
    match value:
        case Text():
            return sources.paint(value)
        case str():
            return f'<div dir="auto" style="{PROSE}">{escaped(_cut(value, 10_000))}</div>'
        case bytes():
            return f"<i>{len(value):,} bytes</i>"
        case object(digest=str(digest), media_type=str(media), size=int(size)):
            folder = "folder, " if getattr(value, "folder", False) else ""
            return f"{escaped(media)}, {folder}{_size(size)} {small(f'digest {digest}')}"
        case _ if depth >= DEPTH:
            return escaped(_cut(repr(value), EXAMPLE))
        case [_, *_] if turns := _turns(value):
            return _dialogue(turns, sources)
        case list() | tuple() if all(item is None or isinstance(item, _PLAIN) for item in value):
            return f"<code>{escaped(_cut(repr(list(value)), 10_000))}</code>"
        case list() | tuple():
            return _table(enumerate(value), len(value), sources, depth)
        case _ if (fields := _fields(value)) is not None:
            return _table(fields.items(), len(fields), sources, depth)
    return f"<code>{escaped(_cut(repr(value), 10_000))}</code>"


def _table(items: Any, count: int, sources: Sources, depth: int) -> str:
    shown = [
        [_name(str(name)), _value(item, sources, depth + 1)]
        for (name, item), _ in zip(items, range(ITEMS), strict=False)
    ]
    left = small(f"… {count - ITEMS:,} more") if count > ITEMS else ""
    return (table([], shown, styles=[WHOLE]) if shown else "<i>empty</i>") + left


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """What a mapping, model or dataclass holds; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return value.__dict__
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return None


def _turns(values: Sequence[Any]) -> list[tuple[str, str]]:
    """Role and content of each message of a dialogue; [] for any other list."""
    turns = []
    for value in values:
        match _fields(value):
            case {"role": str(role), "content": str(content), **rest} if not rest:
                turns.append((role, content))
            case _:
                return []
    return turns


def _dialogue(turns: Sequence[tuple[str, str]], sources: Sources) -> str:
    shown = [
        f'<div style="margin:.2em 0;padding-left:.6em;border-left:3px solid rgba(128,128,128,.5)">'
        f'<div style="{SMALL}">{escaped(role)}</div>{_value(content, sources)}</div>'
        for role, content in turns[:ITEMS]
    ]
    left = small(f"… {len(turns) - ITEMS:,} more turns") if len(turns) > ITEMS else ""
    return "".join(shown) + left


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… {len(text) - most:,} more characters"


def _size(size: int) -> str:
    amount, unit = float(size), "bytes"
    for bigger in ("KB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, bigger
    return f"{size:,} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


# --- pipelines ------------------------------------------------------------------------------------


def pipeline_html(pipeline: Pipeline) -> str:
    """A pipeline's stages as a table, and above it the ways that rows take."""
    heads = ["stage", "use", "kind", "reads", "adds", "resources", "from"]
    rows = [[_stage(s), *map(escaped, _wiring(s))] for s in pipeline.stages.values()]
    resources = ", ".join(f"{key} ({r.use})" for key, r in pipeline.model.resources.items())
    return page(
        f"<div><b>{escaped(pipeline.name)}</b> {escaped(pipeline.file)}</div>",
        *(f"<div>{escaped(' → '.join(way))}</div>" for way in _ways(pipeline.stages)),
        table(heads, rows, styles=STAGE_STYLES),
        small(f"resources: {resources}") if resources else "",
        *(small(f"note: {note}") for note in pipeline.notes),
    )


def _stage(wired: WiredStage) -> str:
    doc = wired.spec.doc.strip().partition("\n")[0]
    return f'<span title="{escaped(doc)}"><b>{escaped(wired.key)}</b></span>'


def _wiring(wired: WiredStage) -> list[str]:
    """What the file calls it, its kind, and what it reads, adds and takes."""
    spec, source = wired.spec, wired.source
    reads = [
        wired.taken(read.name)
        + (f" as {read.name}" if wired.taken(read.name) != read.name else "")
        + ("" if read.required else "?")
        for read in spec.reads
    ]
    adds = [name for name, writer in wired.writers.items() if writer == wired.key]
    takes = [f"{name}: {key}" if name != key else key for name, key in wired.resources.items()]
    match source.form if source else None:
        case None:
            upstream = ""
        case "all":
            upstream = "all of " + ", ".join(wired.upstream)
        case "join" if source:
            pairs = zip(source.names, source.stages, strict=True)
            upstream = ", ".join(f"{name}: {key}" for name, key in pairs)
        case _:
            upstream = ", then ".join(wired.upstream)
    kind = "sink" if spec.is_sink else spec.kind
    return [
        wired.model.use,
        kind,
        ", ".join(["all fields"] * spec.reads_all + reads),
        ", ".join(adds),
        ", ".join(takes),
        upstream,
    ]


def _ways(stages: Mapping[str, WiredStage]) -> Iterator[list[str]]:
    """The wiring as chains of stages: one ends where rows divide, meet or finish."""
    readers = {key: [k for k, s in stages.items() if key in s.upstream] for key in stages}
    for key, wired in stages.items():
        ups = wired.upstream
        if len(ups) == 1 and len(readers[ups[0]]) == 1:
            continue  # inside of a chain
        way = [", ".join(ups), key] if ups else [key]
        while len(readers[key]) == 1 and len(stages[readers[key][0]].upstream) == 1:
            (key,) = readers[key]
            way.append(key)
        if len(way) > 1 or not readers[key]:
            yield way


# --- runs -----------------------------------------------------------------------------------------


def stage_numbers(counters: Counters) -> list[int]:
    """A stage's counts in a summary, in the order of `STAGE_COLUMNS`."""
    return [
        counters.received,
        counters.out,
        counters.rejected + counters.rejected_children,
        counters.dead,
        counters.reused,
    ]


def spent_rows(stages: Mapping[str, Counters]) -> list[list[str]]:
    """What paid calls have taken, by stage and model, in the order of `SPENT_COLUMNS`."""
    return [
        [key, model, *(f"{n:,}" if n else "" for n in (s.calls, s.new, s.cached, s.out)), _cost(s)]
        for key, counters in stages.items()
        for model, s in counters.models.items()
    ]


def spent_line(stages: Mapping[str, Counters]) -> str:
    """What all paid calls have taken together, or ""."""
    all_of = [counters.spent for counters in stages.values()]
    calls, new, cached, out = (
        sum(getattr(s, name) for s in all_of) for name in ("calls", "new", "cached", "out")
    )
    if not calls:
        return ""
    cost = sum(s.cost for s in all_of)
    said = f"{calls:,} calls: {new:,} new and {cached:,} cached tokens in, {out:,} out"
    if unmetered := sum(s.unmetered for s in all_of):
        said += f" ({unmetered:,} calls whose tokens the server did not tell)"
    return said + (f", cost {cost:.4f}" if cost else "")


def _cost(spent: Spent) -> str:
    return f"{spent.cost:.4f}" if spent.cost else ""


def summary_html(summary: Summary) -> str:
    """How a run stands: its status, each stage's counts, and why rows were rejected."""
    running = summary.status == "running"
    heads = ["stage", *STAGE_COLUMNS, *(["running"] if running else [])]
    rows = []
    for key, c in summary.stages.items():
        numbers = [*stage_numbers(c), *([c.in_flight] if running else [])]
        mark = ("✓ " if c.done else "· ") if running else ""
        rows.append([escaped(mark + key), *(f"{n:,}" if n else "" for n in numbers)])
    error = f"<div><b>error:</b> {escaped(summary.error)}</div>" if summary.error else ""
    return page(
        f"<div><b>{escaped(summary.pipeline)}: {escaped(summary.status)}</b>: "
        f"{summary.finished:,} finished, {summary.rejected:,} rejected, {summary.dead:,} dead, "
        f"{clock(summary.seconds)}</div>",
        error,
        table(heads, rows, styles=[WHOLE, *[NUMBER] * len(heads)]),
        _spent_table(summary),
        *map(small, _told(summary)),
        *(_reasons(key, c) for key, c in summary.stages.items()),
    )


def _spent_table(summary: Summary) -> str:
    """What the paid calls have taken, if there were any."""
    rows = [[escaped(cell) for cell in row] for row in spent_rows(summary.stages)]
    styles = [WHOLE, WHOLE, *[NUMBER] * len(SPENT_COLUMNS)]
    return table(list(SPENT_COLUMNS), rows, styles=styles) if rows else ""


def _told(summary: Summary) -> Iterator[str]:
    """The lines of a summary below its tables, but for the reasons."""
    if spent := spent_line(summary.stages):
        yield spent
    if replayed := sum(c.replayed for c in summary.stages.values()):
        yield f"{replayed:,} calls were answered from the store and not paid again"
    for field, counts in summary.tally.items():
        ranked = sorted(counts.items(), key=lambda item: -item[1])[:ITEMS]
        said = [f"{_cut(value, EXAMPLE)} {n:,}" for value, n in ranked]
        said += [f"… {len(counts) - ITEMS:,} more values"] * (len(counts) > ITEMS)
        yield f"{field}: {', '.join(said)}"
    for key, c in summary.stages.items():
        for field, count in c.sanitised.items():
            yield f"{key}: {count} lone surrogates in {field!r} were written as U+FFFD"


def _reasons(key: str, counters: Counters) -> str:
    """Why a stage let rows go, most frequent first, with examples."""
    lines = []
    for reason, count in counters.reasons.most_common(ITEMS):
        lines.append(f"<div>{escaped(key)}: {count:,} x {escaped(reason)}</div>")
        for example in filter(None, counters.examples.get(reason, ())):
            style = f"{SMALL};padding-left:1.2em;overflow-wrap:anywhere"
            lines.append(f'<div style="{style}">“{escaped(_cut(example, EXAMPLE))}”</div>')
    if (left := len(counters.reasons) - ITEMS) > 0:
        lines.append(small(f"{key}: … {left:,} more reasons"))
    return f'<div style="margin-top:.3em">{"".join(lines)}</div>' if lines else ""


def clock(seconds: float) -> str:
    """Return seconds as 12s, 3m05s or 2h07m."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
