"""A store that is only read, and stages that are tried with what it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from engine.errors import EngineError, StoreError
from engine.store.protocol import Memo
from engine.store.sqlite import ReadOnlyStore

__all__ = ["DryStore", "missed_here", "tried"]


class _Missing(StoreError):
    """The store does not hold what a stage asked for."""


missed_here: ContextVar[list[None]] = ContextVar("_missed")
"""Grows by each thing that this try of a stage, in whatever task, did not find in the store."""


def _missing(*_: Any, **__: Any) -> Any:
    missed_here.get().append(None)
    raise _Missing("not in the store")


@contextlib.contextmanager
def tried() -> Iterator[list[None]]:
    """Give the list of what is missed inside; that something was is no error here."""
    missed: list[None] = []
    token = missed_here.set(missed)
    try:
        yield missed
    except EngineError:
        if not missed:
            raise
    finally:
        missed_here.reset(token)


class _Calls:
    """The call records of the store; refusals are kept in memory."""

    def __init__(self, store: ReadOnlyStore | None) -> None:
        self._store = store
        self._refused: dict[tuple[bytes, bytes], set[int]] = {}

    def replay(self, key: bytes, sample: int) -> bytes | None:
        found = self._store.replay(key, sample) if self._store is not None else None
        return _missing() if found is None else found

    async def record(self, key: bytes, sample: int, reply: bytes) -> None:
        _missing()

    def refusals(self, key: bytes, fingerprint: bytes) -> Collection[int]:
        return self._refused.get((key, fingerprint), ())

    def refuse(self, key: bytes, sample: int, fingerprint: bytes, reason: str) -> None:
        self._refused.setdefault((key, fingerprint), set()).add(sample)


class _Blobs:
    def __init__(self, store: ReadOnlyStore | None) -> None:
        self.path = store.blobs.path if store is not None else _missing
        self.new = _missing


class DryStore:
    """A store, as the executor wants one, that holds what was there before and takes nothing."""

    run = backlog = 0

    def __init__(self, store: ReadOnlyStore | None) -> None:
        self._store, self.calls, self.blobs = store, _Calls(store), _Blobs(store)
        self._waiting: dict[tuple[str, bytes], Any] = {}

    def memo(self, key: bytes, ordinal: int = -1) -> Memo | None:
        return None if self._store is None else self._store.memo(key, ordinal)

    def put_memo(self, key: bytes, memo: Memo, ordinal: int = -1) -> None: ...

    def put_row(self, record: Any) -> None: ...

    def drop_workdir(self, key: bytes) -> None: ...

    async def flush(self) -> None: ...

    def workdir(self, key: bytes) -> Path:
        return _missing()  # type: ignore[no-any-return]

    def spool(self, place: str, row_id: bytes, fields: Mapping[str, Any]) -> None:
        self._waiting[place, row_id] = fields

    async def unspool(self, place: str, row_ids: Sequence[bytes]) -> list[Any]:
        return [self._waiting.pop((place, row_id)) for row_id in row_ids]
