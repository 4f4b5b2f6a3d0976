"""What watches a training: checkpoints, a loss that is no number, how far it has come."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from engine_train.disk import sync
from engine_train.errors import TrainingError
from engine_train.jobs import Job
from engine_train.worker import STOP

__all__ = ["Keeper", "complete", "tidy"]

COMPLETE = "complete"
"""The file that is written into a checkpoint last."""
PATIENCE = 60.0
"""Seconds of training that a kill may cost, where no `save_steps` says otherwise."""
SHARE = 20.0
"""A checkpoint is saved no more often than this many times the time that saving takes."""


class Keeper(TrainerCallback):
    """Saves checkpoints, ends the training when it is asked to or goes wrong, tells how it goes.

    Checkpoints fall on the multiples of `boundary`, after which nothing is pending: what is to be
    logged was logged, and with GRPO the batch of completions is used up. So a resumed training goes
    on as if nothing had happened, its log included.
    """

    def __init__(self, job: Job, config: Any, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self._job, self._tell = job, tell
        self._every: int | None = None
        self.boundary = _boundary(config)
        self.stopped = False
        self._saved = self._began = time.monotonic()
        self._cost = 0.0
        self._from = self._saved_step = 0

    def say(self, text: str) -> None:
        """Tell what must be known before the end."""
        self._tell({"say": text})

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note where it begins; what was given as shares of all steps is as many."""
        if given := self._job.args.get("save_steps"):
            self._every = math.ceil(given * state.max_steps) if given < 1 else int(given)
        if args.logging_steps < 1:
            self.boundary = math.lcm(self.boundary, state.logging_steps)
        self._saved = self._began = time.monotonic()
        self._from = self._saved_step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raise TrainingError for a loss that is no number; tell how it goes."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise _broken(f"the loss is {loss} at", args, state)
        self._tell({"say": self._progress(state, loss)})

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Save where it is time, and end where it was asked.

        Raises TrainingError for weights that are no numbers: the loss would tell a step too late.
        """
        if state.global_step % self.boundary or state.global_step >= state.max_steps:
            return
        if self._every:
            due = state.global_step - self._saved_step >= self._every
        else:
            due = time.monotonic() - self._saved >= max(PATIENCE, SHARE * self._cost)
        asked, due = _agreed((self._job.workdir / STOP).exists(), due)
        if asked or due:
            _check_weights(model, args, state)
            control.should_save = True
            self._saving = time.monotonic()
        if asked:
            control.should_training_stop = self.stopped = True

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Raise TrainingError for weights that are no numbers, as the last step may make them."""
        _check_weights(model, args, state)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as complete, once it is durable."""
        if state.is_world_process_zero:
            _mark(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self._saved, self._saved_step = time.monotonic(), state.global_step
        self._cost = self._saved - self._saving

    def _progress(self, state: Any, loss: float) -> str:
        done = state.global_step - self._from
        left = (time.monotonic() - self._began) / done * (state.max_steps - state.global_step)
        step = f"step {state.global_step} of {state.max_steps}"
        resumed = f" (resumed after {self._from})" if self._from else ""
        return f"{step}{resumed}, loss {loss:.3f}, {_left(left)} left"


def _check_weights(model: Any, args: Any, state: Any) -> None:
    if model is None:  # a head alone, whose loss tells
        return
    trained = (p for p in model.parameters() if p.requires_grad)
    (broken,) = _agreed(any(not bool(p.isfinite().all()) for p in trained))
    if broken:
        raise _broken("the weights are no numbers after", args, state)


def _broken(found: str, args: Any, state: Any) -> TrainingError:
    last = complete(Path(args.output_dir))
    kept = f"the checkpoint of step {_step(last)} is kept" if last else "no checkpoint was saved"
    return TrainingError(
        f"{found} step {state.global_step} of {state.max_steps}; {kept}. Lower `learning_rate`, "
        "or `max_grad_norm`, or look for a broken row"
    )


def _agreed(*facts: bool) -> list[bool]:
    """Return what the first of the processes that train together finds: all must do the same."""
    import torch.distributed

    shared = list(facts)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(shared, src=0)
    return shared


def complete(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint that was saved whole."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=_step)
    return next((path for path in reversed(found) if (path / COMPLETE).exists()), None)


def tidy(checkpoints: Path) -> None:
    """Remove the checkpoints that were not saved whole."""
    for path in checkpoints.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)


def _mark(checkpoint: Path) -> None:
    for path in (*checkpoint.rglob("*"), checkpoint):
        sync(path)
    (checkpoint / COMPLETE).touch()
    sync(checkpoint)
    sync(checkpoint.parent)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _boundary(config: Any) -> int:
    """Return after how many steps nothing is pending."""
    logged = int(config.logging_steps) if config.logging_steps >= 1 else 1
    generated = getattr(config, "steps_per_generation", None) or 1
    parts = generated * getattr(config, "num_iterations", 1)
    return math.lcm(max(1, logged), parts // math.gcd(parts, config.gradient_accumulation_steps))


def _left(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
