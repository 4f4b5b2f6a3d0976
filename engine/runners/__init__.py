"""Runners: one for each kind of stage; each has an inlet, outlets, and counts every row."""

from engine.runners.base import Runner
from engine.runners.batches import Batch
from engine.runners.sources import Source
from engine.runners.streams import Stream
from engine.runners.workers import Expand, Map

__all__ = ["RUNNERS", "Runner"]

RUNNERS: dict[str, type[Runner]] = {
    "source": Source,
    "map": Map,
    "expand": Expand,
    "batch": Batch,
    "stream": Stream,
}
