"""From a row's fields to a stage's positional arguments."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from engine.pipeline import WiredStage
from engine.rows import Row
from engine.stages import Read, row_fields, strip_annotated
from engine.text import Text

__all__ = ["Arguments", "arguments", "is_text", "row_maker"]

Arguments = Callable[[Mapping[str, Any]], tuple[Any, ...]]


def is_text(hint: Any) -> bool:
    """Return whether a hint is Text."""
    return strip_annotated(hint) is Text


def arguments(wired: WiredStage) -> Arguments:
    """Return the function that takes positional arguments out of a row's fields."""
    spec = wired.spec
    fields = wired.inputs.get("", {})
    plain = all(
        r.required and not (is_text(r.type) and not is_text(fields.get(wired.taken(r.name))))
        for r in spec.reads
    )
    if not spec.row_parameters and plain:
        names = [wired.taken(r.name) for r in spec.reads]
        if len(names) == 1:
            (name,) = names
            return lambda row: (row[name],)
        return operator.itemgetter(*names) if names else lambda row: ()
    makers = [
        _row_maker(wired, spec.row_parameters[name])
        if name in spec.row_parameters
        else _value_maker(wired, next(r for r in spec.reads if r.name == name))
        for name in spec.positionals
    ]
    return lambda row: tuple(make(row) for make in makers)


def _value_maker(wired: WiredStage, read: Read) -> Callable[[Mapping[str, Any]], Any]:
    name, default, text = wired.taken(read.name), read.default, is_text(read.type)

    def value(row: Mapping[str, Any]) -> Any:
        found = row[name] if read.required else row.get(name, default)
        return Text(found) if text and type(found) is str else found

    return value


def _row_maker(wired: WiredStage, cls: type[Row]) -> Callable[[Mapping[str, Any]], Row]:
    make = row_maker(wired, cls)
    return lambda row: make(row, b"", ())


def row_maker(
    wired: WiredStage, cls: type[Row]
) -> Callable[[Mapping[str, Any], bytes, tuple[int, ...]], Row]:
    """Return the function that makes a stage's row type from a row's fields."""
    declared = row_fields(cls)
    renamed = {r.name: wired.taken(r.name) for r in declared if wired.taken(r.name) != r.name}
    texts = [r.name for r in declared if is_text(r.type)]
    defaults = {r.name: r.default for r in declared if not r.required}
    # It holds its declared fields alone: what could be read besides would escape the memo key.
    names = {r.name for r in declared} | {wired.taken(r.name) for r in declared}

    def make(row: Mapping[str, Any], row_id: bytes, order: tuple[int, ...]) -> Row:
        if cls is not Row:
            row = {n: row[n] for n in names if n in row}
        values = {**defaults, **row} if defaults else dict(row)
        for own, name in renamed.items():
            if name in row:
                values[own] = row[name]
        for name in texts:
            if type(values.get(name)) is str:
                values[name] = Text(values[name])
        return cls.of(values, row_id, order)

    return make
