"""The processes that train: reused, side by side, and never left behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from engine_train.errors import TrainingError
from engine_train.workers import Trainer

from engine import Context

pytestmark = pytest.mark.anyio
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def gone(pid: int) -> bool:
    """Return whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(ready: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)


async def test_a_worker_answers_says_and_is_reused(tmp_path: Path) -> None:
    ctx = Context("train")
    async with Trainer() as trainer:
        first = await trainer.call("orders:add", {"a": 1, "b": 2}, tmp_path, ctx)
        second = await trainer.call("orders:add", {"a": 3, "b": 4}, tmp_path, ctx)
    assert (first["sum"], second["sum"]) == (3, 7)
    assert first["pid"] == second["pid"] != os.getpid()
    assert (tmp_path / "log.txt").read_text().count("this is printed by a library") == 2
    assert gone(first["pid"])


async def test_a_worker_lets_go_of_what_a_training_held(tmp_path: Path) -> None:
    async with Trainer() as trainer:
        found = [await trainer.call("orders:hold", {}, tmp_path, Context("t")) for _ in range(2)]
    assert found == [0, 0]


@pytest.mark.parametrize(
    ("given", "said", "count"),
    [({"threads": 5}, "3", "5"), ({}, "3,2", "3"), ({"workers": 64}, "many", "1")],
)
async def test_how_many_threads_a_worker_has(
    given: dict[str, int], said: str, count: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is configured, else what the environment says, else a share of the cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    async with Trainer(**given) as trainer:
        answer = await trainer.call("orders:threads", {}, tmp_path, Context("train"))
    assert answer == {"threads": count}


async def test_errors_come_back_and_the_worker_goes_on(tmp_path: Path) -> None:
    ctx = Context("train")
    async with Trainer() as trainer:
        first = await trainer.call("orders:add", {"a": 1, "b": 2}, tmp_path, ctx)
        with pytest.raises(TrainingError, match="the dataset is empty"):
            await trainer.call("orders:fail", {}, tmp_path, ctx)
        with pytest.raises(RuntimeError, match=r"KeyError: 'x'.*log\.txt"):
            await trainer.call("orders:crash", {}, tmp_path, ctx)
        again = await trainer.call("orders:add", {"a": 1, "b": 2}, tmp_path, ctx)
    assert again["pid"] == first["pid"]
    assert "in crash" in (tmp_path / "log.txt").read_text()


async def test_a_dead_worker_is_an_error_and_is_replaced(tmp_path: Path) -> None:
    ctx = Context("train")
    async with Trainer() as trainer:
        with pytest.raises(RuntimeError, match="signal 9.*goes on from its last checkpoint"):
            await trainer.call("orders:die", {}, tmp_path, ctx)
        assert (await trainer.call("orders:add", {"a": 1, "b": 2}, tmp_path, ctx))["sum"] == 3


async def test_what_a_dead_worker_forked_neither_lives_on_nor_is_waited_for(tmp_path: Path) -> None:
    order = {"workdir": str(tmp_path), "then": "die"}
    async with Trainer() as trainer:
        with anyio.fail_after(60), pytest.raises(RuntimeError, match="signal 9"):
            await trainer.call("orders:fork_and", order, tmp_path, Context("train"))
    child = int((tmp_path / "pid-0").read_text())
    await anyio.to_thread.run_sync(wait_for, lambda: gone(child), 30)


async def test_two_workers_train_side_by_side(tmp_path: Path) -> None:
    ctx, both, found = Context("train"), tmp_path / "both", []
    both.mkdir()

    async def one(name: str) -> None:
        (tmp_path / name).mkdir()
        order = {"folder": str(both), "name": name}
        found.append(await trainer.call("orders:meet", order, tmp_path / name, ctx))

    async with Trainer(workers=2) as trainer:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, "a")
            tasks.start_soon(one, "b")
    assert len({answer["pid"] for answer in found}) == 2


async def test_when_the_run_drains_the_worker_is_asked_to_stop(tmp_path: Path) -> None:
    ctx = Context("train")
    async with Trainer() as trainer:
        async with anyio.create_task_group() as tasks:

            async def close() -> None:
                await anyio.to_thread.run_sync(wait_for, (tmp_path / "pid-0").exists)
                ctx.gate.close()

            tasks.start_soon(close)
            answer = await trainer.call(
                "orders:until_stopped", {"workdir": str(tmp_path)}, tmp_path, ctx
            )
    assert answer == {"stopped": True}


async def test_cancelling_ends_the_worker(tmp_path: Path) -> None:
    ctx = Context("train")
    async with Trainer() as trainer:
        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                await anyio.to_thread.run_sync(wait_for, (tmp_path / "pid-0").exists)
                tasks.cancel_scope.cancel()

            tasks.start_soon(cancel)
            await trainer.call("orders:until_stopped", {"workdir": str(tmp_path)}, tmp_path, ctx)
        assert gone(int((tmp_path / "pid-0").read_text()))


TWO = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_processes: 2
num_machines: 1
use_cpu: false
mixed_precision: 'no'
"""
ENGINE = """
import sys
from pathlib import Path
import anyio
from engine import Context
from engine_train.workers import Trainer

async def main():
    launch = Path(sys.argv[3]) if sys.argv[3:] else None
    async with Trainer(launch=launch) as trainer:
        await trainer.call(sys.argv[1], {"workdir": sys.argv[2]}, Path(sys.argv[2]), Context("t"))

anyio.run(main)
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_workers_die_with_the_engine(processes: int, tmp_path: Path) -> None:
    """However it dies: here by signal 9, while they are at work, launched by accelerate or not."""
    command = [sys.executable, "-c", ENGINE, "orders:until_stopped", str(tmp_path)]
    if processes == 2:
        (tmp_path / "two.yaml").write_text(TWO)
        command.append(str(tmp_path / "two.yaml"))
    engine = subprocess.Popen(command)

    def at_work() -> bool:
        assert engine.poll() is None
        return len([p for p in tmp_path.glob("pid-*") if p.read_text()]) == processes

    wait_for(at_work)
    engine.kill()
    engine.wait()
    for path in tmp_path.glob("pid-*"):
        wait_for(lambda path=path: gone(int(path.read_text())))  # type: ignore[misc]


def test_what_a_worker_forked_dies_with_the_engine(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENGINE, "orders:fork_and", str(tmp_path)]
    engine = subprocess.Popen(command)
    child = tmp_path / "pid-0"
    wait_for(lambda: child.exists() and bool(child.read_text()))
    engine.kill()
    engine.wait()
    wait_for(lambda: gone(int(child.read_text())), 30)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_the_first_of_launched_processes_answers(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(TWO)
    async with Trainer(launch=tmp_path / "two.yaml") as trainer:
        answer = await trainer.call("orders:add", {"a": 1, "b": 2}, tmp_path, Context("t"))
    assert answer["sum"] == 3
    assert (tmp_path / "log.txt").read_text().count("this is printed by a library") == 2
