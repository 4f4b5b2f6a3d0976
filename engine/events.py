"""Events that a plugin may observe through `engine_event`: rare ones, never one per row.

Progress is not an event: it is pulled from `Run.counters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.services import Counters

__all__ = ["DeadLetter", "Event", "RunEnded", "RunStarted", "StageEnded"]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began."""

    run: str
    pipeline: str


@dataclass(frozen=True, slots=True)
class StageEnded:
    """A stage has seen its last row."""

    run: str
    stage: str
    counters: Counters


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row failed for good; the run goes on without it."""

    run: str
    stage: str
    row: str
    error: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run ended: `status` is `done`, `failed` or `cancelled`."""

    run: str
    status: str
    counters: Mapping[str, Counters]


Event = RunStarted | StageEnded | DeadLetter | RunEnded
"""What `engine_event` sees."""
