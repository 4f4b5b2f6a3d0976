"""The store on SQLite: memo, runs, rows, spool, texts, calls; what is queued is kept."""

import os
import platform
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Message, Text
from engine.errors import StoreError
from engine.store import Memo, RowRecord, SqliteStore, find_runs
from engine.store.sqlite import ReadOnlyStore

pytestmark = pytest.mark.anyio
KEY, OTHER = b"k" * 16, b"o" * 16


@asynccontextmanager
async def opened(folder: Path | None, *, fresh: bool = False) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(folder) as store:
        store.begin(pipeline="p", fresh=fresh)
        yield store


@pytest.fixture(params=["file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "store" if request.param == "file" else None


def damage(folder: Path, sql: str) -> None:
    connection = sqlite3.connect(folder / "store.sqlite")
    connection.execute(sql)
    connection.commit()
    connection.close()


# --- memo --------------------------------------------------------------------------------------


MEMOS = [
    Memo("row", {"a": 1, "t": Text.leaf("x", "source:s")}),
    Memo("row", {}, key="a plugin's own \ud800"),
    Memo("reject", note={"reason": "too \udfff long", "example": "e", "attempts": 1}),
    Memo("dead", note={"error": "ValueError: \ud800", "attempts": 3}),
    Memo("end", note={"kind": "row"}, count=7),
    Memo("keep", {"b": (1, [2])}, row=OTHER),
    Memo("gone", note={"reason": "r"}, row=OTHER),
]


async def test_every_kind_of_memo_comes_back(folder: Path | None) -> None:
    async with opened(folder) as store:
        assert store.memo(KEY) is None
        for ordinal, memo in enumerate(MEMOS, -1):
            store.put_memo(KEY, memo, ordinal)
        store.put_memo(OTHER, Memo("row", {"a": 2}))
        await store.flush()
        assert [store.memo(KEY, ordinal) for ordinal in range(-1, len(MEMOS) - 1)] == MEMOS
        assert store.memo(KEY, 99) is None
        store.put_memo(KEY, MEMOS[2])
        await store.flush()
        assert store.memo(KEY) == MEMOS[2], "the newest one holds"
        assert store.memo(KEY, 0) == MEMOS[1]


async def test_a_generation_has_a_memo_and_calls_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path
    for fresh, number, known in [(False, 1, 0), (False, 1, 1), (True, 2, 0), (False, 2, 1)]:
        async with opened(folder, fresh=fresh) as store:
            assert store.generation == number
            assert (
                (store.memo(KEY) is not None) == (store.calls.replay(KEY, 0) is not None) == known
            )
            store.put_memo(KEY, Memo("row"))
            await store.calls.record(KEY, 0, b"reply")
    assert [run.generation for run in find_runs(folder).runs()] == [1, 1, 2, 2]


async def test_what_a_row_cannot_carry_is_refused_and_nothing_is_queued(
    folder: Path | None,
) -> None:
    async with opened(folder) as store:
        with pytest.raises(TypeError, match="field 'score': a row cannot carry nan"):
            store.put_memo(KEY, Memo("row", {"t": Text.leaf("x", "y"), "score": float("nan")}))
        assert store.backlog == 0


# --- runs and their rows -----------------------------------------------------------------------


async def test_rows_come_by_fate_and_in_order(folder: Path | None) -> None:
    orders = [(2,), (10,), (2, 0), (0, 300), (0, 2, 7), (), (70_000,)]
    async with opened(folder) as store:
        for i, order in enumerate(orders):
            fate = "rejected" if i % 3 == 2 else "finished"
            store.put_row(RowRecord("s", bytes([i]), order, fate, {"i": i}, {"reason": "\ud800"}))
        await store.flush()
        found = list(store.rows())
        assert [row.order for row in found] == sorted(orders)
        assert found[0] == RowRecord("s", b"\x05", (), "rejected", {"i": 5}, {"reason": "\ud800"})
        assert [row.fields["i"] for row in store.rows(fate="rejected")] == [5, 2]
        assert [row.fate for row in store.rows(fate="dead")] == []
        assert list(store.rows(run=store.run + 1)) == []


async def test_runs_are_listed_with_their_summaries(tmp_path: Path) -> None:
    summary = {
        "finished": 3,
        "stages": {"a": {"reasons": {"dead: \ud800": 1}, "examples": ["\udfff"]}},
    }
    async with opened(tmp_path) as store:
        await store.end("done", summary)
    async with opened(tmp_path):
        pass  # killed before it could say how it ended
    async with opened(tmp_path) as store:
        assert [(r.id, r.status) for r in store.runs()] == [
            (1, "done"),
            (2, "interrupted"),
            (3, "running"),
        ]
        first, second, _ = store.runs()
        assert (first.summary, first.pipeline, second.ended) == (summary, "p", None)
        assert first.ended is not None
        assert first.started <= first.ended
        store.put_row(RowRecord("s", KEY, (1,), "finished", {}, {}))
        await store.flush()
        with_reader = find_runs(tmp_path)  # while the writer is at work
        assert [row.row_id for row in with_reader.rows(run=3)] == [KEY]
        with_reader.close()


async def test_what_a_run_was_told_of_its_stages_is_kept_from_the_beginning(tmp_path: Path) -> None:
    stages = {"a": {"use": "x.y", "fingerprint": "f", "parts": {"code": "c"}, "accepted": ["e"]}}
    async with SqliteStore(tmp_path) as store:
        store.begin(pipeline="p", fresh=False, stages=stages)
        other = find_runs(tmp_path)
        assert [run.stages for run in other.runs()] == [stages]
        other.close()


async def test_a_reader_looks_results_and_replies_up(tmp_path: Path) -> None:
    for fresh in (False, True):
        async with opened(tmp_path, fresh=fresh) as store:
            store.put_memo(KEY, Memo("row", {"fresh": fresh}))
            await store.calls.record(KEY, 0, b"reply %d" % fresh)
    for generation, fresh in [(1, False), (2, True), (None, True)]:
        reader = ReadOnlyStore(tmp_path, generation=generation)
        assert reader.memo(KEY) == Memo("row", {"fresh": fresh})
        assert reader.replay(KEY, 0) == b"reply %d" % fresh
        assert reader.memo(OTHER) is reader.replay(KEY, 1) is None
        reader.close()


async def test_the_dead_are_forgotten_and_nothing_else_is(folder: Path | None) -> None:
    letter = {"error": "ValueError: \ud800", "kind": "dead"}
    memos = {
        b"a" * 16: Memo("dead", note=letter),
        b"b" * 16: Memo("end", note=letter, count=2),
        b"c" * 16: Memo("end", note={"kind": "row"}, count=2),
        b"d" * 16: Memo("reject", note={"reason": "r"}),
        b"e" * 16: Memo("row", {"kind": "dead"}),
    }
    async with opened(folder) as store:
        for key, memo in memos.items():
            store.put_memo(key, memo)
        store.put_memo(b"b" * 16, Memo("row", {"child": 1}), 0)
        await store.flush()
        assert store.forget_dead([*memos, OTHER]) == 2
        assert store.forget_dead(memos) == 0
        assert [key[:1] for key in memos if store.memo(key) is None] == [b"a", b"b"]
        assert store.memo(b"b" * 16, 0) is not None


# --- the spool ---------------------------------------------------------------------------------


async def test_rows_that_wait_come_back_in_the_order_asked_for(folder: Path | None) -> None:
    async with opened(folder) as store:
        for n in range(9):
            store.spool("a/", bytes([n]), {"n": n, "t": Text(f"text {n}")})
            store.spool("b/", bytes([n]), {"n": -n})
        ids = [bytes([n]) for n in (3, 8, 0)]
        assert [row["n"] for row in await store.unspool("a/", ids)] == [3, 8, 0]
        assert [row["n"] for row in await store.unspool("b/", ids)] == [-3, -8, 0]
        with pytest.raises(StoreError, match="the row 63, which waited for a/, is missing"):
            await store.unspool("a/", [b"c"])


async def test_the_spool_is_of_one_run(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        store.spool("a", KEY, {"n": 1})
    async with opened(tmp_path) as store:
        with pytest.raises(StoreError):
            await store.unspool("a", [KEY])


# --- texts -------------------------------------------------------------------------------------


async def test_a_text_keeps_its_graph_and_shared_ancestry_is_stored_once(tmp_path: Path) -> None:
    prompt = Text.leaf("A long prompt. " * 20, "template:p", params={"line": 3})
    replies = [Text.leaf(f"reply {i} \ud800", "call", inputs=[prompt]) for i in range(5)]
    cut = [("« " + reply + " »")[2:9] for reply in replies]
    async with opened(tmp_path) as store:
        for i, text in enumerate(cut):
            store.put_memo(bytes([i]) * 16, Memo("row", {"m": Message(role="user", content=text)}))
    async with opened(tmp_path) as store:
        for i, text in enumerate(cut):
            memo = store.memo(bytes([i]) * 16)
            assert memo is not None
            found = memo.fields["m"].content
            assert (found, found.did) == (text, text.did)
            assert [(s.start, s.stop, s.leaf.did) for s in found.spans()] == [
                (s.start, s.stop, s.leaf.did) for s in text.spans()
            ]
            assert {n.did for n in found.graph().nodes} == {n.did for n in text.graph().nodes}
            store.put_row(RowRecord("s", bytes([i]), (i,), "finished", memo.fields, {}))
    nodes = {node.did for text in cut for node in text.graph().nodes}
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        stored = {did for (did,) in connection.execute("SELECT did FROM texts")}
    assert prompt.did in stored
    assert stored <= nodes
    connection.close()


async def test_a_flipped_byte_in_a_text_is_found_and_named(tmp_path: Path) -> None:
    text = Text.leaf("some words that matter", "source:s") + " and more"
    async with opened(tmp_path) as store:
        store.put_memo(KEY, Memo("row", {"t": text}))
    for leaf in (node for node in text.graph().nodes if "words that matter" in node.text):
        damage(
            tmp_path,
            "UPDATE texts SET record = CAST(replace(record, 'words', 'wordz') AS BLOB)"
            f" WHERE did = x'{leaf.did.hex()}'",
        )
    async with opened(tmp_path) as store:
        with pytest.raises(StoreError, match=r"a text .* is damaged: node [0-9a-f]{32} has been"):
            store.memo(KEY)


async def test_a_missing_text_is_a_sentence(tmp_path: Path) -> None:
    text = Text.leaf("x", "source:s")
    async with opened(tmp_path) as store:
        store.put_memo(KEY, Memo("row", {"t": text}))
    damage(tmp_path, "DELETE FROM texts")
    async with opened(tmp_path) as store:
        with pytest.raises(StoreError, match=f"{text.did.hex()} is missing from the store") as told:
            store.memo(KEY)
    assert f"`engine store check {tmp_path}`" in str(told.value)


# --- calls -------------------------------------------------------------------------------------


async def test_a_reply_is_durable_when_record_returns(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.calls.record(KEY, 0, b"paid \xff")
        other = find_runs(tmp_path)
        assert other.read("SELECT reply FROM calls") == (b"paid \xff",)
        other.close()
        await store.calls.record(KEY, 0, b"again")
        assert store.calls.replay(KEY, 0) == b"paid \xff", "the first one stays"
        assert store.calls.replay(KEY, 1) is None


async def test_refusals_hold_for_a_fingerprint_and_a_run(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        store.calls.refuse(KEY, 0, b"f", "garbage \ud800")
        store.calls.refuse(KEY, 2, b"f", "garbage")
        assert set(store.calls.refusals(KEY, b"f")) == {0, 2}
        assert (
            set(store.calls.refusals(KEY, b"new"))
            == set(store.calls.refusals(OTHER, b"f"))
            == set()
        )
    async with opened(tmp_path) as store:  # its rows begin with their first attempt again
        assert set(store.calls.refusals(KEY, b"f")) == set()
        assert store.read("SELECT count(*) FROM refusals") == (2,)


# --- queueing ----------------------------------------------------------------------------------


async def test_all_that_is_queued_is_committed_when_the_run_is_cancelled(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    tasks = {task.id for task in anyio.get_running_tasks()}
    for n in range(3):
        with anyio.CancelScope() as scope:
            async with opened(tmp_path) as store:
                for i in range(50):
                    store.put_memo(bytes([n, i]) * 8, Memo("row", {"i": i}))
                    if n == 1 and i == 25:
                        await store.flush()
                if n == 2:
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
    async with opened(tmp_path) as store:
        assert store.read("SELECT count(*) FROM memo") == (150,)
    await anyio.wait_all_tasks_blocked()
    assert {task.id for task in anyio.get_running_tasks()} == tasks
    new = [t for t in set(threading.enumerate()) - threads if t.is_alive()]
    assert len(new) <= 2, "idle threads of the event loop's own pool, which end with it"


async def test_flush_waits_for_what_was_queued_before_it(folder: Path | None) -> None:
    seen: list[bool] = []
    async with opened(folder) as store:

        async def one(n: int) -> None:
            for i in range(8):
                key = bytes([n, i]) * 8
                store.put_memo(key, Memo("row", {"x": "y" * n}))
                for _ in range(n % 3):
                    await anyio.lowlevel.checkpoint()
                await store.flush()
                seen.append(store.memo(key) is not None)

        async with anyio.create_task_group() as tasks:
            for n in range(12):
                tasks.start_soon(one, n)
        assert store.backlog == 0
        await store.flush()  # nothing to wait for
    assert seen == [True] * 96


async def test_a_group_is_committed_whole_or_not_at_all(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        store.begin(pipeline="p", fresh=False)
        store.put_memo(KEY, Memo("row"))
        store.write("INSERT INTO nowhere VALUES (1)", ())
        with pytest.raises(StoreError, match=r"the store failed: .*nowhere"):
            await store.flush()
        assert store.memo(KEY) is None
        store.put_memo(OTHER, Memo("row"))  # while the run drains, what it makes is dropped
        assert store.backlog == 0
        with pytest.raises(StoreError, match="the store failed"):
            await store.flush()
        store._commits._failed = None  # so that closing is quiet here


async def test_closing_says_when_something_could_not_be_committed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with pytest.raises(StoreError, match="the store failed"):
        async with store:
            store.write("INSERT INTO nowhere VALUES (1)", ())
    async with SqliteStore(tmp_path):
        pass  # and the lock is free again


async def test_the_store_in_memory_needs_no_thread_and_leaves_no_folder() -> None:
    before = threading.active_count()
    async with opened(None) as store:
        with store.blobs.new("text/plain") as writer:
            writer.path.write_text("x")
        work = store.workdir(KEY)
        store.put_memo(KEY, Memo("row"))
        await store.flush()
        assert threading.active_count() == before
    assert not store.root.exists()
    assert not work.exists()


async def test_a_work_folder_goes_once_the_result_is_durable(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        work = store.workdir(KEY)
        (work / "checkpoint").write_bytes(b"x")
        assert store.workdir(KEY) == work
        store.put_memo(KEY, Memo("row"))
        store.drop_workdir(KEY)
        assert work.exists(), "the result could still be lost"
        await store.flush()
        other = store.workdir(OTHER)
        store.drop_workdir(OTHER)
    assert not work.exists()
    assert not other.exists()
    async with opened(tmp_path) as store:
        kept = store.workdir(KEY)
    async with opened(tmp_path) as store:
        assert kept.exists(), "it survives the run that did not finish"
        store.drop_workdir(KEY)
    assert not kept.exists()


# --- opening -----------------------------------------------------------------------------------


async def test_one_process_owns_a_store(tmp_path: Path) -> None:
    async with opened(tmp_path):
        code = (
            "import anyio, sys; from pathlib import Path; from engine.store import SqliteStore\n"
            "async def main():\n"
            "    async with SqliteStore(Path(sys.argv[1])): pass\n"
            "anyio.run(main)"
        )
        found = await anyio.run_process([sys.executable, "-c", code, str(tmp_path)], check=False)
        assert (
            f"is in use by process {os.getpid()} on {platform.node()}: wait for it"
            in found.stderr.decode()
        )
        with pytest.raises(StoreError, match=f"is in use by process {os.getpid()}"):
            async with SqliteStore(tmp_path):
                pass
    async with opened(tmp_path):
        pass


@pytest.mark.parametrize("look", [False, True], ids=["write", "read"])
@pytest.mark.parametrize(
    ("version", "told"),
    [
        (99, r"was written by a newer engine \(its version is 99; this engine reads 3\): upgrade"),
        (2, r"is older than the first release \(its version is 2; .*: move the folder away"),
    ],
)
async def test_a_store_of_another_version_is_left_alone(
    tmp_path: Path, version: int, told: str, look: bool
) -> None:
    async with opened(tmp_path):
        pass
    damage(tmp_path, f"UPDATE meta SET value = {version}")
    with pytest.raises(StoreError, match=told):
        await open_it(tmp_path, look)


@pytest.mark.parametrize("look", [False, True], ids=["write", "read"])
@pytest.mark.parametrize("what", ["text", "somebody's database"])
async def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path, what: str, look: bool) -> None:
    path = tmp_path / "store.sqlite"
    if what == "text":
        path.write_text("Dear diary, " * 999)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE mine (x)")
        connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"store\.sqlite is not a store of the engine"):
        await open_it(tmp_path, look)
    assert path.read_bytes() == before
    path.unlink()
    async with opened(tmp_path):
        pass  # the lock was given back


async def open_it(folder: Path, look: bool) -> None:
    if look:
        find_runs(folder)
    else:
        async with SqliteStore(folder):
            pass


async def test_there_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store at .*: run the pipeline first"):
        find_runs(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"the store .* cannot be opened"):
        async with SqliteStore(tmp_path / "file"):
            pass


# --- a law: the store is a dict with a generation ----------------------------------------------

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["puts", "put", "flush", "reopen", "fresh"]),
        st.integers(0, 3),
        st.integers(),
    ),
    max_size=25,
)


@settings(max_examples=12, deadline=None)
@given(ACTIONS)
def test_the_memo_is_a_dict(tmp_path_factory: Any, actions: list[tuple[str, int, int]]) -> None:
    folder = tmp_path_factory.mktemp("memo")

    async def main() -> None:
        model: dict[tuple[int, int], int] = {}
        todo = list(actions)
        fresh = False
        while True:
            async with opened(folder, fresh=fresh) as store:
                for (key, ordinal), value in model.items():
                    memo = store.memo(bytes([key]) * 16, ordinal)
                    assert memo is not None
                    assert memo.fields == {"v": value}
                assert store.read(
                    "SELECT count(*) FROM memo WHERE generation=?", (store.generation,)
                ) == (len(model),)
                while todo:
                    action, key, value = todo.pop(0)
                    if action in ("reopen", "fresh"):
                        fresh = action == "fresh"
                        model = {} if fresh else model
                        break
                    if action == "flush":
                        await store.flush()
                        continue
                    for ordinal in range(3) if action == "puts" else [-1]:
                        store.put_memo(bytes([key]) * 16, Memo("row", {"v": value}), ordinal)
                        model[key, ordinal] = value
                else:
                    return

    anyio.run(main)


async def test_closing_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """`stop` may come while a group is on its way from the queue to the thread."""
    for pauses in range(12):
        folder = tmp_path / str(pauses)
        async with opened(folder) as store:
            store._commits._wake.set()
            store.put_memo(KEY, Memo("row"))
            while not store._commits._current.is_set() and store._commits._queue:
                await anyio.lowlevel.checkpoint()
            for _ in range(pauses):
                await anyio.lowlevel.checkpoint()
        async with opened(folder) as store:
            assert store.memo(KEY) is not None


async def test_a_flush_is_answered_though_all_around_the_store_is_cancelled(tmp_path: Path) -> None:
    with anyio.fail_after(10):
        with anyio.CancelScope() as scope:
            async with opened(tmp_path) as store:
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    for i in range(3):
                        store.put_memo(bytes([i]) * 16, Memo("row"))
                        await store.flush()
