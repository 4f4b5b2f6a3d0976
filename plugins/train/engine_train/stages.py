"""The stages that train: from a base model and a dataset to a model and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from pydantic import AfterValidator

from engine import Artifact, Context, OutputPath, Row, stage
from engine_train.arguments import check
from engine_train.bases import Base, ModelSource, Scratch
from engine_train.errors import TrainingError
from engine_train.jobs import Job, Method, Outcome
from engine_train.tuning import Tuning
from engine_train.workers import Trainer

__all__ = ["MODEL", "Trained", "sft"]

MODEL = "application/x-transformers"
"""The media type of a model: a folder that transformers loads."""
RUNS = Path("runs")
FULL = Tuning()
NONE: dict[str, Any] = {}

SftArgs = Annotated[dict[str, Any], AfterValidator(partial(check, "sft"))]
RewardArgs = Annotated[dict[str, Any], AfterValidator(partial(check, "reward"))]
DpoArgs = Annotated[dict[str, Any], AfterValidator(partial(check, "dpo"))]
GrpoArgs = Annotated[dict[str, Any], AfterValidator(partial(check, "grpo"))]


class Trained(Row):
    """`model` is a folder that transformers loads; `metrics` are the last ones of its training."""

    model: Artifact
    metrics: dict[str, float]


@stage("train.sft", version="1")
async def sft(
    dataset: Artifact,
    base: Artifact | None = None,
    held_out: Artifact | None = None,
    seed: int | None = None,
    *,
    model: ModelSource | Scratch | None = None,
    tuning: Tuning = FULL,
    args: SftArgs = NONE,
    log_dir: OutputPath = RUNS,
    trainer: Trainer | None = None,
    ctx: Context,
) -> Trained:
    """Fine-tune a causal language model on examples: `messages`, prompts and completions, or texts.

    Reads `dataset` (what `dataset.pack` makes) and, where a row has them, `base` (the model to
    begin with), `held_out` (evaluated at the end) and `seed` (else the pipeline's).

    - `model`: the model to begin with, where no row has a `base`; see docs/training.md.
    - `tuning`: what is trained: all, the top layers, or LoRA adapters.
    - `args`: arguments of TRL's SFTConfig.
    - `log_dir`: where trackers that `args: {report_to: ...}` names write.
    - `trainer`: the workers to train in; left out, one of its own.
    """
    given = _Given(dataset, base, held_out, seed, model, tuning, args, log_dir)
    return await _train("sft", given, {}, trainer, ctx)


class _Given(Row):
    """What every method is given."""

    dataset: Artifact
    base: Artifact | None
    held_out: Artifact | None
    seed: int | None
    model: ModelSource | Scratch | None
    tuning: Tuning
    args: dict[str, Any]
    log_dir: Path


async def _train(
    method: Method,
    given: _Given,
    options: Mapping[str, Any],
    trainer: Trainer | None,
    ctx: Context,
) -> Trained:
    """Train in a worker; keep the model's folder as a blob."""
    blobs, workdir = ctx.blobs, ctx.workdir
    if given.base is None and given.model is None:
        raise TrainingError(
            "there is no model to begin with: say `with: {model: ...}`, or `take: {base: FIELD}` "
            "for one that a stage made"
        )
    job = Job(
        method=method,
        base=Base.of(given.model, given.base, blobs),
        dataset=blobs.path(given.dataset),
        held_out=blobs.path(given.held_out) if given.held_out else None,
        output=workdir / "model",
        workdir=workdir,
        seed=ctx.seed if given.seed is None else given.seed,
        tuning=given.tuning,
        args=given.args,
        options=dict(options),
        log_dir=given.log_dir / f"{ctx.stage_key}-{ctx.row_id[:12]}",
    )
    answer = await call("engine_train.training:train", job, trainer, ctx)
    outcome = Outcome.model_validate(answer)
    for alarm in outcome.alarms:
        ctx.log.warning("%s", alarm)

    def keep() -> Artifact:
        with blobs.new(MODEL, folder=True) as writer:
            for path in job.output.iterdir():
                path.rename(writer.path / path.name)
        return writer.artifact

    return Trained(await anyio.to_thread.run_sync(keep), outcome.metrics)


async def call(function: str, job: Job, trainer: Trainer | None, ctx: Context) -> Any:
    """Run a worker's function of a job; of a run that drains, wait for the end."""
    payload = job.model_dump(mode="json")
    if trainer is not None:
        answer = await trainer.call(function, payload, job.workdir, ctx)
    else:
        async with Trainer() as own:
            answer = await own.call(function, payload, job.workdir, ctx)
    if isinstance(answer, Mapping) and answer.get("stopped"):
        with ctx.waiting():
            await ctx.gate.admit()  # never: the run ends around it, and goes on from here
    return answer
