"""Group commit: statements are queued on the event loop and committed in order by a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.to_thread
import apsw

from engine.errors import StoreError

__all__ = ["Commits"]

GROUP_SECONDS = 0.02
OVERHEAD = 400  # bytes that a queued statement costs beside its values
_Values = tuple[Any, ...]
_Statement = tuple[str, _Values, str]


class Commits:
    """The queue of a store, and the one writer of its database.

    A group is one transaction: what is queued without an await in between is committed together.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        seal: Callable[[str, _Values], _Values],
        *,
        threaded: bool,
    ) -> None:
        self._connection, self._seal = connection, seal
        self._writing = threading.Lock()
        self._limiter = anyio.CapacityLimiter(1) if threaded else None
        self._queue: list[_Statement] = []
        self._after: list[Callable[[], None]] = []
        self.backlog = 0
        """Bytes queued and not yet committed."""
        self._wake = anyio.Event()
        self._next = anyio.Event()  # set when what is queued now has been committed
        self._current = self._next  # ... or what is being committed
        self._failed: Exception | None = None
        self._running = anyio.CancelScope(shield=True)
        self._over = False

    def write(self, sql: str, values: _Values, table: str = "") -> None:
        """Queue one statement. Raises StoreError once the store has failed.

        With `table`, the values are those of a record, to be sealed by the thread that writes.
        """
        self._check()
        self._queue.append((sql, values, table))
        self.backlog += sum([len(v) for v in values if isinstance(v, (bytes, str))]) + OVERHEAD
        self._wake.set()

    def now(self, sql: str, rows: Sequence[_Values]) -> None:
        """Commit one statement for each of some rows before returning. Raises StoreError."""
        self._check()
        try:
            with self._writing, self._connection:
                self._connection.executemany(sql, rows)
        except (apsw.Error, OSError) as error:
            self._failed = error
            self._check()

    def after(self, action: Callable[[], None]) -> None:
        """Do something once all queued so far is durable (never, if that fails)."""
        self._after.append(action)
        self._wake.set()

    async def flush(self) -> None:
        """Return once everything queued so far is durable. Raises StoreError if it cannot be."""
        if self._queue and not self._over:
            await self._next.wait()
        elif self.backlog and not self._over:
            await self._current.wait()
        if self._over:
            await self.close()
        self._check()

    async def run(self) -> None:
        """Commit group after group until `stop`, whatever is cancelled around it."""
        try:
            with self._running:
                while self._failed is None:
                    await self._wake.wait()
                    await anyio.sleep(GROUP_SECONDS)
                    with anyio.CancelScope(shield=True):  # `stop` must not lose a group
                        await self._commit_queue()
        finally:  # asyncio may cancel this very task when its loop ends: let nobody wait for it
            self._over = True
            self._next.set()

    def stop(self) -> None:
        """End `run`; a commit that has begun ends first."""
        self._running.cancel()

    async def close(self) -> None:
        """Commit what is left, whatever is cancelled. Raises StoreError if it cannot be."""
        if self._failed is None and (self._queue or self._after):
            with anyio.CancelScope(shield=True):
                await self._commit_queue()
        self._check()

    def _check(self) -> None:
        if self._failed is not None:
            raise StoreError(f"the store failed: {self._failed}") from self._failed

    async def _commit_queue(self) -> None:
        self._wake = anyio.Event()
        group, self._queue = self._queue, []
        after, self._after = self._after, []
        size, self._current, self._next = self.backlog, self._next, anyio.Event()
        try:
            if self._limiter is None:
                self._commit(group, after)
            else:
                await anyio.to_thread.run_sync(self._commit, group, after, limiter=self._limiter)
        except Exception as error:  # never retried: what a failed fsync left behind is unknown
            self._failed = error
            self._next.set()
        finally:
            self.backlog -= size
            self._current.set()

    def _commit(self, group: Sequence[_Statement], after: Sequence[Callable[[], None]]) -> None:
        sealed = [(sql, self._seal(t, values) if t else values) for sql, values, t in group]
        with self._writing, self._connection:
            execute = self._connection.execute
            for sql, values in sealed:
                execute(sql, values)
        for action in after:
            action()
