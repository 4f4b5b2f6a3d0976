"""How rows pass between stages: a bounded hand-off for workers, an ordered inbox for streams.

An *item* is `(row id, order key, fields)`. Two kinds of item carry no row: `fields is None` says
that the row with this order key is gone (rejected, dead, or expanded to nothing), and `row id is
None` says that a sequence has ended: its order key is the one that the next row would have had.
With these, an inbox knows when every earlier row has been accounted for, whatever the order of
arrival, and nothing upstream ever waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import anyio

from engine.errors import StageError
from engine.keys import canonical, digest
from engine.store.protocol import Store

__all__ = ["Channel", "Inbox", "Item", "Order", "Outlet", "Target"]

Order = tuple[int, ...]
Item = tuple[bytes | None, Order, Any]
"""(row id, order key, fields)."""
CAPACITY = 1024
HELD_IN_MEMORY = 1024
BACKLOG_BYTES = 16 << 20


class Outlet(Protocol):
    """Where a stage's items go."""

    def try_put(self, item: Item) -> bool:
        """Take an item without waiting; False if there is no room now."""
        ...

    async def put(self, item: Item) -> None:
        """Take an item, waiting for room."""
        ...

    def close(self) -> None:
        """Say that nothing more will come."""
        ...


class Target(Outlet, Protocol):
    """The input of a stage."""

    def push(self, item: Item) -> None:
        """Take an item even if there is no room."""
        ...


class Channel:
    """A bounded hand-off to a stage's workers.

    No task for each row and no event for each hop: a worker is woken when the queue stops being
    empty, and wakes the next if it finds more than one row. So whenever rows wait while a worker
    is idle (or may still be started by `grow`), some worker is on its way.
    """

    __slots__ = (
        "_closed_hook",
        "_grow",
        "_low",
        "_waiting",
        "capacity",
        "closed",
        "items",
        "putters",
    )

    def __init__(
        self, grow: Callable[[], bool], on_close: Callable[[], None], capacity: int = CAPACITY
    ) -> None:
        self.items: deque[Item] = deque()
        self.capacity, self._low = capacity, capacity // 2
        self.closed = False
        self._grow, self._closed_hook = grow, on_close
        self._waiting: deque[anyio.Event] = deque()
        self.putters: deque[anyio.Event] = deque()

    def try_put(self, item: Item) -> bool:
        """Take an item without waiting; False if the queue is full."""
        items = self.items
        if len(items) >= self.capacity:
            return False
        items.append(item)
        if len(items) == 1:
            self._wake()
        return True

    async def put(self, item: Item) -> None:
        """Take an item, waiting while the queue is full."""
        while not self.try_put(item):
            event = anyio.Event()
            self.putters.append(event)
            try:
                await event.wait()
            except BaseException:
                if not event.is_set():
                    self.putters.remove(event)
                else:
                    self.drained()
                raise

    def push(self, item: Item) -> None:
        """Take an item even if the queue is full: signals, which are few."""
        self.items.append(item)
        if len(self.items) == 1:
            self._wake()

    def close(self) -> None:
        """Let the workers end once the queue is empty."""
        self.closed = True
        while self._waiting:
            self._waiting.popleft().set()
        self._closed_hook()

    def drained(self) -> None:
        """Let parked producers in: workers call this when the queue has become short."""
        if self.putters and len(self.items) <= self._low:
            for _ in range(min(len(self.putters), self.capacity - len(self.items))):
                self.putters.popleft().set()

    async def ready(self) -> bool:
        """Wait until an item is there; False once the channel is closed and empty."""
        self.drained()
        while not self.items:
            if self.closed:
                return False
            event = anyio.Event()
            self._waiting.append(event)
            try:
                await event.wait()
            except BaseException:  # cancelled: give the place back, or pass the wake-up on
                if not event.is_set():
                    self._waiting.remove(event)
                elif self.items:
                    self._wake()
                raise
        if len(self.items) > 1:
            self._wake()
        return True

    def _wake(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._grow()


def _trimmed(order: Order) -> Order:
    """Return an order key without trailing zeros: (3,) and its first child (3, 0) begin alike."""
    end = len(order)
    while end and not order[end - 1]:
        end -= 1
    return order[:end]


class Inbox:
    """Rows in order-key order, as the prefix completes; rows that wait long are kept in the store.

    `reads` are the fields whose values enter `digest` (None: no digest is kept).
    """

    def __init__(
        self,
        place: str,
        store: Store | None,
        *,
        reads: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        self.place, self._store, self._reads = place, store, reads
        self._held: dict[Order, tuple[Item, bytes]] = {}
        self._expected: Order = ()
        self.ready: deque[Item] = deque()
        self.closed = False
        self.count = 0
        self._digests = digest("inputs", place)
        self._event = anyio.Event()

    def try_put(self, item: Item) -> bool:
        """Take an item; False when the store must first catch up."""
        if self._store is not None and self._store.backlog > BACKLOG_BYTES:
            return False
        self._take(item)
        return True

    async def put(self, item: Item) -> None:
        """Take an item, letting the store catch up first."""
        if self._store is not None:
            await self._store.flush()
        self._take(item)

    def push(self, item: Item) -> None:
        """Take an item."""
        self._take(item)

    def close(self) -> None:
        """Say that nothing more will come."""
        self.closed = True
        self._event.set()

    @property
    def digest(self) -> bytes:
        """The digest over all rows handed to `ready` so far: ids and values read, in order."""
        return self._digests

    def _take(self, item: Item) -> None:
        row_id, order, fields = item
        fresh = b""
        if row_id is not None and fields is not None:
            if self._reads is not None:
                fresh = digest(row_id, canonical(self._reads(fields)))
            if self._store is not None and len(self.ready) + len(self._held) >= HELD_IN_MEMORY:
                self._store.spool(self.place, row_id, fields)
                item = (row_id, order, SPOOLED)
        self._held[_trimmed(order)] = item, fresh
        released = False
        while (found := self._held.pop(self._expected, None)) is not None:
            held, row_digest = found
            row_id, order, fields = held
            if row_id is None:  # the end of a sequence: go on after its parent
                parent = order[:-1]
                self._expected = _trimmed((*parent[:-1], parent[-1] + 1)) if parent else _NEVER
                continue
            self._expected = (*order[:-1], order[-1] + 1)
            if fields is not None:
                self.ready.append(held)
                self.count += 1
                if row_digest:
                    self._digests = digest(self._digests, row_digest)
                released = True
        if released:
            self._event.set()

    async def ended(self) -> None:
        """Wait until the input has ended."""
        while not self.closed:
            self._event = anyio.Event()
            await self._event.wait()

    async def take(self, most: int, *, least: int = 1) -> list[Item]:
        """Return the next rows, in order: at least `least` unless the input ends; [] at its end."""
        while len(self.ready) < least and not self.closed:
            self._event = anyio.Event()
            await self._event.wait()
        found = [self.ready.popleft() for _ in range(min(most, len(self.ready)))]
        away = [item[0] for item in found if item[2] is SPOOLED]
        if away and self._store is not None:
            fetched = iter(await self._store.unspool(self.place, away))  # type: ignore[arg-type]
            found = [(i, o, next(fetched) if f is SPOOLED else f) for i, o, f in found]
        if not found and self._held:
            stage = self.place.partition("/")[0]
            raise StageError(stage, "", f"{len(self._held)} rows or signals never had their turn")
        return found


class _Spooled:
    """Stands for the fields of a row that waits in the store."""


SPOOLED = _Spooled()
_NEVER: Order = (-1,)
