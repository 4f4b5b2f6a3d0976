"""What a worker is told, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine_train.bases import Base
from engine_train.tuning import Tuning

__all__ = ["Job", "Method", "Outcome"]

Method = Literal["sft", "reward", "dpo", "grpo"]


class Job(BaseModel):
    """One training."""

    model_config = ConfigDict(extra="forbid")

    method: Method
    base: Base
    dataset: Path
    """A JSON Lines file with TRL's columns."""
    held_out: Path | None = None
    """As `dataset`: it is evaluated, and never trained on."""
    output: Path
    """The folder to write the model to."""
    workdir: Path
    """The folder for checkpoints."""
    seed: int
    tuning: Tuning = Field(default_factory=Tuning)
    args: dict[str, Any] = Field(default_factory=dict)
    """TRL's own arguments."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The method's own settings."""
    log_dir: Path | None = None
    """Where trackers such as TensorBoard write."""


class Outcome(BaseModel):
    """What came of a training."""

    metrics: dict[str, float] = Field(default_factory=dict)
    alarms: list[str] = Field(default_factory=list)
    """What a reader of the metrics must know first."""
    stopped: bool = False
    """Whether it ended early, because it was asked to: its checkpoint is kept."""
