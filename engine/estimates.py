"""What a stage says beforehand of what it will take: `plan_of` and its `Estimate`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Estimate", "estimate_of", "plan_of"]

F = TypeVar("F", bound=Callable[..., "Estimate"])


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a stage will take for all of its input: totals, as its author assumes them."""

    rows: float
    """Rows passed on."""
    calls: float = 0
    """Calls, those of later attempts included."""
    new: float = 0
    """Prompt tokens that are computed."""
    cached: float = 0
    """Prompt tokens that a server has in its cache."""
    out: float = 0
    """Generated tokens."""
    hours: float = 0.0
    """Hours of work on a device of its own; not the time that calls take."""
    bytes: float = 0
    """Bytes that it keeps: files, weights, activations."""


def plan_of(stage_func: Callable[..., Any]) -> Callable[[F], F]:
    """Say what a stage will take, from its configuration and the rows that reach it.

    The decorated function takes `rows`, how many rows come in (0 for a source, the sum over a
    join's inputs), and by keyword what it names of the stage's configuration; a resource is the key
    that the pipeline gives it, or None. It returns an Estimate for all rows together, and raises
    ValueError, with a sentence for the user, for configuration that cannot work.
    """

    def tag(func: F) -> F:
        stage_func.__engine_plan_of__ = func  # type: ignore[attr-defined]
        return func

    return tag


def estimate_of(func: Callable[..., Any], rows: float, given: Mapping[str, Any]) -> Estimate | None:
    """Return what a stage's plan says, or None where it has none; raises what the plan raises.

    `given` are configuration and resources: the plan gets those that it names.
    """
    plan = getattr(func, "__engine_plan_of__", None)
    if plan is None:
        return None
    taken = inspect.signature(plan).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    named = {name: value for name, value in given.items() if every or name in taken}
    estimate = plan(round(rows), **named)
    if not isinstance(estimate, Estimate):
        raise TypeError(f"its plan returned {type(estimate).__name__}, not an Estimate")
    return estimate
