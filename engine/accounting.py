"""How a run stands or ended, and whether its counts close."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from engine.errors import StageError
from engine.pipeline import Pipeline
from engine.services import Counters
from engine.store.protocol import Fate, Store

__all__ = ["Status", "Summary", "check_counts", "check_manifest"]

Status = Literal["running", "done", "pilot", "failed", "cancelled", "interrupted"]


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run stands, or how it ended."""

    pipeline: str
    status: Status
    finished: int
    """Accepted rows: those that entered a sink or left a stage that nothing reads."""
    rejected: int
    dead: int
    seconds: float
    stages: dict[str, Counters]
    tally: dict[str, dict[str, int]]
    """Field named in `count_by:` -> its values in the finished rows -> how many."""
    max_dead: int
    error: str = ""
    error_code: int = 1
    """The exit code of the error, where there is one."""

    @property
    def exit_code(self) -> int:
        """0, or 1 (a stage failed), 3 (dead letters above `max_dead`), 4 (store), 130."""
        match self.status:
            case "interrupted" | "cancelled":
                return 130
            case "failed":
                return self.error_code
        return 3 if self.dead > self.max_dead else 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"stages": {key: c.as_dict() for key, c in self.stages.items()}}

    def _repr_html_(self) -> str:
        from engine.views import summary_html  # for notebooks alone

        return summary_html(self)


def check_counts(pipeline: Pipeline, counters: Mapping[str, Counters]) -> None:
    """Raise StageError where rows are lost in a stage, or between it and those that it reads."""
    for key, counted in counters.items():
        wrong, source = counted.unaccounted(), pipeline.stages[key].source
        if not wrong and source is not None and source.form != "all":  # there, rows become one
            passed = sum(counters[name].out for name in source.stages)
            if passed != counted.received:
                wrong = f"{passed} were passed on to it, and it received {counted.received}"
        if wrong:
            raise StageError(key, "", f"rows are unaccounted for: {wrong}")


def check_manifest(summary: Summary, store: Store) -> None:
    """Raise StageError where the manifest of the store's run holds other rows than were counted."""
    kept = store.fates()
    fates: tuple[Fate, ...] = ("finished", "rejected", "dead")
    for fate in fates:
        count = getattr(summary, fate)
        if kept.get(fate, 0) != count:
            raise StageError(
                summary.pipeline,
                "",
                f"{count} rows are {fate}, and the manifest has {kept.get(fate, 0)} of them",
            )
