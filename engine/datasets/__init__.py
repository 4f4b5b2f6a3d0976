"""Reading, packing and writing datasets: `dataset.read`, `dataset.pack`, `dataset.write`."""

from collections.abc import Callable, Sequence
from typing import Any

from engine.hookspecs import hookimpl

__all__ = ["engine_stages"]


@hookimpl
def engine_stages() -> Sequence[Callable[..., Any]]:
    """Return the stages of the namespace `dataset`."""
    from engine.datasets.attaching import attach
    from engine.datasets.packing import pack
    from engine.datasets.reading import read
    from engine.datasets.writing import write

    return [read, pack, attach, write]
