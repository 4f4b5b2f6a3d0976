"""How much of what models wrote stands in the finished rows: what was paid for and is kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from engine.pipeline import Pipeline
from engine.rows import Row
from engine.text import Text

__all__ = ["Kept"]


class Kept:
    """Characters of replies, by the stage that asked for them, that finished rows hold."""

    def __init__(self, pipeline: Pipeline) -> None:
        written = {key: _written(pipeline, key) for key in pipeline.stages}
        some = any(written.values())  # else all that finishes counts
        self._written = {key: names if some else None for key, names in written.items()}
        self._ranges: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        self._in_rows: dict[str, int] = defaultdict(int)
        self._rows: dict[str, int] = defaultdict(int)

    def add(self, stage: str, fields: Mapping[str, Any]) -> None:
        """Add a row that finished at a stage."""
        names = self._written[stage]
        mine: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for name, value in fields.items():
            if names is None or name in names:
                for text in _texts(value):
                    for span in text.spans():
                        origin = span.leaf.origin
                        if origin is not None and origin.op == "call":
                            call = (str(origin.params["stage"]), str(origin.params["call"]))
                            mine[call].append((span.leaf_start, span.leaf_stop))
        for call, ranges in mine.items():
            self._ranges[call] += ranges
            self._in_rows[call[0]] += _covered(ranges)
        for name in {call[0] for call in mine}:
            self._rows[name] += 1

    def distinct(self, stage: str) -> int:
        """Return how many characters of a stage's replies stand in any row."""
        return sum(_covered(r) for (name, _), r in self._ranges.items() if name == stage)

    def in_a_row(self, stage: str) -> float:
        """Return how many stand in a row that has some, on average."""
        return self._in_rows[stage] / self._rows[stage] if self._rows[stage] else 0.0


def _written(pipeline: Pipeline, stage: str) -> set[str]:
    """Return the fields of a stage's rows that its sinks write, where they say which."""
    names: set[str] = set()
    for wired in pipeline.stages.values():
        fields = wired.config.get("fields")
        if wired.spec.is_sink and stage in wired.upstream and isinstance(fields, (list, tuple)):
            names |= set(fields)
    return names


def _texts(value: Any) -> Iterator[Text]:
    if isinstance(value, Text):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, (BaseModel, Row)):
        for part in value.__dict__.values():
            yield from _texts(part)


def _covered(ranges: list[tuple[int, int]]) -> int:
    """Return how many positions are in some of the ranges."""
    covered = end = 0
    for start, stop in sorted(ranges):
        covered += max(0, stop - max(start, end))
        end = max(end, stop)
    return covered
