"""What one execution of a stage knows of itself."""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from engine.keys import seeded
from engine.services import Blobs, CallRecords, Counters, Gate, MemoryCalls, Refusal

__all__ = ["Ancestor", "Context"]

LONGEST = 200
"""Characters that are kept of what a stage says."""


class Ancestor(NamedTuple):
    """A stage whose rows lead to another one."""

    name: str
    """`namespace.name`."""
    counters: Counters


@dataclass(slots=True)
class Context:
    """What an execution knows of itself; a stage takes it as `*, ctx: Context`."""

    stage_key: str
    """The stage's key in the pipeline."""
    row_id: str = ""
    """The row's id in hex; "" in a source or stream."""
    attempt: int = 1
    """This attempt's number, from 1."""
    attempts: int = 1
    """How many attempts the stage has (`retry`): on the last one a fallback may be used."""
    seed: int = 0
    """The pipeline's seed."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Named `anyio.CapacityLimiter`s of the run, from the pipeline's `limits:`."""
    fingerprint: bytes = b""
    """The stage's fingerprint: refusals of replies are recorded under it."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The fields of the rows read, with their types: a sink makes its schema from them."""
    pipeline: str = ""
    """The pipeline's name."""
    upstream: Mapping[str, Ancestor] = field(default_factory=dict)
    """For a sink: the stages that lead here, by key. Their counts stand once all rows are read."""
    calls: CallRecords = field(default_factory=MemoryCalls)
    """The run's call records: for resources that pay per call, see `engine.chat`."""
    counters: Counters = field(default_factory=Counters)
    """The stage's counters."""
    gate: Gate = field(default_factory=Gate)
    """Which calls of the run may start."""
    refused: list[Refusal] = field(default_factory=list)
    """The replies that this row's attempts have refused so far, in order: a retry may tell the
    model what was wrong with them."""
    rows: int = 1
    """How many rows this execution holds: more than one in a batch."""
    cost: float = 0.0
    """What the calls of this execution have cost so far."""
    scope: Any = None
    """The `anyio.CancelScope` that holds the stage's `timeout`, if it has one."""
    make_workdir: Callable[[], Path] | None = None
    open_blobs: Blobs | None = None
    asked: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    """How often each row has made each request, whatever the names that its chats go by."""
    waited: float = 0.0
    """Seconds that it has waited for others so far."""
    _rng: random.Random | None = None
    _waiting: int = 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for others, such as a rate limit: it is not the stage's time.

        Its deadline stands still, and a run that drains does not wait for it.
        """
        self._waiting += 1
        if self._waiting == 1:
            self.counters.parked += self.rows
            self._since = anyio.current_time()
            if self.scope is not None:
                self._left = self.scope.deadline - anyio.current_time()
                self.scope.deadline = math.inf
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.counters.parked -= self.rows
                self.waited += anyio.current_time() - self._since
                if self.scope is not None:
                    self.scope.deadline = anyio.current_time() + self._left

    _left: float = math.inf
    _since: float = 0.0

    @property
    def rng(self) -> random.Random:
        """A generator seeded from (pipeline seed, stage key, row id): the same on every attempt."""
        if self._rng is None:
            self._rng = seeded(self.seed, self.stage_key, self.row_id)
        return self._rng

    @property
    def blobs(self) -> Blobs:
        """The store's blobs: `with ctx.blobs.new("application/x") as file` makes an Artifact."""
        if self.open_blobs is None:
            raise RuntimeError(f"stage {self.stage_key}: this run has no store, so it has no blobs")
        return self.open_blobs

    @property
    def workdir(self) -> Path:
        """A folder for checkpoints, kept over a kill and removed once the output is committed.

        It is the row's own, of a batch that of its rows, and handed back while what is read stays
        the same. A row that dies keeps it, for `engine redrive`. A stream has one however its input
        changes: it must know its own checkpoints. A source has none.
        """
        if self.make_workdir is None:
            why = "nothing of it is recorded" if self.open_blobs else "this run has no store"
            raise RuntimeError(f"stage {self.stage_key}: {why}, so it has no workdir")
        return self.make_workdir()

    def say(self, text: str) -> None:
        """Say in a few words how far the work on this row is; shown until the row ends.

        For work of minutes: `ctx.say("step 40 of 100, loss 0.31")`. It is no result, and no log.
        """
        self.counters.sayings.pop(self.row_id, None)  # the newest stands last
        self.counters.sayings[self.row_id] = " ".join(str(text).split())[:LONGEST]

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that carries the stage key and row id."""
        return logging.LoggerAdapter(
            logging.getLogger("engine.stage"), {"stage": self.stage_key, "row": self.row_id}
        )
