"""Group commit: statements are queued on the event loop and committed in order by a thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.to_thread
import apsw

from engine.errors import StoreError
from engine.store.rescue import Rescue, is_full

__all__ = ["Commits"]

GROUP_SECONDS = 0.02
OVERHEAD = 400  # bytes that a queued statement costs beside its values
_Values = tuple[Any, ...]
_Statement = tuple[str, _Values, str]


class Commits:
    """The queue of a store, and the one writer of its database.

    A group is one transaction: what is queued without an await in between is committed together.

    When the disk is full, the reserve is given back and the group is committed once more; from
    then on the store is *full*. Any other error, and a second one of this kind, is the end: what
    is queued is dropped, but for replies, which go to the rescue file. Both are told to `tell`.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        seal: Callable[[str, _Values], _Values],
        tell: Callable[[StoreError], None],
        rescue: Rescue | None,
        *,
        threaded: bool,
    ) -> None:
        self._connection, self._seal, self._tell = connection, seal, tell
        self._rescue, self._full = rescue, False
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
        self._lost: Exception | None = None  # why not even replies can be kept
        self._running = anyio.CancelScope(shield=True)
        self._over = False

    def write(self, sql: str, values: _Values, table: str = "") -> None:
        """Queue one statement; once the store has failed, only a call record is taken.

        With `table`, the values are those of a record, to be sealed by the thread that writes.
        """
        if self._failed is not None and table != "calls":
            return
        self._queue.append((sql, values, table))
        self.backlog += sum([len(v) for v in values if isinstance(v, (bytes, str))]) + OVERHEAD
        self._wake.set()

    def now(self, sql: str, rows: Sequence[_Values]) -> None:
        """Commit one statement for each of some rows before returning. Raises StoreError."""
        self._check()
        try:
            self._transact([(sql, values, "") for values in rows])
        except Exception as error:
            self._failed = error
            self._check()

    def after(self, action: Callable[[], None]) -> None:
        """Do something once all queued so far is durable (never, if that fails)."""
        self._after.append(action)
        self._wake.set()

    async def flush(self, *, replies: bool = False) -> None:
        """Return once everything queued so far is durable. Raises StoreError if it cannot be.

        With `replies`, it suffices that the call records are, be it in the rescue file.
        """
        if self._queue and not self._over:
            await self._next.wait()
        elif self.backlog and not self._over:
            await self._current.wait()
        if self._over:
            await self._drain()
        if not replies or self._lost is not None:
            self._check()

    async def run(self) -> None:
        """Commit group after group until `stop`, whatever is cancelled around it."""
        try:
            with self._running:
                while True:
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
        await self._drain()
        self._check()

    async def _drain(self) -> None:
        if self._queue or self._after:
            with anyio.CancelScope(shield=True):
                await self._commit_queue()

    def _check(self) -> None:
        if self._failed is not None:
            raise _told(self._failed, self._lost)

    async def _commit_queue(self) -> None:
        self._wake = anyio.Event()
        group, self._queue = self._queue, []
        after, self._after = self._after, []
        size, self._current, self._next = self.backlog, self._next, anyio.Event()
        before = (self._full, self._failed)
        try:
            if self._limiter is None:
                self._commit(group, after)
            else:
                await anyio.to_thread.run_sync(self._commit, group, after, limiter=self._limiter)
        finally:
            self.backlog -= size
            self._current.set()
        if (self._full, self._failed) != before:
            self._tell(_told(self._failed, self._lost))

    def _commit(self, group: Sequence[_Statement], after: Sequence[Callable[[], None]]) -> None:
        try:
            if self._failed is None:
                self._transact_with_reserve(group)
                for action in after:
                    action()
                return
        except Exception as error:  # never retried: what a failed fsync left behind is unknown
            self._failed = error
        try:
            if self._rescue is None:
                raise self._failed
            self._rescue.save([values for _, values, table in group if table == "calls"])
        except Exception as error:
            self._lost = error

    def _transact_with_reserve(self, group: Sequence[_Statement]) -> None:
        try:
            self._transact(group)
        except Exception as error:
            if self._rescue is None or not is_full(error, self._connection):
                raise
            if not self._rescue.free():
                raise
            self._transact(group)
            self._full = True

    def _transact(self, group: Sequence[_Statement]) -> None:
        sealed = [(sql, self._seal(t, values) if t else values) for sql, values, t in group]
        with self._writing:
            execute = self._connection.execute
            execute("BEGIN IMMEDIATE")
            try:
                for sql, values in sealed:
                    execute(sql, values)
                execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    with contextlib.suppress(apsw.Error):  # the first error is the one to tell
                        execute("ROLLBACK")
                raise


def _told(failed: Exception | None, lost: Exception | None) -> StoreError:
    """Return what a run is told: of a store that has failed, or of one that is full.

    `lost` is why replies in flight could not be kept, if so.
    """
    if failed is None:
        return StoreError(
            "the disk is full: what was being written is kept, in the room that was reserved for "
            "it. Make room and run again: it goes on where it ended"
        )
    error = StoreError(
        f"the store failed: {failed}. All that it acknowledged is kept"
        + ("; replies that were in flight are lost, and paid for again" if lost else "")
        + ": once the disk is in order (`engine store check FILE`), run again"
    )
    error.__cause__ = failed
    return error
