"""The stages that train: from a base model and a dataset to a model and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from pydantic import AfterValidator, BaseModel, Field, PositiveFloat, PositiveInt

from engine import Artifact, Context, InputFile, OutputPath, Row, fields_of, stage
from engine.rows import Columns
from engine_train.arguments import READ
from engine_train.arguments import check as check_args
from engine_train.bases import MODEL, NO_MODEL, Base, ModelSource, Scratch, Source, look
from engine_train.data import check_columns
from engine_train.errors import TrainingError
from engine_train.jobs import Job, Method, Outcome
from engine_train.positions import Pooling
from engine_train.tuning import Tuning
from engine_train.tuning import check as check_tuning
from engine_train.workers import Trainer

__all__ = ["Trained", "call", "dpo", "grpo", "reward", "sft"]

ALL = Tuning()
NONE: dict[str, Any] = {}
LASTING = frozenset(("full_determinism", "report_to", "tf32"))
"""Arguments that change a process for good: a worker does nothing more after them."""

SftArgs = Annotated[dict[str, Any], AfterValidator(partial(check_args, "sft")), READ]
RewardArgs = Annotated[dict[str, Any], AfterValidator(partial(check_args, "reward")), READ]
DpoArgs = Annotated[dict[str, Any], AfterValidator(partial(check_args, "dpo")), READ]
GrpoArgs = Annotated[dict[str, Any], AfterValidator(partial(check_args, "grpo")), READ]


class Trained(Row):
    """What a training adds."""

    model: Artifact
    """A folder that transformers loads: weights, tokenizer, model card, `training.json`."""
    metrics: dict[str, float]
    """What was logged, as means over the last tenth of the training, and what was counted."""


@stage("train.sft", version="1")
async def sft(
    dataset: Artifact,
    base: Artifact | None = None,
    held_out: Artifact | None = None,
    seed: int | None = None,
    *,
    model: ModelSource | Scratch | None = None,
    tuning: Tuning = ALL,
    args: SftArgs = NONE,
    log_dir: OutputPath | None = None,
    trainer: Trainer | None = None,
    ctx: Context,
) -> Trained:
    """Fine-tune a causal language model on examples: `messages`, prompts and completions, or texts.

    Reads `dataset` (what `dataset.pack` makes) and, where a row has them, `base` (the model to
    begin with), `held_out` (evaluated at the end) and `seed` (else the pipeline's).

    - `model`: the model to begin with, where no row has a `base`; see docs/training.md.
    - `tuning`: what is trained: all, the top layers, or LoRA adapters.
    - `args`: arguments of TRL's SFTConfig.
    - `log_dir`: the folder that a tracker, `args: {report_to: tensorboard}`, writes to.
    - `trainer`: the workers to train in; left out, one of its own.
    """
    given = _Given(dataset, base, held_out, seed, model, tuning, args, log_dir)
    return await _train("sft", given, {}, trainer, ctx)


@stage("train.reward", version="1")
async def reward(
    dataset: Artifact,
    base: Artifact | None = None,
    held_out: Artifact | None = None,
    seed: int | None = None,
    *,
    model: ModelSource | Scratch | None = None,
    tuning: Tuning = ALL,
    args: RewardArgs = NONE,
    pooling: Pooling | None = None,
    max_prompt: PositiveInt | None = None,
    max_reply: PositiveInt | None = None,
    l2: PositiveFloat = 1.0,
    log_dir: OutputPath | None = None,
    trainer: Trainer | None = None,
    ctx: Context,
) -> Trained:
    """Train a reward model on pairs, of which the first is better (Bradley-Terry).

    Pairs that share a prompt share a row of the batch. With `tuning: {tune: head}` the head is
    fitted exactly, by LBFGS, on features that stay as they are.

    Reads `dataset` (what `dataset.pack` makes) and, where a row has them, `base` (the model to
    begin with), `held_out` (evaluated at the end) and `seed` (else the pipeline's).

    - `model`: the model to begin with, where no row has a `base`; see docs/training.md.
    - `tuning`: what is trained: all, the top layers, or LoRA adapters.
    - `args`: arguments of TRL's RewardConfig.
    - `pooling`: where the reward is read: at the `last` token, or the `mean` over the reply's; left
      out, as in the model to begin with, else `last`.
    - `max_prompt`: tokens of a prompt that are kept, from its end; left out, as in that model, else
      all.
    - `max_reply`: tokens of a reply that are kept, from its start; left out likewise.
    - `l2`: with `tune: head`, how much its weights are held back.
    - `log_dir`: the folder that a tracker, `args: {report_to: tensorboard}`, writes to.
    - `trainer`: the workers to train in; left out, one of its own.
    """
    given = _Given(dataset, base, held_out, seed, model, tuning, args, log_dir)
    options = {"pooling": pooling, "max_prompt": max_prompt, "max_reply": max_reply, "l2": l2}
    return await _train("reward", given, options, trainer, ctx)


@stage("train.dpo", version="1")
async def dpo(
    dataset: Artifact,
    base: Artifact | None = None,
    held_out: Artifact | None = None,
    seed: int | None = None,
    *,
    model: ModelSource | Scratch | None = None,
    tuning: Tuning = ALL,
    args: DpoArgs = NONE,
    allow_truncation: bool = False,
    chosen_fall: PositiveFloat = 0.1,
    log_dir: OutputPath | None = None,
    trainer: Trainer | None = None,
    ctx: Context,
) -> Trained:
    """Make chosen replies likelier than rejected ones, by direct preference optimisation.

    The reference is the model to begin with; its log-probabilities are computed once. A row that
    would be cut stops the training, and a fall of the chosen replies' likelihood is an alarm.
    Source: Rafailov et al. 2023, arXiv 2305.18290.

    Reads `dataset` (what `dataset.pack` makes) and, where a row has them, `base` (the model to
    begin with), `held_out` (evaluated at the end) and `seed` (else the pipeline's).

    - `model`: the model to begin with, where no row has a `base`; see docs/training.md.
    - `tuning`: what is trained: all, the top layers, or LoRA adapters.
    - `args`: arguments of TRL's DPOConfig.
    - `allow_truncation`: whether rows longer than `args: {max_length: ...}` may be cut.
    - `chosen_fall`: nats a token that the chosen replies may lose before there is an alarm.
    - `log_dir`: the folder that a tracker, `args: {report_to: tensorboard}`, writes to.
    - `trainer`: the workers to train in; left out, one of its own.
    """
    given = _Given(dataset, base, held_out, seed, model, tuning, args, log_dir)
    options = {"allow_truncation": allow_truncation, "chosen_fall": chosen_fall}
    return await _train("dpo", given, options, trainer, ctx)


@stage("train.grpo", version="1")
async def grpo(
    dataset: Artifact,
    base: Artifact | None = None,
    held_out: Artifact | None = None,
    seed: int | None = None,
    reward_model: Artifact | None = None,
    *,
    model: ModelSource | Scratch | None = None,
    tuning: Tuning = ALL,
    args: GrpoArgs = NONE,
    reward_file: InputFile | None = None,
    reward_function: str | None = None,
    silent: Annotated[float, Field(ge=0, le=1)] = 0.9,
    log_dir: OutputPath | None = None,
    trainer: Trainer | None = None,
    ctx: Context,
) -> Trained:
    """Make the better replies of a group likelier, by group relative policy optimisation.

    A function, a game's verifier or a reward model rewards what the model itself writes. A function
    is called as TRL calls it, `reward(prompts, completions, **columns) -> list[float]`, with the
    dataset's other columns. Source: Shao et al. 2024, arXiv 2402.03300.

    Reads `dataset` (what `dataset.pack` makes) and, where a row has them, `base` (the model to
    begin with), `held_out` (evaluated at the end), `seed` (else the pipeline's), `reward_model`.

    - `model`: the model to begin with, where no row has a `base`; see docs/training.md.
    - `tuning`: what is trained: all, the top layers, or LoRA adapters.
    - `args`: arguments of TRL's GRPOConfig.
    - `reward_file`: a Python file that has the reward function.
    - `reward_function`: its name there (left out, `reward`), or `package.module:function`.
    - `silent`: the share of groups with equal rewards above which there is an alarm.
    - `log_dir`: the folder that a tracker, `args: {report_to: tensorboard}`, writes to.
    - `trainer`: the workers to train in; left out, one of its own.
    """
    given = _Given(dataset, base, held_out, seed, model, tuning, args, log_dir)
    options = {
        "reward_file": reward_file,
        "reward_function": reward_function,
        "reward_model": ctx.blobs.path(reward_model) if reward_model else None,
        "silent": silent,
    }
    return await _train("grpo", given, options, trainer, ctx)


def _look(method: Method, upstream: Mapping[str, Any], **config: Any) -> Mapping[str, Any]:
    """Raise TrainingError for what a method cannot begin with, as far as a run need not tell."""
    columns = Columns.of(upstream.get("dataset"))
    if columns is not None:
        check_columns(method, columns.names)
    model = config["model"]
    named = model is not None and not (isinstance(model, Source) and model.model is None)
    if not named and "base" not in upstream:
        raise TrainingError(NO_MODEL)
    evaluates = config["args"].get("eval_strategy", "no")
    if evaluates != "no" and "held_out" not in upstream:
        raise TrainingError(
            f"`eval_strategy: {evaluates}` needs `held_out`: `splits` of `dataset.pack` make it"
        )
    if named:
        look(model.model if isinstance(model, Source) else model)
    unrewarded = not (config.get("reward_file") or config.get("reward_function"))
    if method == "grpo" and unrewarded and "reward_model" not in upstream:
        raise TrainingError(
            "nothing rewards the replies: say `reward_file: FILE.py`, `reward_function: "
            "package.module:function`, or `take: {reward_model: FIELD}`"
        )
    if config["log_dir"] is None and "tensorboard" in str(config["args"].get("report_to")):
        raise TrainingError("`report_to: tensorboard` needs a folder: say `log_dir: runs`, too")
    return {}


fields_of(sft)(partial(_look, "sft"))
fields_of(reward)(partial(_look, "reward"))
fields_of(dpo)(partial(_look, "dpo"))
fields_of(grpo)(partial(_look, "grpo"))


@dataclass(frozen=True)
class _Given:
    """What every method is given."""

    dataset: Artifact
    base: Artifact | None
    held_out: Artifact | None
    seed: int | None
    model: ModelSource | Scratch | None
    tuning: Tuning
    args: dict[str, Any]
    log_dir: Path | None


async def _train(
    method: Method,
    given: _Given,
    options: Mapping[str, Any],
    trainer: Trainer | None,
    ctx: Context,
) -> Trained:
    """Train in a worker; keep the model's folder as a blob."""
    blobs, workdir = ctx.blobs, ctx.workdir
    job = Job(
        method=method,
        base=Base.of(given.model, given.base, blobs),
        dataset=blobs.path(given.dataset),
        held_out=blobs.path(given.held_out) if given.held_out else None,
        output=workdir / "model",
        workdir=workdir,
        seed=(ctx.seed if given.seed is None else given.seed) % 2**32,
        tuning=given.tuning,
        args=given.args,
        options=dict(options),
        # A row may be trained on by one stage after the other.
        log_dir=given.log_dir / ctx.stage_key / ctx.row_id if given.log_dir else None,
    )
    check_tuning(job.tuning, job.base)
    reuse = not LASTING & job.args.keys()
    answer = await call("engine_train.training:train", job, trainer, ctx, reuse=reuse)
    outcome = Outcome.model_validate(answer)
    for alarm in outcome.alarms:
        ctx.log.warning("%s, row %s: %s", ctx.stage_key, ctx.row_id[:12], alarm)

    def keep() -> Artifact:
        with blobs.new(MODEL, folder=True) as writer:
            for path in job.output.iterdir():
                path.rename(writer.path / path.name)
        return writer.artifact

    return Trained(await anyio.to_thread.run_sync(keep), outcome.metrics)


async def call(
    function: str,
    asked: BaseModel,
    trainer: Trainer | None,
    ctx: Context,
    *,
    reuse: bool = True,
) -> Mapping[str, Any]:
    """Return what a worker answers; where the run drains, wait for its end.

    Raises as `Trainer.call` does.
    """
    payload = asked.model_dump(mode="json")
    if trainer is not None:
        answer = await trainer.call(function, payload, ctx.workdir, ctx, reuse=reuse)
    else:
        async with Trainer() as own:
            answer = await own.call(function, payload, ctx.workdir, ctx)
    if answer.get("stopped"):
        with ctx.waiting():
            await ctx.gate.admit()  # never: the run ends around it, and goes on from here
    return dict(answer)
