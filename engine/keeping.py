"""What a run tells its store of its stages, and which older results a stage still accepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.errors import InputError, nearest
from engine.pipeline import Pipeline
from engine.store.protocol import RunRecord, Store

__all__ = ["accepted_by", "begin_run", "check_keep", "earlier", "stage_records"]


def check_keep(pipeline: Pipeline, keep: Iterable[str], *, fresh: bool = False) -> tuple[str, ...]:
    """Return the stage keys named by `stages.KEY`.

    Raises InputError for a stage that the pipeline has not, or whose results are not recorded, and
    for any with `fresh`.
    """
    keys = []
    if fresh and keep:
        raise InputError("--fresh begins anew: there are no older results to --keep")
    for name in keep:
        start, _, key = name.partition(".")
        if start != "stages" or not key:
            raise InputError(f"--keep {name}: write stages.KEY, where KEY is a stage's key")
        wired = pipeline.stages.get(key)
        if wired is None:
            raise InputError(
                f"--keep {name}: {pipeline.file} has no stage {key!r}"
                + nearest(key, pipeline.stages, say="; did you mean {!r}?")
            )
        if not wired.recorded:
            raise InputError(
                f"--keep {name}: {wired.label} has no recorded results that could be kept"
            )
        keys.append(key)
    return tuple(dict.fromkeys(keys))


def earlier(runs: Sequence[RunRecord], key: str) -> RunRecord | None:
    """Return the newest run of the newest generation that had this stage."""
    if not runs:
        return None
    mine = (r for r in reversed(runs) if r.generation == runs[-1].generation and key in r.stages)
    return next(mine, None)


def stage_records(
    pipeline: Pipeline, runs: Sequence[RunRecord], keep: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what a run is made of, as plain JSON, by stage key.

    `fingerprint` and its parts; `accepted` are the older fingerprints whose results count as well:
    those that an earlier run of the generation accepted for this very fingerprint, and for a stage
    of `keep` what the newest run that differs was made with, and had accepted itself. `runs` are
    the store's, oldest first; none, where a new generation begins.
    """
    generation = runs[-1].generation if runs else 0
    past = [r.stages for r in reversed(runs) if r.generation == generation]
    records = {}
    for key, wired in pipeline.stages.items():
        mine = wired.fingerprint.hex()
        stages = [record[key] for record in past if key in record]
        same = next((s for s in stages if s["fingerprint"] == mine), None)
        accepted = list(same["accepted"]) if same else []
        if key in keep:
            other = next((s for s in stages if s["fingerprint"] != mine), None)
            accepted += [other["fingerprint"], *other["accepted"]] if other else []
        older = [fingerprint for fingerprint in dict.fromkeys(accepted) if fingerprint != mine]
        records[key] = {"fingerprint": mine, "accepted": older, **wired.made_of}
    return records


def begin_run(
    store: Store, pipeline: Pipeline, fresh: bool, keep: Sequence[str], redrive: Sequence[bytes]
) -> Mapping[str, tuple[bytes, ...]]:
    """Begin a run, and return the older fingerprints that each stage accepts.

    `redrive` are memo keys whose dead letters are forgotten. Raises StoreError.
    """
    records = stage_records(pipeline, [] if fresh else store.runs(), keep)
    store.begin(pipeline=pipeline.name, fresh=fresh, stages=records)
    if redrive:
        store.forget_dead(redrive)
    return accepted_by(records)


def accepted_by(records: Mapping[str, Any]) -> dict[str, tuple[bytes, ...]]:
    """Return the older fingerprints that each stage accepts."""
    return {key: tuple(map(bytes.fromhex, r["accepted"])) for key, r in records.items()}
