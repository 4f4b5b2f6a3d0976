"""Files that are broken, or gone: a sentence or a good run, and never a wrong value."""

import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.anyio
FULL = os.environ.get("FAULTS") == "full"
TIMES = 100 if FULL else 6
Fixture = Callable[..., Any]


@pytest.fixture
async def whole(tmp_path: Path, lab: Fixture) -> Any:
    it = lab(tmp_path / "whole").make()
    assert await it.run() == 0
    return it


def copied(whole: Any, lab: Fixture, name: str) -> Any:
    """Return a copy of a folder whose run has ended, without what it wrote."""
    it = lab(whole.folder.parent / name)
    shutil.copytree(whole.folder, it.folder)
    for file in it.folder.glob("out.*"):
        file.unlink()
    return it


async def test_flipped_bytes_are_never_a_wrong_value(whole: Any, lab: Fixture) -> None:
    rng, refused = random.Random(3), 0
    for number in range(TIMES):
        it = copied(whole, lab, f"flip{number}")
        path = it.folder / ".engine" / "test" / "store.sqlite"
        data = bytearray(path.read_bytes())
        at = rng.randrange(len(data) - 8)
        data[at : at + 8] = rng.randbytes(8)
        path.write_bytes(data)
        code = await it.run()
        if code == 0:
            assert it.output == whole.output, (number, at)
        else:
            refused += 1
            assert code == 4, (number, at, code, it.said)
            assert "store" in it.said, (number, at, it.said)
            assert {*it.output.items()} <= {*whole.output.items()}
    assert refused > 0, "a flip is found"


async def cut_off(whole: Any, lab: Fixture, name: str, recorder: Fixture, watch: Fixture) -> Any:
    """Return a folder whose process was killed when half of its work was in the WAL."""
    first = lab(whole.folder.parent / f"{name}-recorded").make()
    recording = recorder(first.folder)
    with watch(recording):
        assert await first.run() == 0
    it = lab(whole.folder.parent / name)
    recording.cut(it.folder, len(recording.log) * 2 // 3, "all", random.Random(0))
    return it


@pytest.mark.parametrize("how", ["cut", "garbled", "removed", "shm"])
async def test_a_broken_wal_loses_the_last_records_and_nothing_else(
    whole: Any, lab: Fixture, recorder: Fixture, watch: Fixture, how: str
) -> None:
    rng = random.Random(4)
    killed = await cut_off(whole, lab, "killed", recorder, watch)
    for number in range(TIMES):
        it = lab(whole.folder.parent / f"{how}{number}")
        shutil.copytree(killed.folder, it.folder)
        wal = it.folder / ".engine" / "test" / "store.sqlite-wal"
        data = bytearray(wal.read_bytes())
        assert len(data) > 50_000
        if how == "cut":
            wal.write_bytes(data[: rng.randrange(len(data))])
        elif how == "garbled":
            at = rng.randrange(len(data))
            data[at : at + 3000] = rng.randbytes(len(data[at : at + 3000]))
            wal.write_bytes(data)
        elif how == "removed":
            wal.unlink()
        else:
            wal.with_suffix(".sqlite-shm").write_bytes(rng.randbytes(32768))
        code = await it.run()
        if how == "removed" and code == 4:  # a database that nothing was checkpointed into
            assert "store" in it.said
        else:
            assert (code, it.output) == (0, whole.output), (number, it.said)
        if how == "removed":
            break


async def test_a_store_that_is_deleted_under_a_run_ends_it_or_does_no_harm(
    whole: Any, lab: Fixture
) -> None:
    for at in range(1, 12, 3):
        it = lab(whole.folder.parent / f"deleted{at}").make()
        real = it._reply

        def reply(request: Any, it: Any = it, real: Any = real, at: int = at) -> Any:
            answer = real(request)
            if it.paid == at:
                shutil.rmtree(it.folder / ".engine")
            return answer

        it._reply = reply
        code = await it.run()
        assert code in (0, 4), it.said
        assert {*it.output.items()} <= {*whole.output.items()}
        it._reply = real
        assert await it.run() == 0, it.said
        assert it.output == whole.output


async def test_a_store_that_cannot_be_written_is_a_sentence(
    whole: Any, lab: Fixture, fault: Fixture, watch: Fixture
) -> None:
    """As on a disk mounted read-only; file modes do not stop the superuser who may run this."""
    it = copied(whole, lab, "readonly")
    with watch(fault(it.folder, "open", 1, errno.EROFS, lasting=True)):
        assert await it.run() == 4
    assert "cannot be opened" in it.said
    assert await it.run() == 0
    assert it.output == whole.output


async def test_a_disk_that_fills_costs_no_reply(
    tmp_path: Path, whole: Any, lab: Fixture, fault: Fixture, watch: Fixture
) -> None:
    """From the k-th write on there is no room, until the reserve is given back."""

    class Fills(fault):  # type: ignore[misc]
        def before(self, kind: str, path: str) -> None:
            if self.met and not (self.root / ".engine" / "test" / "reserve").exists():
                return
            super().before(kind, path)

    met = 0
    for k in range(1, 200, 1 if FULL else 13):
        it = lab(tmp_path / f"full{k}").make()
        fills = Fills(it.folder, "write", k, errno.ENOSPC, lasting=True)
        with watch(fills):
            code = await it.run()
        met += fills.met
        assert code in ((0, 4) if fills.met else (0,)), (k, it.said)
        assert code == 4 or it.output == whole.output, k
        assert {*it.output.items()} <= {*whole.output.items()}
        assert await it.run() == 0, (k, it.said)
        assert it.output == whole.output, k
        assert it.paid == whole.paid, k
    assert met > 5


async def test_a_disk_that_fails_for_good_costs_what_could_not_be_kept(
    tmp_path: Path, whole: Any, lab: Fixture, fault: Fixture, watch: Fixture
) -> None:
    for k in range(1, 120, 1 if FULL else 13):
        it = lab(tmp_path / f"dead{k}").make()
        dies = fault(it.folder, "write", k, errno.EIO, lasting=True)
        with watch(dies):
            code = await it.run()
        assert code == 4, (k, it.said)
        assert {*it.output.items()} <= {*whole.output.items()}
        assert await it.run() == 0, (k, it.said)
        assert it.output == whole.output, k
        assert whole.paid <= it.paid <= 2 * whole.paid


def command(path: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "engine", "run", "-q", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_real_disk_that_is_full(tmp_path: Path, lab: Fixture) -> None:
    """On a small tmpfs of its own, where one may be mounted: it fills, it grows, the run resumes."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        it, text = lab(place / "lab").make(), ""
        for i in range(12):
            text += f'{{"match": "{i}", "reply": ["no", "reply {i}. {"long " * 2000}"]}}\n'
        (it.folder / "replies.jsonl").write_text(text)
        whole = lab(tmp_path / "whole").make()
        (whole.folder / "replies.jsonl").write_text(text)
        assert command(whole.folder / "p.yaml").returncode == 0
        ran = command(it.folder / "p.yaml")
        assert ran.returncode == 4, ran.stderr
        assert "Traceback" not in ran.stderr
        assert {*it.output.items()} <= {*whole.output.items()}
        subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
        ran = command(it.folder / "p.yaml")
        assert ran.returncode == 0, ran.stderr
        assert it.output == whole.output
    finally:
        subprocess.run(["umount", str(place)], check=False)
