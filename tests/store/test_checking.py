"""`engine store check`: damage is told with what it costs; a repair keeps all that is sound."""

import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest

from engine import Text
from engine.cli import group
from engine.errors import EngineError, StoreError
from engine.store import Memo, RowRecord, SqliteStore
from engine.store.checking import check, repair
from engine.store.room import usage

pytestmark = pytest.mark.anyio
LARGE = b"a large reply " * 9999
SIZE = 300


def key(i: int) -> bytes:
    return i.to_bytes(16, "big")


def memo(i: int) -> Memo:
    return Memo("row", {"n": i, "t": Text.leaf(f"text {i} " * 30, "source:s") + " and more"})


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A store with results, replies, rows, a sequence of three, an Artifact and a large reply."""
    async with SqliteStore(tmp_path / "store") as store:
        store.begin(pipeline="p", fresh=False)
        for i in range(SIZE):
            store.put_memo(key(i), memo(i))
            store.put("calls", (1, key(i), 0, b"reply %d " % i * 40))
            store.put_row(RowRecord("s", key(i), (i,), "finished", memo(i).fields, {}))
        for ordinal in range(3):
            store.put_memo(b"sequence".rjust(16), Memo("row", {"i": ordinal}), ordinal)
        store.put_memo(b"sequence".rjust(16), Memo("end", note={"kind": "row"}, count=3))
        with store.blobs.new("x/y") as writer:
            writer.path.write_bytes(b"an artifact")
        store.put_memo(b"artifact".rjust(16), Memo("row", {"a": writer.artifact}))
        store.calls.refuse(key(1), 0, b"f", "garbage")
        await store.calls.record(b"large".rjust(16), 0, LARGE)
        await store.end("done", {})
    return tmp_path / "store"


def change(folder: Path, sql: str) -> None:
    connection = sqlite3.connect(folder / "store.sqlite")
    connection.execute(sql)
    connection.commit()
    connection.close()


async def test_a_good_store_is_counted(folder: Path) -> None:
    report = check(folder)
    assert report.damages == []
    sound = {"memo": SIZE + 5, "calls": SIZE + 1, "rows": SIZE, "refusals": 1, "runs": 1}
    assert {table: report.records[table] for table in sound} == sound
    assert report.blobs == 2


def blob(folder: Path, content: bytes) -> Path:
    (found,) = [p for p in (folder / "blobs").glob("??/*") if p.read_bytes() == content]
    return found


DAMAGES: dict[str, tuple[Callable[[Path], None], str, list[bytes], bool]] = {
    # what is damaged, how it is told, the results and whether the reply are gone after a repair
    "memo": (
        lambda folder: change(
            folder, f"UPDATE memo SET note=x'7b7d20' WHERE key=x'{key(5).hex()}'"
        ),
        f"the result {key(5).hex()}: its digest differs",
        [key(5)],
        False,
    ),
    "text": (
        lambda folder: change(
            folder, "UPDATE texts SET record=CAST(replace(record, 'text 7 ', 'text 8 ') AS BLOB)"
        ),
        "a text: node [0-9a-f]{32} has been changed",
        [key(7)],
        False,
    ),
    "missing text": (
        lambda folder: change(folder, "DELETE FROM texts WHERE instr(record, 'text 9 ')"),
        f"the result {key(9).hex()}: it holds the text [0-9a-f]{{32}}, which is damaged or missing",
        [key(9)],
        False,
    ),
    "call": (
        lambda folder: change(folder, f"UPDATE calls SET reply=x'00' WHERE key=x'{key(5).hex()}'"),
        f"the reply to call {key(5).hex()}: its digest differs",
        [],
        True,
    ),
    "large reply": (
        lambda folder: blob(folder, LARGE).unlink(),
        r"the reply to call [0-9a-f]+: the blob .* cannot be read",
        [],
        False,
    ),
    "artifact": (
        lambda folder: (blob(folder, b"an artifact").write_bytes(b"An artifact"), None)[1],
        "the result [0-9a-f]+: it refers to the blob [0-9a-f]+, which is damaged or missing",
        [b"artifact".rjust(16)],
        False,
    ),
    "sequence": (
        lambda folder: change(folder, "DELETE FROM memo WHERE ordinal=1"),
        "the sequence [0-9a-f]+: it lacks entries",
        [b"sequence".rjust(16)],
        False,
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
async def test_damage_is_told_and_a_repair_keeps_the_rest(folder: Path, what: str) -> None:
    damage, told, gone, paid = DAMAGES[what]
    damage(folder)
    damages = check(folder).damages
    assert any(re.fullmatch(told + ".*", found.what) for found in damages), damages
    assert all(found.costs for found in damages)
    report = repair(folder)
    assert report.aside is not None
    assert report.aside.exists()
    assert check(folder).damages == []
    async with SqliteStore(folder) as store:
        store.begin(pipeline="p", fresh=False)
        assert (store.run, store.generation) == (2, 1)
        for i in range(SIZE):
            assert store.memo(key(i)) == (None if key(i) in gone else memo(i))
            lost = paid and i == 5
            assert store.replay(key(i), 0) == (None if lost else b"reply %d " % i * 40)
        for other in gone:
            assert store.memo(other) is None, "what depends on it is done again"
            store.put_memo(other, memo(7))
        await store.flush()
        assert all(store.memo(other) == memo(7) for other in gone)


@pytest.mark.parametrize("seed", range(12))
async def test_a_broken_database_is_saved_as_far_as_it_can_be_read(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = folder / "store.sqlite"
    pages = path.stat().st_size // 8192
    data = bytearray(path.read_bytes())
    if seed % 4 == 0:
        del data[8192 * (pages * 2 // 3) :]
    for _ in range(1 + seed % 3):
        start = 8192 * rng.randrange(12, len(data) // 8192)  # the roots come first
        data[start : start + 8192] = rng.randbytes(8192)
    path.write_bytes(data)
    assert check(folder).damages
    repair(folder)
    assert check(folder).damages == []
    async with SqliteStore(folder) as store:
        store.begin(pipeline="p", fresh=False)
        assert store.generation == 1
        found = [store.memo(key(i)) for i in range(SIZE)]
        replies = [store.replay(key(i), 0) for i in range(SIZE)]
    assert all(m in (None, memo(i)) for i, m in enumerate(found))
    assert all(r in (None, b"reply %d " % i * 40) for i, r in enumerate(replies))
    if seed % 4:
        kept = sum(r is not None for r in replies)
        assert kept > SIZE // 2, "a page holds about twenty replies"


async def test_a_lost_record_of_the_newest_run_does_not_bring_an_old_generation_back(
    folder: Path,
) -> None:
    async with SqliteStore(folder) as store:
        store.begin(pipeline="p", fresh=True)
        await store.calls.record(key(0), 0, b"newer")
    change(folder, "UPDATE runs SET pipeline='q' WHERE id=2")
    assert [d.what for d in check(folder).damages] == ["the runs 2: its digest differs"]
    repair(folder)
    async with SqliteStore(folder) as store:
        store.begin(pipeline="p", fresh=False)
        assert (store.generation, store.replay(key(0), 0)) == (2, b"newer")


async def test_a_repair_that_was_killed_is_taken_up_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder, f"UPDATE memo SET note=x'00' WHERE key=x'{key(5).hex()}'")
    real, names = Path.rename, list[str]()

    def rename(self: Path, target: Path | str) -> Path:
        names.append(self.name)
        if self.name.endswith(".new"):
            raise ZeroDivisionError
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(ZeroDivisionError):
        repair(folder)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="repair of the store .* was interrupted: run `engine"):
        async with SqliteStore(folder):
            pass
    with pytest.raises(StoreError, match="was interrupted"):
        check(folder)
    repair(folder)
    assert check(folder).damages == []
    async with SqliteStore(folder) as store:
        store.begin(pipeline="p", fresh=False)
        assert store.memo(key(4)) == memo(4)


async def test_a_store_in_use_is_checked_and_not_repaired(folder: Path) -> None:
    async with SqliteStore(folder):
        assert check(folder).damages == []
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
            repair(folder)


async def test_where_nothing_can_be_read_nothing_is_touched(folder: Path) -> None:
    path = folder / "store.sqlite"
    path.write_bytes(b"\xff" * path.stat().st_size)
    before = path.read_bytes()
    for do in (check, repair, usage):
        with pytest.raises(
            StoreError, match="is not a store of the engine, or its head is damaged"
        ):
            do(folder)
    assert path.read_bytes() == before
    with pytest.raises(StoreError, match="there is no store at"):
        check(folder / "none")


# --- the command line --------------------------------------------------------------------------


def engine(*arguments: object) -> tuple[int, str]:
    """Run a command as `main` does; return its exit code and all that it says."""
    found = click.testing.CliRunner().invoke(
        group, [str(argument) for argument in arguments], standalone_mode=False
    )
    if isinstance(found.exception, EngineError):
        return found.exception.exit_code, str(found.exception)
    if found.exception is not None:
        raise found.exception
    return found.return_value or 0, found.output


async def test_check_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    pipeline = tmp_path / "p.yaml"
    pipeline.write_text("name: p\nno pipeline: [any, more]\n")
    place = tmp_path / ".engine" / "p"
    place.parent.mkdir()
    shutil.move(folder, place)
    code, said = engine("store", "check", pipeline)
    assert (code, "no damage" in said) == (0, True)
    change(place, f"UPDATE calls SET reply=x'00' WHERE sample=0 AND key<=x'{key(24).hex()}'")
    for _ in range(2):
        code, said = engine("store", "check", place)
        assert code == 4
        assert said.count("its digest differs; lost: the call is paid again") == 20
        assert "... and 5 more" in said
        assert f"`engine store check --repair {place}` drops what is damaged" in said
    code, said = engine("store", "check", "--repair", pipeline)
    assert code == 0
    assert f"{SIZE + 1 - 25} calls" in said
    assert engine("store", "check", pipeline)[0] == 0
    pipeline.write_text("stages: {}\n")
    code, said = engine("store", "check", pipeline)
    assert (code, "has no `name`: give the folder of its store" in said) == (2, True)
