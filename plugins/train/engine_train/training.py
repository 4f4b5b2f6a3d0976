"""One training, in a worker: load, build, resume, train, save."""

from __future__ import annotations

import json
import math
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine_train import arguments, bases, cards, memory, told, tuning
from engine_train.callbacks import Keeper, complete, tidy
from engine_train.data import check_columns, check_whole, load_rows, texts
from engine_train.errors import TrainingError
from engine_train.history import clean, final
from engine_train.jobs import Job, Outcome

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["RECORD", "train"]

RECORD = "training.json"
"""The file in a model's folder that says how it was trained."""

Tell = Callable[[Mapping[str, Any]], None]

OWN = {
    "disable_tqdm": True,
    "logging_nan_inf_filter": False,  # a loss that is no number must be seen
    "logging_strategy": "steps",
    "report_to": "none",
    "save_strategy": "no",  # the Keeper says when
    "save_total_limit": 2,
}
"""What every training sets, unless the user does."""


def train(payload: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Run the training that `payload`, a Job, describes: what a worker is asked for.

    Raises TrainingError for what cannot be trained so, out of memory included.
    """
    job = Job.model_validate(payload)
    try:
        return _train(job, tell).model_dump()
    except (RuntimeError, MemoryError) as error:
        if memory.ran_out(error):
            raise TrainingError(memory.fits(error, job)) from error
        raise


def _train(job: Job, tell: Tell) -> Outcome:
    import torch
    from transformers import set_seed

    from engine_train.sampling import by_epoch

    tell({"say": "loading"})
    method = import_module(f"engine_train.{job.method}")
    rows = load_rows(job.dataset)
    held_out = load_rows(job.held_out, "held-out dataset") if job.held_out else None
    names = check_columns(job.method, rows.column_names)
    method.check(rows.column_names, rows[0])
    if held_out is not None and (lacks := set(names) - set(held_out.column_names)):
        raise TrainingError(
            f"`held_out` has no {' and no '.join(sorted(lacks))}, as `dataset` has: give both the "
            "same fields"
        )
    check_whole(rows, names)
    if held_out is not None:
        check_whole(held_out, names, "held-out dataset")
    set_seed(job.seed)
    load = bases.load_reward if job.method == "reward" else bases.load_causal
    model, tokenizer = load(job.base, seed=job.seed, texts=texts(rows))
    model, _ = tuning.apply(model, job.tuning, reward=job.method == "reward")
    checkpoints = job.workdir / "checkpoints"
    config = arguments.build(
        job.method,
        job.args,
        OWN | method.defaults(job) | {"output_dir": str(checkpoints), "seed": job.seed},
    )
    if config.save_total_limit == 1:  # the older one is removed before the newer one is whole
        config.save_total_limit = 2
    if job.log_dir is not None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(job.log_dir)
    keeper = Keeper(job, config, tell)
    set_seed(config.seed)
    with _refused():
        trainer = method.build(job, model, tokenizer, rows, config, [keeper], held_out)
    by_epoch(trainer)
    if trainer.is_world_process_zero():
        tidy(checkpoints)
    trainer.accelerator.wait_for_everyone()
    last = complete(checkpoints)
    with _refused():
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    if keeper.stopped:
        return Outcome(stopped=True)
    if not trainer.state.global_step:
        raise TrainingError("not one step was trained: raise `num_train_epochs` or `max_steps`")
    if held_out is not None:
        tell({"say": "evaluating"})
        trainer.evaluate()
    tell({"say": "saving"})
    history = clean(trainer.state.log_history)
    metrics = final(history) | {"rows": len(rows), "steps": trainer.state.global_step}
    metrics |= method.metrics(trainer, history)
    alarms = method.alarms(trainer, history) if hasattr(method, "alarms") else []
    alarms += [
        f"`{name}` is {value}: what was held out cannot be judged"
        for name, value in metrics.items()
        if name.startswith("eval_") and not math.isfinite(value)
    ]
    outcome = Outcome(metrics=_numbers(metrics), alarms=alarms)
    if trainer.is_world_process_zero():
        shutil.rmtree(job.output, ignore_errors=True)
        job.output.mkdir(parents=True)
    trainer.accelerator.wait_for_everyone()
    _save(trainer, tokenizer, job)
    if trainer.is_world_process_zero():
        record = _record(job, rows, torch.get_num_threads(), outcome, history)
        record["settings"] = told.settings(job, config, model.config)
        _write(job.output / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")
        _write(job.output / "README.md", cards.card(record))
    return outcome


@contextmanager
def _refused() -> Iterator[None]:
    """Say that what TRL and torch refuse of settings and rows would be refused again."""
    try:
        yield
    except TrainingError:
        raise
    except (ImportError, TypeError, ValueError) as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise TrainingError(f"{error} ({Path(at.filename).name}:{at.lineno})") from error


def _save(trainer: Any, tokenizer: Any, job: Job) -> None:
    """Write the model and its tokenizer; nothing in them tells of this machine or of the time."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.use_cache = True  # a trainer turns it off, and whoever generates wants it
    if hasattr(model, "merge_and_unload") and job.tuning.save == "merged":
        merged = model.merge_and_unload()
        merged.save_pretrained(job.output, is_main_process=trainer.is_world_process_zero())
    else:
        trainer.save_model(str(job.output))
    if not trainer.is_world_process_zero():
        return
    tokenizer.save_pretrained(job.output)
    (job.output / "training_args.bin").unlink(missing_ok=True)
    for path in job.output.iterdir():
        path.chmod(0o644)  # safetensors makes files that their owner alone reads
    for name, key in (
        ("config.json", "_name_or_path"),
        ("adapter_config.json", "base_model_name_or_path"),
    ):
        path = job.output / name
        if path.exists():
            settings = json.loads(path.read_text("utf-8"))
            if key in settings:
                settings[key] = job.base.reference
            _write(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _record(
    job: Job, rows: Dataset, threads: int, outcome: Outcome, history: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what stands in the model's folder of its training."""
    return {
        "method": job.method,
        "base": job.base.name,
        "layers": job.base.layers,
        "tuning": job.tuning.model_dump(mode="json"),
        "args": _portable(job.args),
        "options": _portable(job.options),
        "seed": job.seed,
        "threads": threads,
        "data": {"rows": len(rows), "columns": list(rows.column_names)},
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "metrics": outcome.metrics,
        "alarms": outcome.alarms,
        "history": list(history),
    }


def _portable(value: Any) -> Any:
    """Return settings with files by their names, and what was left out left out."""
    if isinstance(value, Mapping):
        return {name: _portable(v) for name, v in value.items() if v is not None}
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(v) for name, v in sorted(metrics.items()) if math.isfinite(float(v))}


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
