"""`sweep.grid`: all combinations of some values, each a row."""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from engine.datasets.shapes import Mismatch, Shape
from engine.hookspecs import hookimpl
from engine.keys import canonical
from engine.rows import Row
from engine.stages import fields_of, stage
from engine.text import Text

__all__ = ["engine_stages", "grid"]


@hookimpl
def engine_stages() -> Sequence[Callable[..., Any]]:
    """Return the stages of the namespace `sweep`."""
    return [grid]


@stage("sweep.grid")
async def grid(*, over: dict[str, list[Any]]) -> AsyncIterator[Row]:
    """Yield all combinations of values, each a row: the first field varies slowest.

    A row's id depends on its own values alone, so more values change nothing of the rows there are.

    - `over`: field -> its values: `{seed: [0, 1, 2], game: [chess, go]}` makes six rows.
    """
    values = {name: _made(name, options) for name, options in over.items()}
    for combination in itertools.product(*values.values()):
        row = dict(zip(values, combination, strict=True))
        yield Row.of(row).keyed(canonical(row).decode())


@fields_of(grid)
def grid_fields(upstream: Mapping[str, Any], *, over: dict[str, list[Any]]) -> Mapping[str, Any]:
    """Return the types of the values. Raises ValueError for no values, or one told twice."""
    if not over:
        raise ValueError("over: name at least one field, with its values: `{seed: [0, 1, 2]}`")
    for name, options in over.items():
        if not options:
            raise ValueError(f"over, {name}: no values, so no rows: give some, or leave it out")
        seen = [canonical(value) for value in _made(name, options)]
        for i, value in enumerate(seen):
            if value in seen[:i]:
                raise ValueError(f"over, {name}: {value.decode()} stands there twice: remove one")
    return {name: _shape(options).hint for name, options in over.items()}


def _shape(options: Sequence[Any]) -> Shape:
    shape = Shape()
    for value in options:
        shape.see(value)
    return shape


def _made(name: str, options: Sequence[Any]) -> list[Any]:
    """Return values as rows carry them. Raises ValueError for a number that is none."""
    leaf = functools.partial(_leaf, f"grid:{name}")
    try:
        return [_shape(options).make(value, name, leaf) for value in options]
    except Mismatch as error:
        raise ValueError(f"over, {error}") from None


def _leaf(operation: str, value: str, at: str) -> Text:
    return Text.leaf(value, operation)
