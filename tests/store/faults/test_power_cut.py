"""A power cut at any moment loses nothing that was acknowledged, and makes nothing wrong."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

import engine.store.sqlite
from engine import Text
from engine.errors import StoreError
from engine.store import Memo, RowRecord, SqliteStore
from engine.store.calls import Calls

pytestmark = pytest.mark.anyio
FULL = os.environ.get("FAULTS") == "full"
CUTS = 100 if FULL else 20
MODES = ("none", "random", "all")
Fixture = Callable[..., Any]


def key_of(n: int) -> bytes:
    return n.to_bytes(16, "big")


def reply_of(n: int) -> bytes:
    return random.Random(n).randbytes((50, 500, 3000, 20_000)[n % 4])


def memo_of(n: int) -> Memo:
    words = Text.leaf(f"text {n} " * (1 + n % 90), "source:s") + f" and {n}"
    return Memo("row", {"n": n, "t": words, "shared": Text.leaf("the same", "template:t")})


async def work(folder: Path, recorder: Any, *, sessions: int = 3, each: int = 120) -> None:
    """Write calls, memos, rows and blobs from many tasks; note what has been acknowledged."""
    for session in range(sessions):
        async with SqliteStore(folder) as store:
            store.begin(pipeline="p", fresh=False)

            async def one(task: int, store: SqliteStore = store, session: int = session) -> None:
                for i in range(each // 6):
                    n = (session * 6 + task) * 1000 + i
                    kind = ("call", "memo", "blob")[n % 3]
                    if kind == "call":
                        await store.calls.record(key_of(n), 0, reply_of(n))
                    elif kind == "memo":
                        store.put_memo(key_of(n), memo_of(n))
                        store.put_row(RowRecord("s", key_of(n), (n,), "finished", {"n": n}, {}))
                        await store.flush()
                    else:
                        with store.blobs.new("x/y", folder=n % 2 == 0) as writer:
                            inner = writer.path / "part" if n % 2 == 0 else writer.path
                            inner.write_bytes(reply_of(n))
                        store.put_memo(key_of(n), Memo("row", {"blob": writer.artifact}))
                        await store.flush()
                    recorder.note((kind, n))

            async with anyio.create_task_group() as tasks:
                for task in range(6):
                    tasks.start_soon(one, task)
            await store.end("done", {})


async def check(folder: Path, acknowledged: list[tuple[str, int]]) -> list[str]:
    """Return what is lost or wrong; the store must open, and take new records."""
    wrong = []
    async with SqliteStore(folder) as store:
        store.begin(pipeline="p", fresh=False)
        known = {n: kind for kind, n in acknowledged}
        for n, kind in known.items():
            if kind == "call":
                if store.calls.replay(key_of(n), 0) != reply_of(n):
                    wrong.append(f"call {n}")
                continue
            memo = store.memo(key_of(n))
            if memo is None:
                wrong.append(f"memo {n}")
            elif kind == "memo":
                if memo != memo_of(n):
                    wrong.append(f"memo {n} differs")
            else:
                try:
                    path = store.blobs.path(memo.fields["blob"])
                    found = (path / "part" if path.is_dir() else path).read_bytes()
                except (OSError, StoreError) as error:
                    wrong.append(f"blob {n}: {error}")
                else:
                    if found != reply_of(n):
                        wrong.append(f"blob {n} differs")
        # What was not acknowledged is there as it was written, or not at all.
        for key, reply in store.read_all("SELECT key, reply FROM calls"):
            if reply != reply_of(int.from_bytes(key, "big")):
                wrong.append(f"call {key.hex()} differs")
        for (key,) in list(store.read_all("SELECT key FROM memo")):
            n = int.from_bytes(key, "big")
            memo = store.memo(key)
            if memo is not None and n % 3 == 1 and memo != memo_of(n):
                wrong.append(f"memo {n} differs")
        assert [row.fields["n"] for row in store.rows(run=1)] == sorted(
            row.fields["n"] for row in store.rows(run=1)
        )
        await store.calls.record(b"new", 0, b"works")
    return wrong


async def cuts(
    folder: Path, record: Any, watch: Any, *, count: int = 20, seed: int = 0, synced: bool = True
) -> list[str]:
    """Record the work once, cut it at `count` places, and return what was lost in each."""
    disk = folder / "disk"
    disk.mkdir()
    recorder = record(disk)
    with watch(recorder), pytest.MonkeyPatch.context() as patch:
        if not synced:
            patch.setattr(os, "fsync", lambda descriptor: None)
        await work(disk / ".engine" / "p", recorder)
    rng, lost = random.Random(seed), []
    for number in range(count):
        at, mode = recorder.moment(rng), MODES[number % 3]
        rebuilt = folder / f"cut{number}"
        recorder.cut(rebuilt, at, mode, rng)
        acknowledged = recorder.notes(at)
        try:
            wrong = await check(rebuilt / ".engine" / "p", acknowledged)
        except StoreError as error:
            wrong = [str(error)]
        if wrong:
            lost.append(f"cut {number} ({mode}, after {at} of {len(recorder.log)}): {wrong[:3]}")
    return lost


@pytest.fixture
def small_wal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin the WAL again every 30 pages, so that checkpoints are cut, too."""
    patched(monkeypatch, "PRAGMA wal_autocheckpoint=30")


def patched(monkeypatch: pytest.MonkeyPatch, pragma: str) -> None:
    real = engine.store.sqlite.open_for_writing

    def opened(*args: Any, **options: Any) -> apsw.Connection:
        connection = real(*args, **options)
        connection.execute(pragma)
        return connection

    monkeypatch.setattr(engine.store.sqlite, "open_for_writing", opened)


async def test_no_acknowledged_record_is_lost(
    tmp_path: Path, recorder: Fixture, watch: Fixture, small_wal: None
) -> None:
    assert await cuts(tmp_path, recorder, watch, count=CUTS) == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("level", ["NORMAL", "OFF"])
async def test_the_cuts_find_a_store_that_does_not_sync(
    tmp_path: Path, recorder: Fixture, watch: Fixture, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    patched(monkeypatch, f"PRAGMA synchronous={level}")
    assert len(await cuts(tmp_path, recorder, watch)) >= 5


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_cuts_find_blobs_that_are_not_synced(
    tmp_path: Path, recorder: Fixture, watch: Fixture
) -> None:
    assert len(await cuts(tmp_path, recorder, watch, synced=False)) >= 5


async def test_a_run_that_was_cut_goes_on_to_the_same_bytes(
    tmp_path: Path,
    recorder: Fixture,
    watch: Fixture,
    lab: Fixture,
    small_wal: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = lab(tmp_path / "whole").make()
    record = recorder(it.folder)
    real = Calls.record

    async def recorded(self: Calls, key: bytes, sample: int, reply: bytes) -> None:
        await real(self, key, sample, reply)
        record.note((key, sample))

    with monkeypatch.context() as patch, watch(record):
        patch.setattr(Calls, "record", recorded)
        assert await it.run() == 0
    assert len(record.notes()) == it.paid > 5
    rng = random.Random(1)
    for number in range(CUTS):
        at, mode = record.moment(rng), MODES[number % 3]
        again = lab(tmp_path / f"cut{number}")
        record.cut(again.folder, at, mode, rng)
        assert {*again.output.items()} <= {*it.output.items()}, "a file is whole, or not there"
        assert await again.run() == 0, (number, mode, at, again.said)
        assert again.output == it.output, (number, mode, at)
        assert again.paid <= it.paid - len(record.notes(at)), (number, mode, at)
