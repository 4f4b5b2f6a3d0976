"""A record that changed on the disk is noticed when it is read; large values are blobs."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine import Text
from engine.errors import StoreError
from engine.store import Memo, RowRecord, SqliteStore
from engine.store.records import INLINE_BYTES, record_digest

pytestmark = pytest.mark.anyio
KEY, OTHER = b"k" * 16, b"o" * 16
LARGE = "€ and more " * INLINE_BYTES


@asynccontextmanager
async def opened(folder: Path | None) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(folder) as store:
        store.begin(pipeline="p", fresh=False, stages={"a": {"use": "x.y"}})
        yield store


async def fill(folder: Path) -> None:
    async with opened(folder) as store:
        store.put_memo(KEY, Memo("end", {"a": 1}, {"kind": "row"}, 7, OTHER, "own"))
        await store.calls.record(KEY, 0, b"a reply")
        store.put_row(RowRecord("stage", KEY, (1, 2), "finished", {"a": 1}, {"reason": "r"}))
        await store.end("done", {"finished": 1})


def read_all(store: SqliteStore) -> list[Any]:
    rows = list(store.rows(run=1))
    return [store.memo(KEY), store.replay(KEY, 0), rows, store.runs()[0].stages]


def columns(folder: Path) -> list[tuple[str, str]]:
    """Return what is stored but the keys by which it is found: (table, column)."""
    keys = {"key", "ordinal", "sample", "run", "fate", "id", "status", "ended", "summary"}
    with sqlite3.connect(folder / "store.sqlite") as database:
        found = [
            (table, column)
            for table in ("memo", "calls", "rows", "runs")
            for _, column, *_ in database.execute(f"PRAGMA table_info({table})")
            if column not in keys
            and (table, column) not in {("memo", "generation"), ("calls", "generation")}
        ]
    database.close()
    return found


async def test_a_change_in_any_column_is_noticed(tmp_path: Path) -> None:
    await fill(tmp_path)
    async with opened(tmp_path) as store:
        assert len(read_all(store)) == 4
    changed = columns(tmp_path)
    assert len(changed) == 20
    for table, column in changed:
        database = sqlite3.connect(tmp_path / "store.sqlite")
        ((old,),) = database.execute(f"SELECT {column} FROM {table} LIMIT 1")
        new = (
            old + 1
            if isinstance(old, (int, float))
            else old[:-1] + type(old)(b"~" if isinstance(old, bytes) else "~")
        )
        database.execute(f"UPDATE {table} SET {column}=? WHERE {column}=?", (new, old))
        database.commit()
        with pytest.raises(StoreError, match=f"damaged.*; `engine store check {tmp_path}` says"):
            async with opened(tmp_path) as store:
                read_all(store)
        database.execute(f"UPDATE {table} SET {column}=? WHERE {column}=?", (old, new))
        database.commit()
        database.close()
    async with opened(tmp_path) as store:
        assert len(read_all(store)) == 4


async def test_a_row_that_waits_is_checked_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        store.spool("a", KEY, {"n": 1})
        store.write("UPDATE spool SET body=?", (b'{"n":2}',))
        with pytest.raises(
            StoreError, match=f"the row {KEY.hex()}, which waited for a, .* damaged"
        ):
            await store.unspool("a", [KEY])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**30), st.integers(0, 7))
@example(3447, 3)  # a comma of the tables' definitions
def test_a_flipped_bit_is_never_taken_for_a_result(
    tmp_path_factory: Any, place: int, bit: int
) -> None:
    """Wherever it is: what is read is what was stored, or missing, or refused."""

    async def main() -> None:
        folder = tmp_path_factory.mktemp("flip")
        await fill(folder)
        async with opened(folder) as store:
            good = read_all(store)
        path = folder / "store.sqlite"
        data = bytearray(path.read_bytes())
        used = [i for i, byte in enumerate(data) if byte]  # most of a page is empty
        data[used[place % len(used)]] ^= 1 << bit
        path.write_bytes(data)
        try:
            async with SqliteStore(folder) as store:
                store.begin(pipeline="p", fresh=False)
                found = read_all(store)
        except (StoreError, IndexError):  # the run itself may be hidden
            return
        assert all(now in (was, None, []) for was, now in zip(good, found, strict=True))

    anyio.run(main)


@given(st.lists(st.none() | st.integers() | st.text() | st.binary(), max_size=4))
def test_the_digest_of_a_record_tells_values_and_their_places_apart(values: list[Any]) -> None:
    digest = record_digest("memo", values)
    assert digest != record_digest("rows", values)
    assert digest != record_digest("memo", [*values, b""])
    for i, value in enumerate(values):
        if isinstance(value, bytes):
            cut = [*values[:i], value[:1], value[1:], *values[i + 1 :]]
            assert digest != record_digest("memo", cut)


# --- large values ------------------------------------------------------------------------------


async def test_large_values_are_blobs_and_come_back(tmp_path: Path) -> None:
    text = Text.leaf(LARGE, "source:s")
    memo = Memo("row", {"plain": LARGE, "t": text, "small": 1}, {"note": LARGE})
    async with opened(tmp_path) as store:
        store.put_memo(KEY, memo)
        store.put_memo(OTHER, memo)
        await store.calls.record(KEY, 0, LARGE.encode())
        store.put_row(RowRecord("s", KEY, (1,), "finished", memo.fields, memo.note))
        store.spool("a", KEY, memo.fields)
        (row,) = await store.unspool("a", [KEY])
        assert row == memo.fields
    async with opened(tmp_path) as store:
        assert store.memo(KEY) == store.memo(OTHER) == memo
        assert store.calls.replay(KEY, 0) == LARGE.encode()
        (line,) = store.rows(run=1)
        assert (line.fields, line.note) == (memo.fields, memo.note)
        assert len(list(store.blobs.names())) == 4, "a body, a note, a text, a reply"
    assert (tmp_path / "store.sqlite").stat().st_size < 200_000


async def test_a_store_in_memory_keeps_large_values_in_memory() -> None:
    async with opened(None) as store:
        await store.calls.record(KEY, 0, LARGE.encode())
        assert store.calls.replay(KEY, 0) == LARGE.encode()
        assert list(store.blobs.names()) == []


async def test_a_large_value_that_changed_is_noticed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.calls.record(KEY, 0, LARGE.encode())
        path = store.blobs.place(*store.blobs.names())
        path.write_bytes(path.read_bytes()[:-1] + b"~")
        with pytest.raises(StoreError, match="the blob .* is damaged: its digest differs"):
            store.calls.replay(KEY, 0)
        path.unlink()
        with pytest.raises(StoreError, match="the blob .* cannot be read"):
            store.calls.replay(KEY, 0)
