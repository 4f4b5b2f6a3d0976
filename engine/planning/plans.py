"""What is told of a run before it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.forecast import Forecast
from engine.services import Counters

__all__ = ["Plan", "StagePlan"]


@dataclass(slots=True)
class StagePlan:
    """What a run would do in one stage."""

    kind: str
    counters: Counters
    changes: list[str] = field(default_factory=list)
    """What differs from the earlier run, if anything does."""
    kept: int = 0
    """Of the reused rows, those made under an older fingerprint that is accepted."""
    again: int = 0
    """Rows that are computed again, with no call that is not in the store."""
    work: int = 0
    """Rows that must be computed, with calls or work that cannot be known before."""
    waiting: int = 0
    """Rows that are there, whose fate depends on rows that may still come."""
    open: bool = False
    """Whether it can pass on any number of rows more than are known."""
    more: int | None = 0
    """Rows that may come besides those that are known; None: any number."""
    waits_for: list[str] = field(default_factory=list)
    """The stages whose work decides that."""
    why: Counter[str] = field(default_factory=Counter)
    """Reason -> rows that are computed for it."""

    @property
    def unsettled(self) -> bool:
        """Whether rows may come out of it that are not known."""
        return bool(self.work or self.waiting or self.open)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        c = self.counters
        return {
            "kind": self.kind,
            "rows": c.out if self.kind == "source" else c.received,
            "reused": c.reused,
            "kept": self.kept,
            "again": self.again,
            "work": self.work,
            "waiting": self.waiting,
            "more": self.more,
            "waits_for": self.waits_for,
            "rejected": c.rejected + c.rejected_children,
            "dead": c.dead,
            "calls_held": c.replayed,
            "changes": self.changes,
            "why": dict(self.why.most_common()),
        }


@dataclass(slots=True)
class Plan:
    """What a run would do, by stage, and what it goes on from."""

    pipeline: str
    store: str | None
    """The store's folder; None if there is none yet."""
    generation: int | None
    run: int | None
    """The newest run of the store, which this one would follow."""
    status: str | None
    """How that one ended."""
    finished: int
    """Rows that would finish without any call or work."""
    stages: dict[str, StagePlan]
    forecast: Mapping[str, Forecast] = field(default_factory=dict)
    """What the whole pipeline takes, as its stages' own plans say; none if no stage has one."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "pipeline": self.pipeline,
            "store": self.store,
            "generation": self.generation,
            "run": self.run,
            "status": self.status,
            "finished": self.finished,
            "stages": {key: stage.as_dict() for key, stage in self.stages.items()},
            "forecast": {key: asdict(one) for key, one in self.forecast.items()},
        }
