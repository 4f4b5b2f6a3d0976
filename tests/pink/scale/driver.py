"""One run of the shipped pipeline against the server: killed, resumed, watched, and measured."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

__all__ = ["Life", "Measured", "Server", "Site", "live"]

ROOT = Path(__file__).parents[3]
PIPELINE = ROOT / "pipelines" / "pink_200k.yaml"
PER_PAIR = 50
LOST = 1.012
"""Of so many pairs one is left: some are planted to be turned down."""
POLL = 0.1


class Server:
    """The model's server in a process of its own: `with Server() as server`."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.pink.scale.server"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def told(self, path: str) -> Any:
        """Return what it tells: `calls`, `stats`, `facts/NAME`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", f"/{path}")
            return json.loads(connection.getresponse().read())

    def dialogues(self) -> int:
        """Return how many different dialogues were asked for."""
        return int(self.told("calls").get("dialogue", 0))


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with a copy of the pipeline, its store and its outputs."""

    folder: Path
    plans: int
    """How many are asked for, at least."""
    url: str

    @property
    def file(self) -> Path:
        """The pipeline."""
        return self.folder / "pipelines" / PIPELINE.name

    @property
    def out(self) -> Path:
        """The folder of the outputs."""
        return self.folder / "out" / "pink_200k"

    def prepare(self) -> None:
        """Make the folder."""
        self.file.parent.mkdir(parents=True)
        shutil.copy(PIPELINE, self.file)

    def settings(self) -> list[str]:
        """Return the `--set` options: the server, and as many pairs as the plans take."""
        pairs = math.ceil(self.plans / PER_PAIR)
        per_topic = 11 if pairs > 200 else 4
        topics = max(10, math.ceil(LOST * pairs / per_topic))
        given = {
            "resources.writer.with.base_url": json.dumps(self.url),
            "resources.judge.with.base_url": json.dumps(self.url),
            "stages.topics.with.reviewed_topics": 0,  # their names are words of the server's, too
            "stages.topics.with.count": topics,
            "stages.pairs.with.per_topic": per_topic,
        }
        return [part for name, value in given.items() for part in ("--set", f"{name}={value}")]

    def engine(self, *words: str) -> list[str]:
        """Return a command of `engine` on the pipeline."""
        return [sys.executable, "-m", "engine", words[0], str(self.file), *words[1:]]

    def start(self) -> subprocess.Popen[bytes]:
        """Start the run, or go on with it; what it says is added to a file."""
        with (self.folder / "said").open("ab") as said:
            return subprocess.Popen(
                self.engine("run", *self.settings()),
                cwd=ROOT,
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def inspected(self) -> dict[str, Any]:
        """Return what `engine inspect` tells of the newest run."""
        command = self.engine("inspect", "--json")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=1200)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@dataclass(slots=True)
class Life:
    """One process of the run."""

    began: float
    first: int
    """Dialogues that the server had written before it."""
    ended: float = 0.0
    last: int = 0
    code: int = 0
    cpu: float = 0.0
    peak: int = 0
    """KB of memory at most."""
    memory: list[tuple[int, int]] = field(default_factory=list)
    """Dialogues written, and KB of resident memory then."""

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.ended - self.began


@dataclass(slots=True)
class Measured:
    """What a run took."""

    lives: list[Life] = field(default_factory=list)
    server_cpu: float = 0.0
    store: int = 0
    """Bytes."""
    outputs: int = 0
    """Bytes."""

    @property
    def seconds(self) -> float:
        """How long all processes lasted."""
        return sum(life.seconds for life in self.lives)


def killed_at(plans: int, kills: int, seed: int) -> list[int]:
    """Return after how many dialogues the process is killed: early ones, and a late one.

    So that one process goes through nearly all of it, and its memory can be followed.
    """
    rng = random.Random(seed)
    early = sorted(rng.uniform(0.01, 0.09) for _ in range(kills - 1))
    late = [rng.uniform(0.75, 0.78)] if kills else []  # some fifth of the dialogues fail
    return [int(plans * share) for share in (*early, *late)]


def live(site: Site, server: Server, kills: Sequence[int], every: int) -> Measured:
    """Run to the end, killed after so many dialogues each; look at the memory at each `every`.

    Returns once a process ends by itself.
    """
    measured = Measured()
    left = list(kills)
    while True:
        life = Life(time.monotonic(), server.dialogues())
        measured.lives.append(life)
        process = site.start()
        try:
            by_itself = _watch(process, server, life, left[0] if left else None, every)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        if by_itself:
            break
        left.pop(0)
    measured.store = _size(site.file.parent / ".engine")
    measured.outputs = _size(site.out)
    measured.server_cpu = server.told("stats")["cpu"]
    return measured


def _watch(
    process: subprocess.Popen[bytes], server: Server, life: Life, kill: int | None, every: int
) -> bool:
    """Return whether the process ended by itself, and not by a kill."""
    following = every * (life.first // every + 1)
    by_itself = True
    while True:
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        if found:
            break
        count = server.dialogues()
        memory = _memory(process.pid)
        if count >= following:
            life.memory.append((count, memory.get("VmRSS", 0)))
            following = every * (count // every + 1)
        life.peak = max(life.peak, memory.get("VmHWM", 0))
        life.last = count
        if kill is not None and count >= kill and by_itself:
            process.send_signal(signal.SIGKILL)
            by_itself = False
        time.sleep(POLL)
    life.ended = time.monotonic()
    process.returncode = life.code = os.waitstatus_to_exitcode(status)
    life.cpu = usage.ru_utime + usage.ru_stime
    return by_itself


def _memory(pid: int) -> dict[str, int]:
    """Return what the kernel tells of a process's memory, in KB; nothing, if it is no more."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    told = (line.split() for line in lines if line.startswith("Vm"))
    return {words[0].rstrip(":"): int(words[1]) for words in told}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
