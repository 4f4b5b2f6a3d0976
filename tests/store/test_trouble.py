"""A disk that is full or fails: what was paid for is kept, and the run is told."""

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from engine.errors import StoreError
from engine.store import Memo, SqliteStore
from engine.store.rescue import Rescue

pytestmark = pytest.mark.anyio
KEY, OTHER = b"k" * 16, b"o" * 16
RESERVE = 1 << 20


@asynccontextmanager
async def opened(folder: Path | None) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(folder, reserve_bytes=RESERVE) as store:
        store.begin(pipeline="p", fresh=False)
        yield store


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Callable[[SqliteStore, int], None]:
    """Leave no room for a store's database, and so many pages more once the reserve is gone."""

    def fill(store: SqliteStore, pages: int) -> None:
        connection = store._commits._connection
        used = connection.pragma("page_count")
        connection.pragma("max_page_count", used)
        real = Rescue.free

        def free(self: Rescue) -> bool:
            monkeypatch.setattr(Rescue, "free", real)
            connection.pragma("max_page_count", used + pages)
            return real(self)

        monkeypatch.setattr(Rescue, "free", free)

    return fill


def told(store: SqliteStore) -> list[StoreError]:
    heard: list[StoreError] = []
    store.on_trouble = heard.append
    return heard


async def fail(store: SqliteStore) -> None:
    store.write("INSERT INTO nowhere VALUES (1)", ())
    with pytest.raises(StoreError, match="the store failed: .*nowhere"):
        await store.flush()


async def close(store: SqliteStore) -> None:
    with pytest.raises(StoreError, match="the store failed"):
        await store.__aexit__(None, None, None)


# --- a disk that is full -----------------------------------------------------------------------


async def test_a_full_disk_takes_what_is_in_flight(tmp_path: Path, fill: Any) -> None:
    async with opened(tmp_path) as store:
        heard = told(store)
        fill(store, 1000)
        assert store.trouble is None
        for i in range(50):
            store.put_memo(bytes([i]) * 16, Memo("row", {"x": "y" * 1000}))
        await store.calls.record(KEY, 0, b"paid")
        assert heard == [store.trouble]
        assert "the disk is full: what was being written is kept" in str(store.trouble)
        assert not (tmp_path / "reserve").exists()
        await store.calls.record(OTHER, 0, b"in flight, too")
        assert len(heard) == 1
    async with opened(tmp_path) as store:
        assert all(store.memo(bytes([i]) * 16) for i in range(50))
        assert [store.calls.replay(key, 0) for key in (KEY, OTHER)] == [b"paid", b"in flight, too"]
        assert store.trouble is None
        assert (tmp_path / "reserve").stat().st_size == RESERVE


async def test_when_the_reserve_is_full_too_the_replies_are_rescued(
    tmp_path: Path, fill: Any
) -> None:
    store = SqliteStore(tmp_path, reserve_bytes=RESERVE)
    await store.__aenter__()
    store.begin(pipeline="p", fresh=False)
    heard = told(store)
    fill(store, 4)
    for i in range(500):
        store.put_memo(i.to_bytes(16), Memo("row", {"x": "y" * 1000}))
    await store.calls.record(KEY, 0, b"paid \xff")
    assert store.memo(bytes(16)) is None
    assert [str(error)[:16] for error in heard] == ["the store failed"]
    with pytest.raises(StoreError, match="full"):
        await store.flush()
    await close(store)
    async with opened(tmp_path) as store:
        assert store.calls.replay(KEY, 0) == b"paid \xff"
        assert store.memo(bytes(16)) is None


# --- a store that has failed -------------------------------------------------------------------


async def test_what_fails_otherwise_is_not_tried_again_and_replies_are_kept(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, reserve_bytes=RESERVE)
    await store.__aenter__()
    store.begin(pipeline="p", fresh=False)
    heard = told(store)
    await store.calls.record(KEY, 0, b"before")
    await fail(store)
    assert heard == [store.trouble]
    store.put_memo(OTHER, Memo("row"))  # dropped: the run drains
    async with anyio.create_task_group() as tasks:
        for sample in range(1, 9):
            tasks.start_soon(store.calls.record, KEY, sample, b"reply %d" % sample * 20_000)
    assert len(heard) == 1
    await close(store)
    assert (tmp_path / "rescue.jsonl").exists()
    async with opened(tmp_path) as store:
        assert store.calls.replay(KEY, 0) == b"before"
        for sample in range(1, 9):
            assert store.calls.replay(KEY, sample) == b"reply %d" % sample * 20_000
        assert store.memo(OTHER) is None
        assert not (tmp_path / "rescue.jsonl").exists()


async def test_a_reply_that_cannot_be_kept_at_all_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path, reserve_bytes=RESERVE)
    await store.__aenter__()
    store.begin(pipeline="p", fresh=False)
    await fail(store)

    def save(self: Rescue, calls: Any) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(Rescue, "save", save)
    with pytest.raises(StoreError, match="the store failed"):
        await store.calls.record(KEY, 0, b"paid")
    await close(store)


async def test_a_store_in_memory_has_nothing_to_fall_back_on() -> None:
    store = SqliteStore(None)
    await store.__aenter__()
    store.begin(pipeline="p", fresh=False)
    heard = told(store)
    await fail(store)
    with pytest.raises(StoreError, match="the store failed"):
        await store.calls.record(KEY, 0, b"paid")
    assert heard == [store.trouble]
    await close(store)


# --- the rescue file and the reserve -----------------------------------------------------------


@pytest.mark.parametrize("damage", ["none", "torn", "flipped", "no JSON"])
async def test_a_rescue_file_is_read_line_by_line(tmp_path: Path, damage: str) -> None:
    async with opened(tmp_path):
        pass
    rescue = Rescue(tmp_path, 0)
    rescue.save([(1, KEY, sample, b"reply %d" % sample) for sample in range(3)])
    data = rescue.path.read_bytes()
    changed = {
        "none": data,
        "torn": data[:-9],
        "flipped": data.replace(b'"sample":2', b'"sample":7'),
        "no JSON": data[:-9] + b"\n",
    }
    rescue.path.write_bytes(changed[damage])
    async with opened(tmp_path) as store:
        found = [store.calls.replay(KEY, sample) for sample in range(3)]
        assert found == [b"reply 0", b"reply 1", b"reply 2" if damage == "none" else None]
        assert store.calls.replay(KEY, 7) is None
    assert not rescue.path.exists()
    aside = (tmp_path / "rescue-damaged.jsonl").exists()
    assert aside == (damage in ("flipped", "no JSON")), "what was acknowledged is not thrown away"


async def test_a_rescued_reply_does_not_replace_a_stored_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.calls.record(KEY, 0, b"stored")
    Rescue(tmp_path, 0).save([(1, KEY, 0, b"rescued"), (1, OTHER, 0, b"")])
    assert orjson.loads((tmp_path / "rescue.jsonl").read_bytes().splitlines()[0])["generation"] == 1
    async with opened(tmp_path) as store:
        assert store.calls.replay(KEY, 0) == b"stored"
        assert store.calls.replay(OTHER, 0) == b""


async def test_the_reserve_is_real_room_while_a_run_has_the_store(tmp_path: Path) -> None:
    async with opened(tmp_path):
        assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVE
    assert not (tmp_path / "reserve").exists()


async def test_without_room_for_a_reserve_the_store_opens_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "posix_fallocate", full)
    async with opened(tmp_path) as store:
        await store.calls.record(KEY, 0, b"paid")
    assert not (tmp_path / "reserve").exists()
    assert "no room is reserved for replies in flight (no room: " in caplog.text
