"""Branches that come together: `from: [a, b]` and `from: {all: [a, b]}`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from engine.channels import Item, Order, Outlet, Target
from engine.errors import StageError
from engine.keys import digest

__all__ = ["Concat", "Union"]


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
            self._target.push((None, (self._branches,), None))  # the sequence of branches ends, too
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
        if parts[index] is not _ABSENT:
            raise StageError(self._branches[index], row_id.hex(), "two rows have this id")
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
