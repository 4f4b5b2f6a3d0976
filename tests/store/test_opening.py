"""Which stores are opened, and by whom."""

import os
import platform
import sys
import time
from pathlib import Path

import anyio
import apsw
import pytest

from engine.errors import StoreError
from engine.store import Memo, SqliteStore, files, find_runs

pytestmark = pytest.mark.anyio
KEY = b"k" * 16
OWNER = """
import anyio, sys
from pathlib import Path
from engine.store import SqliteStore

async def main():
    async with SqliteStore(Path(sys.argv[1])) as store:
        store.begin(pipeline="p", fresh=False)
        print("open", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_a_second_engine_is_told_who_owns_the_store_and_a_kill_frees_it(
    tmp_path: Path,
) -> None:
    async with await anyio.open_process([sys.executable, "-c", OWNER, str(tmp_path)]) as owner:
        assert owner.stdout is not None
        with anyio.fail_after(60):
            assert (await owner.stdout.receive()).startswith(b"open")
        begun = time.perf_counter()
        with pytest.raises(
            StoreError, match=f"in use by process {owner.pid} on {platform.node()}: wait for it"
        ):
            async with SqliteStore(tmp_path):
                pass
        assert time.perf_counter() - begun < 1
        owner.kill()
        await owner.wait()
    async with SqliteStore(tmp_path) as store:
        assert [run.status for run in store.runs()] == ["interrupted"]


MOUNTS = """\
22 1 0:20 / / rw,relatime - ext4 /dev/root rw
30 22 0:41 / {root} rw,relatime shared:1 - {kind} server:/export rw
31 30 0:42 / {root}/a\\040local\\040disk rw - xfs /dev/sdb rw
"""


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs", "9p"])
async def test_a_network_file_system_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(root=tmp_path / "far", kind=kind))
    monkeypatch.setattr(files, "MOUNTS", mounts)
    far = tmp_path / "far" / "p" / ".engine"
    with pytest.raises(
        StoreError, match=rf"lies on a network file system \({kind}\).*: put it on a local disk"
    ):
        async with SqliteStore(far):
            pass
    assert not far.exists()
    local = tmp_path / "far" / "a local disk" / "store"
    assert files.file_system(local) == "xfs", "the longest mount point holds"
    (tmp_path / "link").symlink_to(tmp_path / "far")
    assert files.file_system(tmp_path / "link" / "x") == kind
    async with SqliteStore(local), SqliteStore(tmp_path / "farther"):
        pass


async def test_a_file_system_that_cannot_be_told_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOUNTS", tmp_path / "none")
    assert files.file_system(tmp_path) == ""
    async with SqliteStore(tmp_path):
        pass


async def test_an_sqlite_with_the_wal_bug_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(StoreError, match="SQLite 3.51.2 can corrupt .* apsw that brings 3.51.3"):
        async with SqliteStore(tmp_path):
            pass


@pytest.mark.parametrize("look", [False, True], ids=["write", "read"])
async def test_a_database_that_was_cut_short_is_refused(tmp_path: Path, look: bool) -> None:
    async with SqliteStore(tmp_path) as store:
        store.begin(pipeline="p", fresh=False)
        for i in range(99):
            store.put_memo(bytes([i]) * 16, Memo("row", {"x": "y" * 999}))
    database = tmp_path / "store.sqlite"
    os.truncate(database, 5 * 8192)
    before = database.read_bytes()
    with pytest.raises(
        StoreError, match=r"store\.sqlite is damaged \(.*malformed.*`engine store check --repair "
    ):
        if look:
            find_runs(tmp_path)
        async with SqliteStore(tmp_path):
            pass
    assert database.read_bytes() == before
