"""What a run asks of a store. The simulation uses one without threads; tests may fake it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Protocol, Self

from engine.errors import StoreError
from engine.services import Blobs, CallRecords

__all__ = ["Fate", "Memo", "RowRecord", "RunRecord", "Store"]

Fate = Literal["finished", "rejected", "dead"]


@dataclass(frozen=True, slots=True)
class Memo:
    """A recorded result.

    `kind`: `row` (the added `fields`), `reject` or `dead` (`note` has reason or error), `end` (an
    expand or stream is complete: `count` entries, found under ordinals), `keep` (a stream passed
    its input `row` on, with `fields` if it added some), `gone` (it rejected that input).
    """

    kind: Literal["row", "reject", "dead", "end", "keep", "gone"]
    fields: Mapping[str, Any] = field(default_factory=dict)
    note: Mapping[str, Any] = field(default_factory=dict)
    count: int = 0
    row: bytes = b""
    key: str | None = None
    """The plugin's own key of a child."""


@dataclass(frozen=True, slots=True)
class RowRecord:
    """What became of a row in a run: the manifest's line."""

    stage: str
    row_id: bytes
    order: tuple[int, ...]
    fate: Fate
    fields: Mapping[str, Any]
    note: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run: its number in the store, generation, status and summary."""

    id: int
    generation: int
    started: float
    """Wall time, in seconds."""
    status: str
    summary: Mapping[str, Any]
    pipeline: str = ""
    ended: float | None = None
    """Wall time, in seconds; None while it runs, or if it was killed."""
    stages: Mapping[str, Any] = field(default_factory=dict)
    """What `begin` was told of the stages, by stage key."""


class Store(Protocol):
    """Memo, calls, texts, rows and blobs of one pipeline.

    Writes are queued and committed in order, in groups; what is queued without an await in between
    is committed together or not at all. `flush` returns once all are durable. Reads see what has
    been committed. Fields that a row cannot carry raise TypeError, naming the field, and nothing is
    queued.
    """

    trouble: StoreError | None
    """Why the run should drain, if it should: the disk is full, or the store has failed.

    A full store still takes what is in flight. One that failed takes replies alone, into a file
    beside it that the next opening reads; all else is dropped, and `flush` raises.
    """
    on_trouble: Callable[[StoreError], None] | None
    """Called in the event loop with each new `trouble`; must not raise."""
    run: int
    """The number of the run that `begin` opened."""

    @property
    def calls(self) -> CallRecords:
        """The call records of this generation."""
        ...

    @property
    def blobs(self) -> Blobs:
        """The blob folder."""
        ...

    async def __aenter__(self) -> Self:
        """Open the store, exclusively. Raises StoreError when another process owns it."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit what is queued, and close. Raises StoreError if it cannot be committed."""
        ...

    def begin(
        self, *, pipeline: str, fresh: bool, stages: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Begin a run, in a new generation if `fresh`, else in the newest; durable on return.

        `stages` is JSON, kept with the run: by stage key, what made its results.
        Raises StoreError if it cannot be written.
        """
        ...

    def note(self, summary: Mapping[str, Any]) -> None:
        """Queue what is to be known of the run if it is killed: its summary until it ends."""
        ...

    async def end(self, status: str, summary: Mapping[str, Any]) -> None:
        """Write how the run ended."""
        ...

    def memo(self, key: bytes, ordinal: int = -1) -> Memo | None:
        """Return a recorded result (of this generation), or one entry of a sequence.

        Raises StoreError, as all that reads does, for a record or a text that is damaged.
        """
        ...

    def put_memo(self, key: bytes, memo: Memo, ordinal: int = -1) -> None:
        """Queue a result."""
        ...

    def forget_dead(self, keys: Iterable[bytes]) -> int:
        """Forget that these memo keys died, so that a run tries them again; durable on return.

        Counts what was forgotten: `dead` records, and the `end` of an expand that died. To be
        called after `begin` and before anything is queued. Raises StoreError if it cannot be
        written.
        """
        ...

    def put_row(self, record: RowRecord) -> None:
        """Queue a line of the run's manifest."""
        ...

    def fates(self) -> Mapping[Fate, int]:
        """Return how many rows the manifest of this run holds, by what became of them."""
        ...

    def rows(self, *, fate: Fate | None = None, run: int | None = None) -> Iterator[RowRecord]:
        """Yield the manifest of a run (this one) in order."""
        ...

    def runs(self) -> list[RunRecord]:
        """Return the runs of this store, oldest first."""
        ...

    def spool(self, place: str, row_id: bytes, fields: Mapping[str, Any]) -> None:
        """Queue a row that waits for its turn, so that it need not wait in memory."""
        ...

    async def unspool(self, place: str, row_ids: Sequence[bytes]) -> list[dict[str, Any]]:
        """Return rows that were spooled in this run, in the order asked for."""
        ...

    @property
    def backlog(self) -> int:
        """Bytes queued and not yet committed."""
        ...

    async def flush(self) -> None:
        """Return once everything queued so far is durable. Raises StoreError if it cannot be."""
        ...

    def workdir(self, key: bytes) -> Path:
        """Return (and make) the work folder of a memo key."""
        ...

    def drop_workdir(self, key: bytes) -> None:
        """Remove the work folder of a memo key, if any, once all queued so far is durable."""
        ...
