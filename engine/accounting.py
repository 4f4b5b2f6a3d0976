"""How a run stands or ended, and whether its counts close."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from engine.errors import StageError
from engine.pipeline import Pipeline
from engine.services import Counters, Spent
from engine.store.protocol import Fate, RunRecord, Store

__all__ = [
    "Status",
    "Summary",
    "check_counts",
    "check_manifest",
    "paid",
    "paid_note",
    "set_earlier",
]

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


def paid_note(counters: Mapping[str, Counters]) -> dict[str, Any]:
    """Return what a run has paid so far, as `paid` reads it from the record of one that died."""
    some = {key: one.models for key, one in counters.items() if one.models}
    return {
        "paid": {
            key: {name: asdict(spent) for name, spent in models.items()}
            for key, models in some.items()
        }
    }


def paid(runs: Iterable[RunRecord]) -> dict[str, dict[str, Spent]]:
    """Return what runs have paid, by stage and model; of one that was killed, what it had noted."""
    found: dict[str, dict[str, Spent]] = {}
    for record in runs:
        ended = {key: stage["models"] for key, stage in record.summary.get("stages", {}).items()}
        for key, models in (ended or record.summary.get("paid", {})).items():
            for name, spent in models.items():
                found.setdefault(key, {}).setdefault(name, Spent()).join(Spent(**spent))
    return found


def set_earlier(counters: Mapping[str, Counters], runs: Sequence[RunRecord], run: int) -> None:
    """Tell the counters of a run what was paid before it, in its generation."""
    generation = next(record.generation for record in runs if record.id == run)
    before = (r for r in runs if r.id < run and r.generation == generation)
    for key, models in paid(before).items():
        if key in counters:
            counters[key].earlier = models
