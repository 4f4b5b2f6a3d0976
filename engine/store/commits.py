"""Group commit: statements are queued on the event loop and committed in order by a thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.to_thread
import apsw

from engine.errors import StoreError

__all__ = ["Commits"]

GROUP_SECONDS = 0.02
OVERHEAD = 400  # bytes that a queued statement costs beside its values
_Statement = tuple[str, tuple[Any, ...]]


class Commits:
    """The queue of a store, and the one writer of its database.

    A group is one transaction: what is queued without an await in between is committed together.
    """

    def __init__(self, connection: apsw.Connection, *, threaded: bool) -> None:
        self._connection = connection
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

    def write(self, sql: str, values: tuple[Any, ...]) -> None:
        """Queue one statement. Raises StoreError once the store has failed."""
        self._check()
        self._queue.append((sql, values))
        self.backlog += sum([len(v) for v in values if isinstance(v, (bytes, str))]) + OVERHEAD
        self._wake.set()

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
        with self._connection:
            execute = self._connection.execute
            for sql, values in group:
                execute(sql, values)
        for action in after:
            action()
