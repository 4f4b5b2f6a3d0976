"""One seed: a pipeline is run, killed, drained, run again, edited; and all of it is audited."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import anyio

import engine
from engine import EngineError, Summary
from engine.loader import Document, loads
from engine.store.protocol import RowRecord
from tests.sim.pipelines import SALTED, Edit, SimPipeline, Stage
from tests.sim.server import SimChat
from tests.sim.stages import STAGES
from tests.sim.world import Found, SimStore, World, run, simulated, tables

KINDS = ("kill", "kill", "kill", "drain", "stop", "failure", "full")
Sinks = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Plan:
    """How a life is to end: at a virtual time, or with the k-th commit."""

    kind: Literal["end", "kill", "drain", "stop", "failure", "full"] = "end"
    at: float = 0.0
    then: float = 0.0
    """Seconds from the first signal to the second."""


@dataclass
class Ended:
    """How a life ended."""

    summary: Summary | None
    manifest: list[RowRecord]
    seconds: float
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.summary is not None and self.summary.status == "done"


def live(here: World, made: SimPipeline, plan: Plan = Plan()) -> Ended:
    """Live one life on the world's disk. Raises Found for what must never happen."""
    here.begin()
    before = tables(here.image)
    ended = Ended(None, [], 0.0)
    if plan.kind == "failure":
        here.fails_at = int(plan.at)
    elif plan.kind == "full":
        here.full_at = int(plan.at)

    async def main() -> None:
        chat = SimChat(model=made.identity)
        document = document_of(made)
        opened = engine.open(
            document,
            store=SimStore(),
            plugins=STAGES,
            resources={"llm": chat},
            limit=made.edit.limit,
        )
        async with anyio.create_task_group() as tasks:

            async def disturb() -> None:
                await anyio.sleep(plan.at)
                here.note(plan.kind)
                if plan.kind == "kill":
                    here.kill()
                    here.kills += 1
                    tasks.cancel_scope.cancel()
                    return
                here.drains += 1
                if plan.kind == "stop":
                    tasks.start_soon(second)
                await opened.drain()
                here.note("drained")

            async def second() -> None:
                await anyio.sleep(plan.then)
                here.stop()
                opened.stop()

            async with opened as running:
                if plan.kind in ("kill", "drain", "stop"):
                    tasks.start_soon(disturb)
                async for row in running:
                    here.note("row", row.row_id)
                ended.summary = running.summary
                if ended.summary.status == "done":
                    assert running.store is not None
                    ended.manifest = list(running.store.rows())
            ended.summary = running.summary
            ended.seconds = anyio.current_time()
            tasks.cancel_scope.cancel()

    try:
        run(here, main)
    except BaseException as error:
        ended.error = error
        ended.summary = None
        for leaf in leaves(error):
            if isinstance(leaf, (Found, KeyboardInterrupt)):
                raise leaf from error
        if here.wrong:
            raise Found(here.wrong[0]) from error
        if not here.dead and not here.failed and not here.is_full:
            raise Found(f"life {here.life} ({plan.kind}) ended with {error!r}") from error
        if not here.dead and not all(isinstance(e, EngineError) for e in leaves(error)):
            raise Found(f"a failing disk made {error!r}") from error
    if here.wrong:
        raise Found(here.wrong[0])
    here.failures += here.failed or here.is_full
    here.note_end(ended.seconds)
    check_kept(before, tables(here.image))
    return ended


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> Document:
    return loads(text)


def document_of(made: SimPipeline) -> Document:
    """Return the pipeline file, parsed."""
    return _parsed(made.text())


def leaves(error: BaseException) -> Iterable[BaseException]:
    """Yield the errors in a group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


# --- the auditor --------------------------------------------------------------------------------


def check_kept(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raise Found if something that was durable is gone, or has changed."""
    for table, records in before.items():
        for key, record in records.items():
            if after[table].get(key) != record:
                raise Found(f"{table}: a durable record is gone or changed: {key}")


def check_output(made: SimPipeline, sinks: Sinks, expected: Sinks | None) -> None:
    """Raise Found if the sinks do not hold what the model says, or another run's rows."""
    for name, stage in made.sinks.items():
        found = [{n: v for n, v in row.items() if isinstance(v, int)} for row in sinks[name]]
        wanted = [fields for _, fields in stage.rows]
        if found != wanted:
            raise Found(f"{name}, which reads {stage.key}: {found} is not {wanted}")
        ids = [row["row_id"] for row in sinks[name]]
        if len(set(ids)) != len(ids):
            raise Found(f"{name}: two rows have one id")
        if expected is not None and sinks[name] != expected[name]:
            raise Found(f"{name} differs from an uninterrupted run's")


def check_counts(made: SimPipeline, ended: Ended) -> None:
    """Raise Found if a count is wrong, or the manifest does not agree with the counters."""
    assert ended.summary is not None
    fates = Counter((r.stage, r.fate) for r in ended.manifest)
    for stage in made.made:
        counted = ended.summary.stages[stage.key]
        says = {
            "out": (counted.out, len(stage.rows)),
            "rejected": (counted.rejected, stage.rejected),
            "dead": (counted.dead, stage.dead),
            "rejected children": (counted.rejected_children, stage.rejected_children),
            "dead letters": (fates[stage.key, "dead"], stage.dead),
            "rejected rows": (
                fates[stage.key, "rejected"],
                stage.rejected + stage.rejected_children,
            ),
        }
        for what, (found, wanted) in says.items():
            if found != wanted:
                raise Found(f"{stage.key} ({stage.use}): {found} {what}, where {wanted} must be")
    finished = Counter(r.stage for r in ended.manifest if r.fate == "finished")
    last = {s.key: len(s.rows) for s in made.sinks.values() if s.rows}
    if finished != last:
        raise Found(f"finished {finished}, where {last} must be")
    letters = sum(r.fate == "dead" for r in ended.manifest)
    if letters != ended.summary.dead:
        raise Found(f"{letters} dead letters, and {ended.summary.dead} dead rows")


def check_paid(here: World, pipelines: Iterable[SimPipeline]) -> None:
    """Raise Found if a call was paid for too often, or not at all."""
    wanted: Counter[tuple[str, str]] = Counter()
    due_once: Counter[tuple[str, Any, str]] = Counter()
    for made in pipelines:
        due_once |= made.paid()
    for (stage, _, asked), count in due_once.items():
        wanted[stage, asked] += count
    paid: Counter[tuple[str, str]] = Counter()
    for (prompt, seed), count in here.billed.items():
        again = here.broken[prompt, seed] + here.allowed[prompt, seed]
        _, stage, _, asked = prompt.split("|", 3)
        due = 2 if prompt.startswith("talk|") else 1
        if count > due + again:
            raise Found(f"{prompt!r}, seed {seed}, was paid for {count} times, {again} excused")
        paid[stage, asked] += min(count, due)
    if paid != wanted:
        raise Found(f"paid: too many {+(paid - wanted)}, too few {+(wanted - paid)}")


# --- a seed -------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What a seed came to."""

    hours: float
    kills: int
    drains: int
    failures: int
    calls: int
    lives: int
    trace: list[tuple[float, str, str]]


def plans(rng: random.Random, seconds: float, commits: int) -> list[Plan]:
    """Return how up to three lives are to end."""
    found = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        kind = rng.choice(KINDS)
        at = (
            rng.uniform(1, 1.1 * commits)
            if kind in ("failure", "full")
            else rng.uniform(0, 1.05 * seconds)
        )
        found.append(Plan(kind, at, rng.uniform(0, 3)))  # type: ignore[arg-type]
    return found


def simulate(seed: int) -> Seen:
    """Run one seed. Raises Found if the engine broke a promise."""
    rng = random.Random(f"{seed}/plan")
    made = SimPipeline(seed)
    calm = World(f"{seed}/calm")
    with simulated(calm):
        reference = live(calm, made)
    expected = dict(calm.sinks)
    if reference.error or not reference.done:
        raise Found(f"an undisturbed run ended with {reference.error!r}")
    check_output(made, calm.sinks, None)
    check_counts(made, reference)
    check_paid(calm, [made])

    here = World(seed)
    with simulated(here):
        ended = reference
        for plan in [*plans(rng, reference.seconds, calm.commits), Plan()]:
            ended = live(here, made, plan)
            if ended.done:
                break
        if not ended.done:
            raise Found(f"it cannot be run to its end: {ended.error!r}")
        check_output(made, here.sinks, expected)
        check_counts(made, ended)
        check_paid(here, [made])
        edited = edit(rng, made)
        for plan in [*plans(rng, reference.seconds, calm.commits)[:1], Plan()]:
            ended = live(here, edited, plan)
            if ended.done:
                break
        check_output(edited, here.sinks, None)
        check_counts(edited, ended)
        check_paid(here, [made, edited])
    return Seen(
        calm.hours + here.hours,
        here.kills,
        here.drains,
        here.failures,
        (calm.billed + here.billed).total(),
        calm.life + here.life,
        calm.trace + here.trace,
    )


def edit(rng: random.Random, made: SimPipeline) -> SimPipeline:
    """Return the pipeline with one random edit."""
    sources = [m.key for m in made.made if m.use == "rows"]
    others: list[Stage] = [m for m in made.made if m.use != "rows"]
    salted = [m.key for m in others if m.use in SALTED]
    choices: list[Callable[[], Edit]] = [
        lambda: Edit("insert", rng.choice(sources)),
        lambda: Edit("idle", rng.choice(others).key),
        lambda: Edit("settings"),
        lambda: Edit("limit", limit=rng.randint(0, 6)),
        lambda: Edit("identity"),
    ]
    if salted:
        choices.append(lambda: Edit("salt", rng.choice(salted)))
    return SimPipeline(made.seed, rng.choice(choices)())
