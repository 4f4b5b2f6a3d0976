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

from engine.keys import canonical, digest
from engine.store.protocol import Store

__all__ = ["Channel", "Concat", "Inbox", "Item", "Outlet", "Union"]

Order = tuple[int, ...]
Item = tuple[bytes | None, Order, Any]
"""(row id, order key, fields)."""
CAPACITY = 1024
HELD_IN_MEMORY = 1024
BACKLOG_BYTES = 32 << 20


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
        return found


class _Spooled:
    """Stands for the fields of a row that waits in the store."""


SPOOLED = _Spooled()
_NEVER: Order = (-1,)


class Concat:
    """One branch of `from: [a, b]`: all rows of a, then of b in order key; neither waits."""

    def __init__(
        self,
        target: Target,
        index: int,
        branches: int,
        upstream: str,
        fields: frozenset[str],
        done: list[int],
    ) -> None:
        self._target, self._index, self._branches = target, index, branches
        self._upstream, self._fields, self._done = upstream, fields, done

    def _item(self, item: Item) -> Item:
        row_id, order, fields = item
        order = (self._index, *order)
        if row_id is None:
            return None, order, None
        if fields is not None:
            fields = {name: value for name, value in fields.items() if name in self._fields}
        return digest("concat", row_id, self._upstream), order, fields

    def try_put(self, item: Item) -> bool:
        """Take an item without waiting."""
        return self._target.try_put(self._item(item))

    async def put(self, item: Item) -> None:
        """Take an item."""
        await self._target.put(self._item(item))

    def close(self) -> None:
        """Close the target once every branch is closed."""
        self._done.append(self._index)
        if len(self._done) == self._branches:
            self._target.close()


class Union:
    """`from: {all: [a, b]}`: one row an id, fields united, in the order of the first branch.

    A row that a branch lacks is rejected with the reason `missing: branch`.
    """

    def __init__(
        self,
        target: Target,
        branches: tuple[str, ...],
        fields: tuple[frozenset[str], ...],
        reject: Callable[[Item, str], None],
    ) -> None:
        self._target, self._branches, self._fields, self._reject = target, branches, fields, reject
        self._waiting: dict[bytes, list[Any]] = {}
        self._orders: dict[bytes, Order] = {}
        self._late: deque[Item] = deque()
        self._closed: set[int] = set()

    def port(self, index: int) -> Outlet:
        """Return the outlet of one branch."""
        return _Port(self, index)

    def receive(self, index: int, item: Item) -> Item | None:
        """Take an item of a branch; return the item that is complete by it, if one is."""
        row_id, order, fields = item
        if row_id is None:
            return item if index == 0 else None  # the first branch's sequences are the target's
        parts = self._waiting.setdefault(row_id, [_ABSENT] * len(self._branches))
        parts[index] = fields
        if index == 0:
            self._orders[row_id] = order
        if any(part is _ABSENT for part in parts) and not self._hopeless(parts):
            return None
        return self._settle(row_id)

    def _hopeless(self, parts: list[Any]) -> bool:
        return all(part is not _ABSENT or i in self._closed for i, part in enumerate(parts))

    def _settle(self, row_id: bytes) -> Item | None:
        parts, order = self._waiting.pop(row_id), self._orders.pop(row_id, None)
        lacking = [
            n
            for n, part in zip(self._branches, parts, strict=True)
            if part is _ABSENT or part is None
        ]
        if not lacking:
            united: dict[str, Any] = {}
            for names, part in zip(self._fields, parts, strict=True):
                united.update((n, v) for n, v in part.items() if n in names or n not in united)
            return row_id, order or (), united
        present = next((p for p in parts if p is not _ABSENT and p is not None), None)
        if present is not None:
            self._reject((row_id, order or (), present), f"missing: {lacking[0]}")
        return (row_id, order, None) if order is not None else None

    def close_branch(self, index: int) -> list[Item]:
        """Close a branch; return the items that can now be settled."""
        self._closed.add(index)
        settled = [
            self._settle(i) for i, parts in list(self._waiting.items()) if self._hopeless(parts)
        ]
        return [item for item in settled if item is not None]

    @property
    def done(self) -> bool:
        """Whether every branch is closed."""
        return len(self._closed) == len(self._branches)


class _Absent:
    """Stands for a branch that has not delivered a row yet."""


_ABSENT = _Absent()


class _Port:
    """One branch of a Union."""

    def __init__(self, union: Union, index: int) -> None:
        self._union, self._index = union, index

    def try_put(self, item: Item) -> bool:
        """Take an item; a complete row that finds no room waits in `put`."""
        complete = self._union.receive(self._index, item)
        if complete is not None and not self._union._target.try_put(complete):
            self._union._late.append(complete)
            return False
        return True

    async def put(self, item: Item) -> None:
        """Hand on what `try_put` could not."""
        while self._union._late:
            await self._union._target.put(self._union._late.popleft())

    def close(self) -> None:
        """Close this branch; what can no longer be completed is rejected."""
        for item in self._union.close_branch(self._index):
            self._union._target.push(item)
        if self._union.done:
            self._union._target.close()
