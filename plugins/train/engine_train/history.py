"""What a training logs, as it is kept: the same after a resume as without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["clean", "final"]

VOLATILE = ("runtime", "per_second", "num_tokens", "total_flos", "train_loss", "step_time")
"""Ends of the keys that tell of the machine, or that a resumed trainer counts from nothing."""
TAIL = 10
"""A final metric is the mean over the last 1/TAIL of what was logged."""


def clean(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the logged records without what differs from one machine or start to another."""
    kept = (
        {
            key: value
            for key, value in record.items()
            if not key.endswith(VOLATILE) and isinstance(value, (int, float))
        }
        for record in history
    )
    return [record for record in kept if record.keys() - {"step", "epoch"}]


def final(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return each logged number's mean over the last tenth of its records (at least one).

    Of what was evaluated it is the last one: earlier ones are of other weights.
    """
    series: dict[str, list[float]] = {}
    for record in history:
        for key, value in record.items():
            if key not in ("step", "learning_rate"):
                series.setdefault(key, []).append(float(value))
    means = {}
    for key, values in series.items():
        tail = values[-max(1, len(values) // TAIL) :]
        last = key == "epoch" or key.startswith("eval_")
        means[key] = values[-1] if last else sum(tail) / len(tail)
    if "loss" in series:
        means["first_loss"] = series["loss"][0]
    return means
