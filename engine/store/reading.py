"""What can be looked up in a store, by the run that writes it and by anybody else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import apsw

from engine.errors import StoreError
from engine.store.codec import decode, load_json
from engine.store.protocol import Fate, RowRecord, RunRecord
from engine.text import Text, TextError, from_records

__all__ = ["Reader", "order_bytes"]

CACHED_TEXTS = 4096


class Reader:
    """Runs, their rows, and texts with their graphs, through a connection that only reads."""

    _connection: apsw.Connection
    run = 0
    """The run that `rows` is about unless told otherwise."""

    def __init__(self) -> None:
        self._texts: OrderedDict[bytes, Text] = OrderedDict()

    def read(self, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """Return the first row of a query. Raises StoreError when the database cannot be read."""
        try:
            return self._connection.execute(sql, values).fetchone()
        except apsw.Error as error:
            raise StoreError(f"the store cannot be read: {error}") from error

    def read_all(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query. Raises StoreError when the database cannot be read."""
        try:
            yield from self._connection.execute(sql, values)
        except apsw.Error as error:
            raise StoreError(f"the store cannot be read: {error}") from error

    def text(self, did: bytes) -> Text:
        """Return a stored text with its graph. Raises StoreError if it is missing or changed."""
        known = self._texts.get(did)
        if known is not None:
            self._texts.move_to_end(did)
            return known
        try:
            text = from_records(did, self._record, self._texts)
        except TextError as error:
            raise StoreError(f"a text in the store is damaged: {error}") from error
        while len(self._texts) > CACHED_TEXTS:
            self._texts.popitem(last=False)
        return text

    def _record(self, did: bytes) -> bytes:
        found = self.read("SELECT record FROM texts WHERE did=?", (did,))
        if found is None:
            raise StoreError(f"the text {did.hex()} is missing from the store")
        return found[0]  # type: ignore[no-any-return]

    def runs(self) -> list[RunRecord]:
        """Return the runs of this store, oldest first."""
        query = "SELECT id, generation, started, status, summary FROM runs ORDER BY id"
        return [RunRecord(i, g, t, s, load_json(b)) for i, g, t, s, b in self.read_all(query)]

    def rows(self, *, fate: Fate | None = None, run: int | None = None) -> Iterator[RowRecord]:
        """Yield the manifest of a run (this one) in order."""
        query = (
            "SELECT stage, row, place, fate, body, note FROM rows"
            " WHERE run=? AND fate=coalesce(?, fate) ORDER BY place, stage"
        )
        values = (self.run if run is None else run, fate)
        for stage, row, place, found, body, note in self.read_all(query, values):
            fields = decode(body, self.text, strict=False)
            yield RowRecord(stage, row, _order_of(place), found, fields, load_json(note))


def order_bytes(order: tuple[int, ...]) -> bytes:
    """Return an order key as bytes that sort as the tuple does."""
    return b"".join([part.to_bytes(6, "big") for part in order])


def _order_of(data: bytes) -> tuple[int, ...]:
    return tuple([int.from_bytes(data[i : i + 6], "big") for i in range(0, len(data), 6)])
