"""Which rows a pilot takes: a stage's input is gathered, and an even part of it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.channels import BACKLOG_BYTES, HELD_IN_MEMORY, SPOOLED, Item, Target
from engine.store.protocol import Store

__all__ = ["Sieve", "evenly"]


def evenly(total: int, most: int, block: int = 1) -> set[int]:
    """Return at most about `most` of `total` positions: whole blocks, spread evenly."""
    blocks, wanted = -(-total // block), max(1, round(most / block))
    if blocks <= wanted:
        return set(range(total))
    chosen = [(2 * i + 1) * blocks // (2 * wanted) for i in range(wanted)]
    return {at for one in chosen for at in range(one * block, min(total, (one + 1) * block))}


class Sieve:
    """An inlet that waits for the end of its input, and then lets some of the rows through.

    In place of a row that is held back goes a signal, so that all others keep their order.
    """

    def __init__(
        self,
        target: Target,
        store: Store | None,
        place: str,
        tasks: Any,
        choose: Callable[[int], set[int]],
    ) -> None:
        self._target, self._store, self._place = target, store, place
        self._tasks, self._choose = tasks, choose
        self._items: list[Item] = []
        self.reached = self.held = 0

    def try_put(self, item: Item) -> bool:
        """Take an item; False when the store must first catch up."""
        if self._store is not None and self._store.backlog > BACKLOG_BYTES:
            return False
        self.push(item)
        return True

    async def put(self, item: Item) -> None:
        """Take an item, letting the store catch up first."""
        if self._store is not None:
            await self._store.flush()
        self.push(item)

    def push(self, item: Item) -> None:
        """Take an item."""
        row_id, order, fields = item
        if row_id is not None and fields is not None:
            self.reached += 1
            if self._store is not None and self.reached > HELD_IN_MEMORY:
                self._store.spool(self._place, row_id, fields)
                item = (row_id, order, SPOOLED)
        self._items.append(item)

    def close(self) -> None:
        """Let the chosen rows through, for nothing more will come."""
        self._tasks.start_soon(self._release)

    async def _release(self) -> None:
        rows = sorted(i[1] for i in self._items if i[0] is not None and i[2] is not None)
        chosen = {rows[at] for at in self._choose(len(rows))}
        self.held = len(rows) - len(chosen)
        for row_id, order, fields in self._items:
            if row_id is not None and fields is not None and order not in chosen:
                fields = None
            if fields is SPOOLED and self._store is not None:
                (fields,) = await self._store.unspool(self._place, [row_id])  # type: ignore[list-item]
            self._target.push((row_id, order, fields))
        self._items.clear()
        self._target.close()
