"""`rows.gather`: the rows of a group as one row; and what else goes by groups."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from engine.errors import nearest
from engine.hookspecs import hookimpl
from engine.keys import canonical, digest
from engine.rows import Artifact, Reject, Row
from engine.stages import fields_of, stage

__all__ = ["check_new", "check_read", "engine_stages", "gather", "group_key", "lacking"]


@hookimpl
def engine_stages() -> Sequence[Callable[..., Any]]:
    """Return the stages of the namespace `rows`."""
    return [gather]


class Gathered(Row):
    """A group: the fields of `by`, and the others as tuples."""


@stage("rows.gather")
async def gather(
    rows: AsyncIterable[Row],
    *,
    by: tuple[str, ...] = (),
    fields: tuple[str, ...] = (),
    count: str | None = None,
    consecutive: bool = False,
) -> AsyncIterator[Gathered | Reject]:
    """Bring the rows of a group back to one row, with tuples of what they hold.

    Groups come in the order of their first rows, the values of a tuple in the order of the rows. A
    group's id depends on its values of `by` alone. A row that lacks a field is rejected. All groups
    are held in memory until the last row, or with `consecutive` one.

    - `by`: the fields that the rows of a group share, which stay; Artifacts are equal by digest.
      Left out, all rows are one group, and one row comes out even of none.
    - `fields`: the fields whose values become tuples; all others are dropped.
    - `count`: a field for how many rows the group has.
    - `consecutive`: the rows of a group follow each other: give a group out when the next begins.
      Where one goes on after another, the run ends with an error.
    """
    seen: set[str] = set()
    groups: dict[str, _Group] = {}
    if not by:
        groups[group_key({})] = _Group({}, fields)
    async for row in rows:
        if (name := lacking(row, (*by, *fields))) is not None:
            yield row.reject(f"no field {name!r}")
            continue
        shared = {name: row[name] for name in by}
        key = group_key(shared)
        group = groups.get(key)
        if group is None:
            if key in seen:
                raise ValueError(
                    f"row {row.row_id}: its group, {_named(shared)}, has ended: its rows do not "
                    "follow each other: leave `consecutive` out"
                )
            if consecutive:
                seen.add(key)
                for ended, made in groups.items():
                    yield made.row(ended, count)
                groups.clear()
            group = groups[key] = _Group(shared, fields)
        group.add(row)
    for key, group in groups.items():
        yield group.row(key, count)


@fields_of(gather)
def gather_fields(
    upstream: Mapping[str, Any],
    *,
    by: tuple[str, ...],
    fields: tuple[str, ...],
    count: str | None,
    consecutive: bool,
) -> Mapping[str, Any]:
    """Return the fields of a group. Raises ValueError for one that no row has, or named twice."""
    check_read({"by": by, "fields": fields}, upstream)
    check_new("count", () if count is None else (count,), (*by, *fields))
    kept = {name: upstream.get(name, Any) for name in by}
    tuples = {name: tuple[upstream.get(name, Any), ...] for name in fields}  # type: ignore[misc]
    return kept | tuples | ({} if count is None else {count: int})


class _Group:
    """The rows of a group so far."""

    def __init__(self, shared: Mapping[str, Any], fields: Iterable[str]) -> None:
        self._shared, self._rows = shared, 0
        self._values: dict[str, list[Any]] = {name: [] for name in fields}

    def add(self, row: Row) -> None:
        """Take a row in."""
        self._rows += 1
        for name, values in self._values.items():
            values.append(row[name])

    def row(self, key: str, count: str | None) -> Gathered:
        """Return the group as a row."""
        tuples = {name: tuple(values) for name, values in self._values.items()}
        counted = {} if count is None else {count: self._rows}
        return Gathered.of({**self._shared, **tuples, **counted}).keyed(key)


# --- what goes by groups ------------------------------------------------------------------------


def group_key(shared: Mapping[str, Any]) -> str:
    """Return a name for what the rows of a group share: Artifacts are equal by digest."""
    values = {n: {"": v.digest} if isinstance(v, Artifact) else v for n, v in shared.items()}
    return digest(canonical(values)).hex()


def lacking(row: Row, names: Iterable[str]) -> str | None:
    """Return the first of these fields that a row lacks, if it lacks one."""
    return next((name for name in names if name not in row), None)


def check_read(named: Mapping[str, Sequence[str]], upstream: Mapping[str, Any]) -> None:
    """Check fields that parameters name: each once, and each made upstream.

    Raises ValueError, with the nearest right name.
    """
    known: dict[str, str] = {}
    for parameter, names in named.items():
        for name in names:
            if name in known:
                where = f"in `{known[name]}`, too" if known[name] != parameter else "twice"
                raise ValueError(f"{parameter}: {name!r} is named {where}: remove one")
            known[name] = parameter
            if upstream and name not in upstream:
                near = nearest(name, upstream, say="; did you mean {!r}?")
                raise ValueError(
                    f"{parameter}: no row has {name!r}{near} (rows have: {', '.join(upstream)})"
                )


def check_new(parameter: str, names: Iterable[str], others: Iterable[str]) -> None:
    """Raise ValueError for a new field that bears the name of another one of the row."""
    for name in names:
        if name in others:
            raise ValueError(f"{parameter}: the row has {name!r} already: choose another name")


def _named(shared: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {str(value)[:60]!r}" for name, value in shared.items())
