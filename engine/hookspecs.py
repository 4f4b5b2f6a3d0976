"""The hooks: few, synchronous, typed; they register or observe, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from engine.events import Event

__all__ = ["hookimpl"]

hookspec = pluggy.HookspecMarker("engine")
hookimpl = pluggy.HookimplMarker("engine")
"""Marks a plugin's implementation of a hook."""


@hookspec
def engine_stages() -> Sequence[Callable[..., Any]]:  # type: ignore[empty-body]
    """Return the functions that `@stage` tagged."""


@hookspec
def engine_resources() -> Sequence[type]:  # type: ignore[empty-body]
    """Return the classes that `@resource` tagged."""


@hookspec
def engine_event(event: Event) -> None:
    """Observe an event of a run; called on the event loop, so be quick and do not block."""
