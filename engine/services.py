"""What a run hands to its stages, as protocols: blobs, call records, counters.

They stand on this floor so that stages and chats need not know the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import anyio

from engine.rows import Artifact

__all__ = [
    "BlobWriter",
    "Blobs",
    "CallRecords",
    "Counters",
    "Gate",
    "MemoryCalls",
    "Refusal",
    "Spent",
    "Usage",
]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply that a parser or a gate refused."""

    reason: str
    span: str | None
    """The part of it that shows why, if one was said."""
    text: str
    """The whole reply, as a Text."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money of calls. `new` prompt tokens were computed, `cached` ones were not."""

    new: int = 0
    cached: int = 0
    out: int = 0
    cost: float = 0.0

    @property
    def known(self) -> bool:
        """Whether the server said anything of tokens: no call takes none."""
        return bool(self.new or self.cached or self.out)


@dataclass(slots=True)
class Spent:
    """What the paid calls of one model have taken."""

    calls: int = 0
    new: int = 0
    """Prompt tokens that were computed."""
    cached: int = 0
    """Prompt tokens that were not."""
    out: int = 0
    """Generated tokens."""
    cost: float = 0.0
    unmetered: int = 0
    """Calls whose replies said nothing of tokens: what they took is in no other figure."""

    def add(self, usage: Usage) -> None:
        """Add a call."""
        self.calls += 1
        self.unmetered += not usage.known
        self.new += usage.new
        self.cached += usage.cached
        self.out += usage.out
        self.cost += usage.cost

    def join(self, other: Spent) -> None:
        """Add what other calls have taken."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Gate:
    """Which calls of a run may start: once closed, none, and those in flight come to their end.

    `on_spent` is told the cost of the run so far after each paid call.
    """

    def __init__(self, on_spent: Callable[[float], None] | None = None) -> None:
        self.closed = False
        self._closing: list[anyio.Event] = []
        self.sending = 0
        """Calls that were sent and whose replies are not durable yet."""
        self.cost = 0.0
        self._on_spent = on_spent

    def close(self) -> None:
        """Admit no more calls: the run drains."""
        self.closed = True
        for event in self._closing:
            event.set()

    async def wait_closed(self) -> None:
        """Return once the run drains: what lasts long asks so when to come to an end."""
        if not self.closed:
            event = anyio.Event()
            self._closing.append(event)
            try:
                await event.wait()
            finally:
                self._closing.remove(event)

    async def admit(self) -> None:
        """Return at once if a call may be sent; else never: the run ends around it."""
        if self.closed:
            await anyio.sleep_forever()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count a call as in flight: a run that drains waits for the end of the block."""
        self.sending += 1
        try:
            yield
        finally:
            self.sending -= 1

    def spend(self, cost: float) -> None:
        """Add the cost of a paid call."""
        self.cost += cost
        if self._on_spent is not None:
            self._on_spent(self.cost)


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
    """Rows in flight that wait for others: for room, for a budget, for leave to call."""
    done: bool = False
    replayed: int = 0
    refused: int = 0
    models: dict[str, Spent] = field(default_factory=dict)
    """Model's name -> what its paid calls have taken."""
    earlier: dict[str, Spent] = field(default_factory=dict)
    """The same of the runs before, whose replies this one may take: those of its generation."""
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> up to three example texts."""
    sanitised: Counter[str] = field(default_factory=Counter)
    """Field -> lone surrogates that were replaced by U+FFFD on the way out."""
    sayings: dict[str, str] = field(default_factory=dict)
    """Row's id -> what the stage says of its work on that row, the newest last; no result."""

    @property
    def saying(self) -> str:
        """What the stage said last of a row that it still works on, or ""."""
        return next(reversed(self.sayings.values()), "")

    @property
    def in_flight(self) -> int:
        """Rows taken in whose fate is open; for a stream, which holds what it likes, 0."""
        if self.kind in ("map", "batch"):
            return self.received - self.out - self.rejected - self.dead
        if self.kind == "expand":
            return self.received - self.expanded - self.rejected - self.dead
        return 0

    @property
    def busy(self) -> int:
        """Rows in flight that wait for nobody: what a run that drains lets end."""
        return max(0, self.in_flight - self.parked)

    @property
    def calls(self) -> int:
        """Paid calls."""
        return sum(one.calls for one in self.models.values())

    @property
    def cost(self) -> float:
        """What the paid calls cost."""
        return sum((one.cost for one in self.models.values()), 0.0)

    @property
    def spent(self) -> Spent:
        """What the paid calls of all models have taken together."""
        total = Spent()
        for one in self.models.values():
            total.join(one)
        return total

    @property
    def in_all(self) -> dict[str, Spent]:
        """What the paid calls of each model have taken, those of the runs before included."""
        total: dict[str, Spent] = {}
        for models in (self.earlier, self.models):
            for name, one in models.items():
                total.setdefault(name, Spent()).join(one)
        return total

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

    def spend(self, usage: Usage, model: str) -> None:
        """Add a paid call."""
        self.models.setdefault(model, Spent()).add(usage)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain JSON, what was paid in all included."""
        left_out = ("sayings", "earlier")
        counts = {name: getattr(self, name) for name in self.__slots__ if name not in left_out}
        models = {name: asdict(spent) for name, spent in self.models.items()}
        paid = self.spent  # `out` alone would be the rows
        tokens = {"new_tokens": paid.new, "cached_tokens": paid.cached, "out_tokens": paid.out}
        return counts | {"models": models, "calls": paid.calls, "cost": paid.cost} | tokens

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
