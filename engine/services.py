"""What a run hands to its stages, as protocols: blobs, call records, counters.

They stand on this floor so that stages and chats need not know the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from engine.rows import Artifact

__all__ = ["BlobWriter", "Blobs", "CallRecords", "Counters", "MemoryCalls", "Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money of calls. `new` prompt tokens were computed, `cached` ones were not."""

    new: int = 0
    cached: int = 0
    out: int = 0
    cost: float = 0.0


@dataclass(slots=True)
class Counters:
    """What one stage has done so far; read by views, never pushed.

    `unaccounted` states the laws that must hold at the end of a run.
    """

    kind: str = ""
    """The stage's kind, or `source` where `inputs=` replaced its output."""
    received: int = 0
    out: int = 0
    """Rows passed on: children of an expand, rows kept or made by a stream."""
    rejected: int = 0
    dead: int = 0
    expanded: int = 0
    yielded: int = 0
    rejected_children: int = 0
    kept: int = 0
    consumed: int = 0
    reused: int = 0
    """Rows whose result came from the memo (they also count as out, rejected or dead)."""
    retries: int = 0
    parked: int = 0
    """Executions of an expand or stream that wait for room, or for rows."""
    done: bool = False
    calls: int = 0
    replayed: int = 0
    refused: int = 0
    new_tokens: int = 0
    cached_tokens: int = 0
    out_tokens: int = 0
    cost: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> up to three example texts."""
    sanitised: Counter[str] = field(default_factory=Counter)
    """Field -> lone surrogates that were replaced by U+FFFD on the way out."""

    @property
    def in_flight(self) -> int:
        """Rows taken in whose fate is open; for a stream, which holds what it likes, 0."""
        if self.kind in ("map", "batch"):
            return self.received - self.out - self.rejected - self.dead
        if self.kind == "expand":
            return self.received - self.expanded - self.rejected - self.dead - self.parked
        return 0

    def unaccounted(self) -> str:
        """Return what does not add up once the stage has ended, or ""."""
        if self.kind in ("map", "batch"):
            ends = {"out": self.out, "rejected": self.rejected, "dead": self.dead}
        elif self.kind == "expand":
            ends = {"expanded": self.expanded, "rejected": self.rejected, "dead": self.dead}
            if self.yielded != self.out + self.rejected_children:
                return f"{self.yielded} yielded, {self.out} out + {self.rejected_children} rejected"
        elif self.kind == "stream":
            ends = {"kept": self.kept, "rejected": self.rejected, "consumed": self.consumed}
            ends["dead"] = self.dead
        else:
            return ""
        if self.received == sum(ends.values()):
            return ""
        return f"{self.received} in, {' + '.join(f'{n} {name}' for name, n in ends.items())}"

    def spend(self, usage: Usage) -> None:
        """Add a paid call."""
        self.calls += 1
        self.new_tokens += usage.new
        self.cached_tokens += usage.cached
        self.out_tokens += usage.out
        self.cost += usage.cost

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain JSON."""
        return {name: getattr(self, name) for name in self.__slots__}

    def reject(self, reason: str, example: str) -> None:
        """Count a reason and keep up to three examples of it."""
        self.reasons[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < 3:
            examples.append(example)


class CallRecords(Protocol):
    """The paid replies of a run: durable before they are parsed, and never paid for twice."""

    def replay(self, key: bytes, sample: int) -> bytes | None:
        """Return the stored reply of this call and sample, if there is one."""

    async def record(self, key: bytes, sample: int, reply: bytes) -> None:
        """Store a reply; returns once it is durable."""

    def refusals(self, key: bytes, fingerprint: bytes) -> Collection[int]:
        """Return the samples of this call that were refused under this stage fingerprint."""

    def refuse(self, key: bytes, sample: int, fingerprint: bytes, reason: str) -> None:
        """Record a refusal."""


class MemoryCalls:
    """Call records that live as long as one row's attempts: what a run without a store uses."""

    def __init__(self) -> None:
        self._replies: dict[tuple[bytes, int], bytes] = {}
        self._refused: dict[tuple[bytes, bytes], set[int]] = {}

    def replay(self, key: bytes, sample: int) -> bytes | None:
        """Return the reply recorded for this call and sample."""
        return self._replies.get((key, sample))

    async def record(self, key: bytes, sample: int, reply: bytes) -> None:
        """Keep a reply."""
        self._replies[key, sample] = reply

    def refusals(self, key: bytes, fingerprint: bytes) -> Collection[int]:
        """Return the refused samples."""
        return self._refused.get((key, fingerprint), ())

    def refuse(self, key: bytes, sample: int, fingerprint: bytes, reason: str) -> None:
        """Keep a refusal."""
        self._refused.setdefault((key, fingerprint), set()).add(sample)


class BlobWriter(Protocol):
    """One blob being written: a file, or a folder of named files."""

    artifact: Artifact
    """What a row carries; set once the `with` block has ended well."""

    @property
    def path(self) -> Path:
        """The temporary file or folder to write to."""
        ...

    def open(self) -> BinaryIO:
        """Open the temporary file for writing bytes."""
        ...


class Blobs(Protocol):
    """The store's blob folder: bytes are written in place (temp, fsync, rename), never copied."""

    def new(self, media_type: str, *, folder: bool = False) -> AbstractContextManager[BlobWriter]:
        """Open a new blob; its Artifact is `writer.artifact` after the block."""
        ...

    def path(self, artifact: Artifact) -> Path:
        """Return where the bytes of an Artifact lie, to be read."""
        ...
