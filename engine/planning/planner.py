"""The executor of a run that is only planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.channels import Item
from engine.chat import Endpoint
from engine.executor import Executor
from engine.fingerprint import changes
from engine.forecast import forecast
from engine.keeping import accepted_by, earlier, stage_records
from engine.keys import canonical
from engine.pipeline import Pipeline, WiredStage
from engine.planning.dry import DryStore
from engine.planning.plans import Plan, StagePlan
from engine.planning.runners import PLANNED
from engine.runners import Runner
from engine.store.sqlite import ReadOnlyStore
from engine.wiring import needed

__all__ = ["make_plan"]


async def make_plan(
    pipeline: Pipeline,
    store: ReadOnlyStore | None,
    *,
    limit: int | None = None,
    keep: Sequence[str] = (),
) -> Plan:
    """Return what `engine run` would do with this store; `keep` are stage keys.

    Raises StageError where a run would fail, and StoreError for a damaged store.
    """
    planner = _Planner(pipeline, store, limit, keep)
    await planner.run()
    newest = planner.runs[-1] if planner.runs else None
    planner.bound()
    counts = {
        key: planner.counters[key].out
        for key, plan in planner.plans.items()
        if plan.kind == "source" and not plan.open
    }
    beforehand = forecast(pipeline.stages, pipeline.order, pipeline.resources, counts, limit)
    return Plan(
        pipeline.name,
        str(store.folder) if store is not None else None,
        newest.generation if newest else None,
        newest.id if newest else None,
        newest.status if newest else None,
        planner.finished,
        planner.plans,
        beforehand if any(one.takes for one in beforehand.values()) else {},
    )


class _Planner(Executor):
    """An executor whose stages reuse, try, or let be."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: ReadOnlyStore | None,
        limit: int | None,
        keep: Sequence[str],
    ) -> None:
        self.runs = store.runs() if store is not None else []
        records = stage_records(pipeline, self.runs, keep)
        dry: Any = DryStore(store)
        super().__init__(pipeline, dry, limit=limit, accepted=accepted_by(records))
        self.runners, self.opened = PLANNED, frozenset(pipeline.resources)
        self.plans = {
            key: StagePlan(wired.kind, self.counters[key]) for key, wired in pipeline.stages.items()
        }
        self.unknown: set[bytes] = set()
        """Ids of rows that stopped in some stage."""
        self._reader = store
        self._earlier = {key: earlier(self.runs, key) for key in pipeline.stages}
        for key, plan in self.plans.items():
            if (record := self._earlier[key]) is not None:
                plan.changes = changes(record.stages[key], pipeline.stages[key].made_of)

    def event(self, make: Callable[[str], Any]) -> None:
        """Tell nobody: nothing happens."""

    async def finish(self, stage: str, item: Item) -> None:
        """Count a finished row."""
        self.finished += 1

    def lacking(self, runner: Runner, item: Item, reason: str) -> None:
        if item[0] not in self.unknown:  # else the branch may still deliver it
            super().lacking(runner, item, reason)

    def incomplete(self, key: str) -> bool:
        """Return whether rows may still come to a stage whose input has ended here."""
        leading = needed(self.pipeline.stages, self.pipeline.stages[key].upstream)
        return any(self.plans[name].unsettled for name in leading)

    def is_tried(self, wired: WiredStage) -> bool:
        """Return whether a stage is tried with what the store holds.

        What takes a chat spends its time in calls; what takes neither resource nor context is as
        cheap as it says. All else may be long work, and is let be.
        """
        resources = [self.pipeline.resources[key] for key in wired.resources.values()]
        if not all(isinstance(resource, Endpoint) for resource in resources):
            return False
        return bool(resources) or not wired.spec.context

    def why(self, wired: WiredStage, item: Item | None) -> str:
        """Return why a stage computes a row, or its whole input."""
        key, plan, record = wired.key, self.plans[wired.key], self._earlier[wired.key]
        if record is None:
            return "a new stage" if self.runs else "first run"
        if plan.changes:
            return "; ".join(plan.changes)
        ended = record.status == "done"
        undone = f"not done by run {record.id}, " + (
            "a pilot" if record.status == "pilot" else "which did not end"
        )
        if item is None:
            return "its input is new or changed" if ended else undone
        assert self._reader is not None
        assert item[0] is not None
        before = self._reader.find_rows(item[0].hex(), run=record.id, stages=record.stages)
        if before:
            held = [row.fields for row in before]
            changed = [name for name in self._read(wired, item) if _differs(name, item[2], held)]
            if changed:
                return f"values of {', '.join(changed)} changed upstream"
            return "not done before" if ended else undone
        if not ended:
            return undone
        leading = needed(self.pipeline.stages, wired.upstream)
        if any(self.plans[name].changes for name in leading if name != key):
            return "new or changed upstream"
        return "new rows"

    def _read(self, wired: WiredStage, item: Item) -> list[str]:
        if wired.spec.reads_all:
            return list(item[2])
        return [name for r in wired.spec.reads if (name := wired.taken(r.name)) in item[2]]

    def bound(self) -> None:
        """Find how many rows may come to each stage besides those that are known."""
        out: dict[str, int | None] = {}
        for key in self.pipeline.order:
            wired, plan = self.pipeline.stages[key], self.plans[key]
            parts = [out[name] for name in wired.upstream]
            plan.more = None if None in parts else sum(part or 0 for part in parts)
            if plan.more != 0:
                leading = needed(self.pipeline.stages, wired.upstream)
                plan.waits_for = [n for n in self.pipeline.order if n in leading and self._acts(n)]
            out[key] = 0 if plan.more == 0 and not plan.unsettled else self._most(wired, plan)

    def _acts(self, key: str) -> bool:
        plan = self.plans[key]
        return bool(plan.work or (plan.open and plan.kind == "source"))

    def _most(self, wired: WiredStage, plan: StagePlan) -> int | None:
        """Return how many rows more may come out of a stage that is not settled; None: any."""
        made = wired.kind in ("source", "expand")
        if made or plan.more is None or (wired.kind == "stream" and wired.spec.yields == "fresh"):
            return None
        return plan.work + plan.waiting + plan.more


def _differs(name: str, fields: Mapping[str, Any], held: Sequence[Mapping[str, Any]]) -> bool:
    old = [row[name] for row in held if name in row]
    return bool(old) and canonical(fields[name]) not in [canonical(value) for value in old]
