"""`engine store du` and `gc`: what takes room, and that what is needed is never removed."""

import os
from pathlib import Path

import pytest

from engine import Text
from engine.errors import StoreError
from engine.store import Memo, RowRecord, SqliteStore
from engine.store.checking import check
from engine.store.room import Room, collect, usage

pytestmark = pytest.mark.anyio
LARGE = b"a large reply " * 9999


def key(i: int) -> bytes:
    return i.to_bytes(16, "big")


async def run(folder: Path, number: int, *, fresh: bool = False) -> None:
    """Write what differs from run to run, and what all share."""
    async with SqliteStore(folder) as store:
        store.begin(pipeline="p", fresh=fresh)
        shared = Text.leaf("shared by all " * 9, "template:t")
        with store.blobs.new("x/y") as writer:
            writer.path.write_bytes(b"artifact %d" % number)
        for i in range(20):
            text = Text.leaf(f"text {number} {i} " * 90, "source:s", inputs=[shared])
            fields = {"t": text, "a": writer.artifact}
            store.put_memo(key(i), Memo("row", fields))
            store.put_row(RowRecord("s", key(i), (i,), "finished", fields, {}))
        await store.calls.record(key(number), 0, LARGE + b"%d" % number)
        await store.end("done", {})


def of(rooms: list[Room], what: str) -> dict[str, int]:
    return {room.of: room.count for room in rooms if room.what == what}


async def test_room_is_told_by_generation_and_run(tmp_path: Path) -> None:
    await run(tmp_path, 1)
    await run(tmp_path, 2, fresh=True)
    await run(tmp_path, 2)
    found = usage(tmp_path)
    assert of(found, "memo") == {"generation 1": 20, "generation 2": 20}
    assert of(found, "calls") == {"generation 1": 1, "generation 2": 1}
    assert of(found, "rows") == {"run 1": 20, "run 2": 20, "run 3": 20}
    assert of(found, "texts") == {"": 41}
    assert of(found, "blobs") == {"": 4}
    (blobs,) = [room.bytes for room in found if room.what == "blobs"]
    assert blobs == sum(p.stat().st_size for p in (tmp_path / "blobs").rglob("*") if p.is_file())
    assert of(found, "reserve") == {}
    async with SqliteStore(tmp_path) as store:
        (store.workdir(key(1)) / "file").write_bytes(b"x" * 99)
        (work,) = [room for room in usage(tmp_path) if room.what == "work folders"]
        assert (work.count, work.bytes) == (1, 99)
        assert of(usage(tmp_path), "reserve") == {"": 1}


async def test_older_generations_go_and_the_newest_stays_whole(tmp_path: Path) -> None:
    await run(tmp_path, 1)
    await run(tmp_path, 2, fresh=True)
    size = (tmp_path / "store.sqlite").stat().st_size
    told = collect(tmp_path, dry_run=True)
    assert (tmp_path / "store.sqlite").stat().st_size == size
    assert of(usage(tmp_path), "memo") == {"generation 1": 20, "generation 2": 20}
    assert collect(tmp_path) == told
    assert of(told, "memo") == {"generation 1": 20}
    assert of(told, "rows") == {"run 1": 20}
    assert of(told, "texts") == {"": 20}
    assert of(told, "blobs") == {"": 2}
    assert of(told, "runs") == {"": 1}
    assert (tmp_path / "store.sqlite").stat().st_size < size
    assert collect(tmp_path) == []
    assert check(tmp_path).damages == []
    async with SqliteStore(tmp_path) as store:
        store.begin(pipeline="p", fresh=False)
        assert (store.run, store.generation) == (3, 2)
        memo = store.memo(key(3))
        assert memo is not None
        assert memo.fields["t"].startswith("text 2 3")
        assert [str(leaf) for leaf in memo.fields["t"].origin.inputs] == ["shared by all " * 9]
        assert store.blobs.path(memo.fields["a"]).read_bytes() == b"artifact 2"
        assert store.replay(key(2), 0) == LARGE + b"2"


async def test_older_runs_go_when_asked(tmp_path: Path) -> None:
    for number in range(4):
        await run(tmp_path, number)
    assert collect(tmp_path) == []
    freed = collect(tmp_path, runs=2)
    assert of(freed, "rows") == {"run 1": 20, "run 2": 20}
    assert of(freed, "runs") == {"": 2}
    assert of(freed, "blobs") == {"": 2}, "the memo holds the newest run's, and replies stay"
    async with SqliteStore(tmp_path) as store:
        assert [record.id for record in store.runs()] == [3, 4]
        assert len(list(store.rows(run=3))) == 20
    assert check(tmp_path).damages == []


async def test_what_killed_runs_left_goes_and_open_work_stays(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        store.begin(pipeline="p", fresh=False)
        store.put_memo(key(1), Memo("row"))
        done, begun = store.workdir(key(1)), store.workdir(key(2))
        (tmp_path / "work" / "mine").mkdir()
    half = tmp_path / "blobs" / "new-x"
    half.mkdir(parents=True)
    (half / "blob").write_bytes(b"half")
    freed = collect(tmp_path)
    assert [(room.what, room.count) for room in freed] == [("work folders", 1), ("temporary", 1)]
    assert not done.exists()
    assert not half.exists()
    assert begun.exists()
    assert (tmp_path / "work" / "mine").exists()


async def test_a_store_in_use_is_left_alone(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path):
        assert usage(tmp_path)
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
            collect(tmp_path)


async def test_a_damaged_store_is_left_alone(tmp_path: Path) -> None:
    await run(tmp_path, 1)
    await run(tmp_path, 2, fresh=True)
    async with SqliteStore(tmp_path) as store:
        store.write("DELETE FROM texts WHERE instr(record, 'shared by all')", ())
    before = usage(tmp_path)
    with pytest.raises(StoreError, match="is missing.*: `engine store check"):
        collect(tmp_path)
    assert usage(tmp_path) == before


def test_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    for do in (usage, collect):
        with pytest.raises(StoreError, match="there is no store at"):
            do(tmp_path)
    assert list(tmp_path.iterdir()) == []
