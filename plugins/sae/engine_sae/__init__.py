"""Sparse autoencoders on reward models. For now: activations with a planted dictionary."""

from collections.abc import Callable, Sequence
from typing import Any

from engine import hookimpl

__all__ = ["engine_stages"]


@hookimpl
def engine_stages() -> Sequence[Callable[..., Any]]:
    """Return the stages of the namespace `sae`."""
    from engine_sae.planted import planted

    return [planted]
