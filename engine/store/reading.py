"""What can be looked up in a store, by the run that writes it and by anybody else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apsw
import orjson

from engine.errors import StoreError, short_path
from engine.store.blobs import BlobFolder
from engine.store.codec import decode, load_json
from engine.store.protocol import Fate, Memo, RowRecord, RunRecord
from engine.store.records import record_digest
from engine.text import Text, TextError, from_records

__all__ = ["Reader", "order_bytes"]

CACHED_TEXTS = 4096


class Reader:
    """Runs, rows, memo, calls, and texts with their graphs, through a connection that only reads.

    A record whose digest differs, and a text or blob that is gone, raise StoreError when read.
    """

    _connection: apsw.Connection
    run = 0
    """The run that `rows` is about unless told otherwise."""
    blobs: BlobFolder
    generation = 0
    """The generation whose memo and calls are read."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._texts: OrderedDict[bytes, Text] = OrderedDict()

    def read(self, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """Return the first row of a query. Raises StoreError when the database cannot be read."""
        try:
            return self._connection.execute(sql, values).fetchone()
        except (apsw.Error, UnicodeDecodeError) as error:
            raise _unreadable(error) from error

    def read_all(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query. Raises StoreError when the database cannot be read."""
        try:
            yield from self._connection.execute(sql, values)
        except (apsw.Error, UnicodeDecodeError) as error:
            raise _unreadable(error) from error

    def text(self, did: bytes) -> Text:
        """Return a stored text with its graph. Raises StoreError if it is missing or changed."""
        known = self._texts.get(did)
        if known is not None:
            self._texts.move_to_end(did)
            return known
        try:
            text = from_records(did, self._record, self._texts)
        except TextError as error:
            raise self._damaged("a text", str(error)) from error
        while len(self._texts) > CACHED_TEXTS:
            self._texts.popitem(last=False)
        return text

    def _record(self, did: bytes) -> bytes:
        found = self.read("SELECT record FROM texts WHERE did=?", (did,))
        if found is None:
            raise self._damaged("a text", f"{did.hex()} is missing from the store")
        return self._whole(found[0])

    def _whole(self, value: bytes | str) -> bytes:
        """Return a value: itself, or the bytes of the blob that it names."""
        return value if isinstance(value, bytes) else self.blobs.read(value)

    def _checked(self, table: str, what: str, values: tuple[Any, ...]) -> list[Any]:
        """Return a record without its digest. Raises StoreError if the digest differs."""
        *held, digest = values
        if digest != record_digest(table, held):
            raise self._damaged(what, "its digest differs")
        return held

    def _damaged(self, what: str, how: str) -> StoreError:
        if self.folder is None:
            return StoreError(f"{what} in the store is damaged: {how}")
        place = short_path(str(self.folder))
        return StoreError(
            f"{what} in the store is damaged: {how}; `engine store check {place}` says what else "
            "is, and `--repair` drops it to be done again"
        )

    def memo(self, key: bytes, ordinal: int = -1) -> Memo | None:
        """Return a recorded result of this generation, or one entry of a sequence."""
        found = self.read(
            "SELECT * FROM memo WHERE generation=? AND key=? AND ordinal=?",
            (self.generation, key, ordinal),
        )
        if found is None:
            return None
        what = f"the result {key.hex()}"
        _, _, _, kind, body, note, count, row, own = self._checked("memo", what, found)
        own_key = None if own is None else self._whole(own).decode("utf-8", "surrogatepass")
        fields = decode(self._whole(body), self.text)
        return Memo(kind, fields, load_json(self._whole(note)), count, row, own_key)

    def replay(self, key: bytes, sample: int) -> bytes | None:
        """Return the stored reply of a call and sample in this generation, if there is one."""
        found = self.read(
            "SELECT * FROM calls WHERE generation=? AND key=? AND sample=?",
            (self.generation, key, sample),
        )
        if found is None:
            return None
        return self._whole(self._checked("calls", f"the reply to call {key.hex()}", found)[3])

    def _newest(self) -> RunRecord | None:
        found = self.read("SELECT * FROM runs ORDER BY id DESC LIMIT 1")
        return self._run(*found) if found else None

    def runs(self) -> list[RunRecord]:
        """Return the runs of this store, oldest first."""
        return [self._run(*found) for found in self.read_all("SELECT * FROM runs ORDER BY id")]

    def _run(self, *found: Any) -> RunRecord:
        status, ended, summary = found[6:]
        number, generation, started, pipeline, stages = self._checked(
            "runs", f"the record of run {found[0]}", found[:6]
        )
        return RunRecord(
            number,
            generation,
            started,
            status,
            load_json(summary),
            pipeline,
            ended,
            load_json(stages),
        )

    def fates(self) -> dict[Fate, int]:
        """Return how many rows the manifest of this run holds, by what became of them."""
        query = "SELECT fate, count(*) FROM rows WHERE run=? GROUP BY fate"
        return dict(self.read_all(query, (self.run,)))

    def rows(self, *, fate: Fate | None = None, run: int | None = None) -> Iterator[RowRecord]:
        """Yield the manifest of a run (this one) in order."""
        query = "SELECT * FROM rows WHERE run=? AND fate=coalesce(?, fate) ORDER BY place, stage"
        values = (self.run if run is None else run, fate)
        return map(self._row, self.read_all(query, values))

    def find_rows(self, prefix: str, *, run: int, stages: Iterable[str]) -> list[RowRecord]:
        """Return the lines of a run's manifest, at these stages, for ids that begin so, in hex."""
        least, most = (bytes.fromhex(prefix.ljust(32, digit)) for digit in "0f")
        query = (
            "SELECT * FROM rows WHERE run=? AND fate IN ('finished', 'rejected', 'dead') AND stage"
            " IN (SELECT value FROM json_each(?)) AND row BETWEEN ? AND ? ORDER BY place, stage"
        )
        values = (run, orjson.dumps(list(stages)).decode(), least, most)
        return [self._row(found) for found in self.read_all(query, values)]

    def count_rows(self, run: int) -> dict[tuple[Fate, str], int]:
        """Return how many rows of a run have each fate at each stage."""
        query = "SELECT fate, stage, count(*) FROM rows WHERE run=? GROUP BY fate, stage"
        return {(fate, stage): count for fate, stage, count in self.read_all(query, (run,))}

    def _row(self, found: tuple[Any, ...]) -> RowRecord:
        what = f"a row of run {found[0]}"
        _, kind, stage, row, place, body, note = self._checked("rows", what, found)
        fields = decode(self._whole(body), self.text, strict=False)
        told = load_json(self._whole(note))
        return RowRecord(stage, row, _order_of(place), kind, fields, told)


def order_bytes(order: tuple[int, ...]) -> bytes:
    """Return an order key as bytes that sort as the tuple does."""
    return b"".join([part.to_bytes(6, "big") for part in order])


def _order_of(data: bytes) -> tuple[int, ...]:
    return tuple([int.from_bytes(data[i : i + 6], "big") for i in range(0, len(data), 6)])


def _unreadable(error: Exception) -> StoreError:
    damaged = isinstance(error, (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError))
    hint = ": `engine store check FILE` says what is lost" if damaged else ""
    return StoreError(f"the store cannot be read: {error}{hint}")
