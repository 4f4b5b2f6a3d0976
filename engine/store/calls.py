"""The call records of one generation: replies, and who refused them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from engine.store.codec import dump_json

if TYPE_CHECKING:
    from engine.store.sqlite import SqliteStore

__all__ = ["Calls"]


class Calls:
    """Replies are read from the store; of refusals, those of this run.

    A row that was interrupted runs again from its first attempt. Were the refusals of the earlier
    run heeded, it would not meet the samples that it met before, and would have more attempts than
    a row that was not interrupted. So they are only recorded; each stored sample is refused again,
    which costs nothing.
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._refused: dict[tuple[bytes, bytes], set[int]] = {}

    def replay(self, key: bytes, sample: int) -> bytes | None:
        """Return the stored reply of this call and sample, if there is one."""
        return self._store.replay(key, sample)

    async def record(self, key: bytes, sample: int, reply: bytes) -> None:
        """Store a reply; returns once it is durable. Raises StoreError if it cannot be kept."""
        self._store.put("calls", (self._store.generation, key, sample, reply))
        await self._store.flush(replies=True)

    def refusals(self, key: bytes, fingerprint: bytes) -> Collection[int]:
        """Return the samples of this call that were refused under this fingerprint in this run."""
        return self._refused.get((key, fingerprint), ())

    def refuse(self, key: bytes, sample: int, fingerprint: bytes, reason: str) -> None:
        """Record a refusal."""
        self._refused.setdefault((key, fingerprint), set()).add(sample)
        note = dump_json({"reason": reason})
        self._store.put("refusals", (self._store.generation, key, fingerprint, sample, note))
