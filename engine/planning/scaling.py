"""From what a pilot has measured to what the whole run will take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engine.chat import Endpoint
from engine.errors import InputError
from engine.forecast import asked, prices_of
from engine.pipeline import Pipeline, WiredStage
from engine.planning.metering import Taken
from engine.planning.pilot import Pilot
from engine.wiring import needed

__all__ = ["Estimated", "Scaled", "scaled"]

Z = 1.96
"""Standard errors either way that hold the truth 95 times in 100."""


@dataclass(slots=True)
class Scaled:
    """What one stage will take, and what that rests on."""

    kind: str
    measured: int
    """Rows that it worked on in the pilot."""
    rows_in: float = 0.0
    rows: float = 0.0
    """Rows passed on."""
    calls: float = 0.0
    new: float = 0.0
    cached: float = 0.0
    out: float = 0.0
    cost: float = 0.0
    hours: float = 0.0
    """The least time that it needs, with the workers that it has."""
    cpu: float = 0.0
    """Hours in which it keeps this process busy."""
    kept: float = 0.0
    """Generated tokens that stand in what is written."""
    spread: float = 0.0
    """Variance of `rows`, as a part of its square."""
    own: float = 0.0
    """The same of what one row takes."""
    note: str = ""

    @property
    def error(self) -> float:
        """How far off `out` and `cost` may be, either way, as a part of them: 95%."""
        return Z * math.sqrt(self.own)


@dataclass(slots=True)
class Estimated:
    """What a whole run will take."""

    pipeline: str
    rows: float
    """Accepted rows."""
    counted_at: str
    """The stage whose rows are the accepted ones."""
    factor: float
    """How many times the pipeline's own scale."""
    hours: float
    slowest: str
    """What takes that long."""
    paid: float
    """What this pilot has paid."""
    paid_calls: int
    stages: dict[str, Scaled]
    error: float = 0.0
    """How far off `rows` may be at this scale, either way, as a part of it: 95%."""
    notes: list[str] = field(default_factory=list)

    def total(self, name: str) -> float:
        """Return the sum of a figure over all stages."""
        return sum((getattr(stage, name) for stage in self.stages.values()), 0.0)

    @property
    def kept(self) -> float | None:
        """Generated tokens that stand in what is written, of all that are paid; None: no calls."""
        out = self.total("out")
        return self.total("kept") / out if out else None

    def off(self, name: str) -> float:
        """Return how far off a total may be, either way, as a part of it: 95%."""
        total = self.total(name)
        return self._off(name) / total if total else 0.0

    def _off(self, name: str) -> float:
        return sum((getattr(s, name) * s.error for s in self.stages.values()), 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        names = ("calls", "new", "cached", "out", "cost")
        stages = {key: asdict(stage) | {"error": stage.error} for key, stage in self.stages.items()}
        for stage in stages.values():
            del stage["spread"], stage["own"]
        return {
            "pipeline": self.pipeline,
            "rows": self.rows,
            "rows_error": self.error,
            "counted_at": self.counted_at,
            "factor": self.factor,
            **{name: self.total(name) for name in names},
            "cost_error": self.off("cost"),
            "out_error": self.off("out"),
            "hours": self.hours,
            "slowest": self.slowest,
            "kept": self.kept,
            "paid": {"calls": self.paid_calls, "cost": self.paid},
            "stages": stages,
            "notes": self.notes,
        }


def scaled(pilot: Pilot, rows: int | None = None) -> Estimated:
    """Estimate the whole run from a pilot that has ended, or one that gives so many accepted rows.

    Raises InputError where no row was accepted, so that nothing can be said of `rows`.
    """
    work = _Scaling(pilot)
    at = counted_at(pilot.pipeline)
    accepted = sum(work.stages[key].rows for key in at)
    factor = 1.0
    if rows is not None:
        if not accepted:
            raise InputError(
                f"no row of the pilot came through {', '.join(at)}, so nothing can be said of "
                f"{rows:,} rows: try a larger --pilot, and see `engine inspect` for the rejects"
            )
        factor = rows / accepted
    for stage in work.stages.values():
        for name in (
            "rows_in",
            "rows",
            "calls",
            "new",
            "cached",
            "out",
            "cost",
            "hours",
            "cpu",
            "kept",
        ):
            setattr(stage, name, getattr(stage, name) * factor)
    hours, slowest = work.time()
    if rows is not None:  # what is uncertain then is how many rows it takes to begin with
        behind = max(work.stages[key].spread for key in at)
        work.stages = {k: replace(s, own=s.own + behind) for k, s in work.stages.items()}
    counters = pilot.counters.values()
    return Estimated(
        pilot.pipeline.name,
        accepted * factor,
        ", ".join(at),
        factor,
        hours,
        slowest,
        sum(c.cost for c in counters),
        sum(c.calls for c in counters),
        work.stages,
        0.0 if rows is not None else Z * math.sqrt(max(work.stages[key].spread for key in at)),
        work.notes,
    )


def counted_at(pipeline: Pipeline) -> list[str]:
    """Return the stage whose rows are the accepted ones: the last that all ends come from."""
    ends = set()
    for key, wired in pipeline.stages.items():
        if wired.spec.is_sink:
            ends |= set(wired.upstream)
        elif not pipeline.readers(key):
            ends.add(key)
    common = set.intersection(*(needed(pipeline.stages, [end]) for end in ends))
    shared = [key for key in pipeline.order if key in common]
    return shared[-1:] or sorted(ends)


class _Scaling:
    """The stages of a pilot at the scale of the whole run."""

    def __init__(self, pilot: Pilot) -> None:
        self.pilot, self.pipeline = pilot, pilot.pipeline
        self.stages: dict[str, Scaled] = {}
        self.notes: list[str] = []
        self._sent: dict[str, dict[str, tuple[float, float]]] = {}
        """Stage -> resource -> calls that the pilot sent, and the seconds that they took."""
        self._each: dict[str, float] = {}
        """Stage -> hours for one row."""
        for key in self.pipeline.order:
            self.stages[key] = self._stage(self.pipeline.stages[key])
        at = counted_at(self.pipeline)
        for key, stage in self.stages.items():
            self._keep(key, stage, sum(self.stages[name].rows for name in at))

    def _stage(self, wired: WiredStage) -> Scaled:
        counters, key = self.pilot.counters[wired.key], wired.key
        stage = Scaled(wired.kind, counters.received)
        taken = self.pilot.meters[key].all()
        if wired.kind == "source":
            stage.measured = counters.out
            stage.rows = self._source_rows(wired)
            times = stage.rows / counters.out if counters.out else 1.0
            self._take(wired, stage, list(taken.values()), 1, times)
            return stage
        ups = [self.stages[name] for name in wired.upstream]
        arrived, sent = self.pilot.reached(key), self.pilot.counters
        if wired.source is not None and wired.source.form == "all":
            first = wired.upstream[0]
            share = arrived / sent[first].out if sent[first].out else 0.0
            stage.rows_in = ups[0].rows * share
        else:
            stage.rows_in = sum(up.rows for up in ups)
        reaching = max((up.spread for up in ups), default=0.0)
        if not counters.received:
            if stage.rows_in:
                stage.note = "no row reached it in the pilot"
            stage.spread = reaching
            return stage
        left = max(0.0, 1 - counters.received / max(stage.rows_in, counters.received))
        stage.rows = stage.rows_in * counters.out / counters.received
        stage.spread = reaching + left * self._spread(wired)
        each = [t for t in taken.values() if t.rows or wired.kind == "stream"]
        held = sum(t.rows for t in each) if wired.kind != "stream" else counters.received
        self._take(wired, stage, each, held, stage.rows_in)
        stage.own = reaching + left * variance([float(t.new + t.cached + t.out) for t in each])
        if wired.resources and not stage.calls:
            self._assume(wired, stage)
        if wired.spec.resources and not held and stage.rows_in:
            stage.note = "nothing is known of what its rows took: they were done before"
        return stage

    def _assume(self, wired: WiredStage, stage: Scaled) -> None:
        """Take calls that are too rare for the pilot to have made any from the stage's plan."""
        said = asked(wired, stage.rows_in)
        if said is None or not said.calls:
            return
        for name in ("calls", "new", "cached", "out"):
            setattr(stage, name, getattr(said, name))
        prices = prices_of(wired, self.pipeline.resources) or (0.0, 0.0, 0.0)
        tokens = (said.new, said.cached, said.out)
        stage.cost = sum(p * count / 1e6 for p, count in zip(prices, tokens, strict=True))
        stage.note = "the pilot made none of its calls: they are told as its author assumes them"

    def _source_rows(self, wired: WiredStage) -> float:
        made = self.pilot.counters[wired.key].out
        if wired.key not in self.pilot.stopped:
            return made
        said = asked(wired, 0)
        if said is None:
            self.notes.append(
                f"{wired.key} was stopped after {made:,} rows, and has no plan: what is told here "
                "is for so many"
            )
            return made
        return min(said.rows, self.pilot.limit or said.rows)

    def _take(
        self, wired: WiredStage, stage: Scaled, taken: list[Taken], held: int, rows: float
    ) -> None:
        """Add what `held` rows have taken, as for so many rows."""
        if not held or not rows:
            return
        for name in ("calls", "new", "cached", "out", "cost"):
            setattr(stage, name, sum(getattr(t, name) for t in taken) / held * rows)
        prices = prices_of(wired, self.pipeline.resources)
        if prices is not None:  # as they are now
            tokens = (stage.new, stage.cached, stage.out)
            stage.cost = sum(p * count / 1e6 for p, count in zip(prices, tokens, strict=True))
        workers = wired.model.concurrency if wired.kind in ("map", "expand", "batch") else 1
        limit = self.pipeline.model.limits.named.get(wired.model.limit or "", workers)
        seconds = sum(t.seconds for t in taken) / held * rows
        sent: dict[str, tuple[float, float]] = {}
        for one in taken:
            for resource, (calls, lasted) in one.sent.items():
                before = sent.get(resource, (0.0, 0.0))
                sent[resource] = before[0] + calls, before[1] + lasted
        self._sent[wired.key] = sent
        if wired.kind == "stream" and not seconds:
            seconds = sum(lasted for _, lasted in sent.values()) / held * rows
        stage.hours = seconds / min(workers, limit) / 3600
        stage.cpu = _usual([t.cpu for t in taken]) * len(taken) / held * rows / 3600
        self._each[wired.key] = seconds / rows / 3600 if wired.kind != "source" else 0.0

    def _spread(self, wired: WiredStage) -> float:
        """Return the variance of the rows passed on for a row taken, as a part of its square."""
        counters = self.pilot.counters[wired.key]
        taken, out = counters.received, counters.out
        if not out:
            return 1.0
        if wired.kind == "expand":
            return variance([float(n) for n in sorted(self.pilot.children[wired.key].values())])
        if out > taken:
            return 0.0
        cheap = not (wired.spec.resources or wired.spec.context)
        if cheap and out == taken:
            return 0.0
        share, many = (out + 2) / (taken + 4), taken + 4  # Agresti and Coull's
        return (1 - share) / (share * many)

    def _keep(self, key: str, stage: Scaled, accepted: float) -> None:
        """Find how many of the tokens that a stage generated stand in what is written."""
        characters = sum(t.characters for t in self.pilot.meters[key].all().values())
        out = sum(t.out for t in self.pilot.meters[key].all().values())
        here = sum(self.pilot.counters[name].out for name in counted_at(self.pipeline))
        if not characters or not here or not stage.rows:
            return
        if accepted > stage.rows:  # many rows share what one row of this stage holds
            kept = self.pilot.kept.in_a_row(key) * stage.rows
        else:
            kept = self.pilot.kept.distinct(key) / here * accepted
        stage.kept = min(kept * out / characters, stage.out)

    def time(self) -> tuple[float, str]:
        """Return the hours that all take together, and what takes them.

        Stages work side by side: the slowest of them, or of the endpoints that they share, decides.
        It begins once the sources have made their rows and the first has come through the others.
        """
        bounds = {
            f"{key}, at {_workers(wired)}": self.stages[key].hours
            for key, wired in self.pipeline.stages.items()
        }
        for name, chat in self.pipeline.resources.items():
            if isinstance(chat, Endpoint):
                bounds |= self._endpoint(name, chat)
        bounds["this process, on one core"] = sum(stage.cpu for stage in self.stages.values())
        if not any(bounds.values()):
            return 0.0, ""
        slowest = max(bounds, key=lambda what: bounds[what])
        others = [key for key in self.stages if not slowest.startswith(f"{key},")]
        first = sum(self._each.get(key, 0.0) for key in others)
        made = sum(self.stages[key].hours for key in others if self.stages[key].kind == "source")
        return bounds[slowest] + made + first, slowest

    def _endpoint(self, name: str, chat: Endpoint) -> Mapping[str, float]:
        """Return the hours that each bound of an endpoint asks for."""
        calls = new = out = seconds = 0.0
        for key, stage in self.stages.items():
            sent = self._sent.get(key, {})
            measured = sum(count for count, _ in sent.values())
            users = [r for r in self.pipeline.stages[key].resources.values() if r in sent] or [
                r
                for r in self.pipeline.stages[key].resources.values()
                if isinstance(self.pipeline.resources[r], Endpoint)
            ][:1]
            if name not in users or not stage.calls:
                continue
            mine = sent.get(name, (0.0, 0.0))
            share = mine[0] / measured if measured else 1.0
            calls += stage.calls * share
            new += (stage.new + stage.cached) * share
            out += stage.out * share
            seconds += stage.calls * share * (mine[1] / mine[0] if mine[0] else 0.0)
        limiter = chat.limiter
        bounds = {f"{name}, at {limiter.slots} slots": seconds / limiter.slots / 3600}
        asked = {"rpm": calls, "input_tpm": new, "output_tpm": out, "tpm": new + out}
        for budget, a_minute in limiter.a_minute.items():
            if a_minute:
                bounds[f"{name}, at {budget} {a_minute:g}"] = asked[budget] / a_minute / 60
        return bounds


def _workers(wired: WiredStage) -> str:
    if wired.kind in ("source", "stream"):
        return "one thing after the other"
    return f"concurrency {wired.model.concurrency}"


def variance(values: list[float]) -> float:
    """Return the variance of the mean of some values, as a part of its square."""
    total = sum(values)
    if len(values) < 2 or not total:
        return 0.0
    mean = total / len(values)
    spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return spread / len(values) / mean**2


def _usual(values: list[float]) -> float:
    """Return a mean without the largest twentieth: a first row also loads what the stage needs."""
    usual = sorted(values)[: -math.ceil(len(values) / 20)] or values
    return sum(usual) / len(usual) if usual else 0.0
