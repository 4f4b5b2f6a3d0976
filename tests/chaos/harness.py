"""Real engine processes against a real server: start them, end them, and read what they left."""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ledger import Call

__all__ = ["Ended", "Server", "Site", "leftovers", "running"]

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "pipelines" / "pink.yaml"
PIPELINES = ("kinds", "pink")
PATIENCE = 120.0
"""Seconds after which whatever a harness waits for is an error."""
EMBEDDED_PATIENCE = 900.0
"""... and a run on the embedded model."""


class Server:
    """The chaos server in a process of its own: `with Server() as server`."""

    def __enter__(self) -> Self:
        command = [sys.executable, str(HERE / "server.py")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()

    @property
    def url(self) -> str:
        """What a client takes for `base_url`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def reset(self, **settings: Any) -> None:
        """Empty the ledger and take new settings. Raises ValueError for wrong ones."""
        self._ask("POST", "/reset", settings)

    def credit(self, left: int | None) -> None:
        """Let so many completions be paid in all, or any number."""
        self._ask("POST", "/credit", left)

    def ledger(self) -> list[Call]:
        """Return what arrived since the last reset."""
        return [Call(**entry) for entry in self._ask("GET", "/ledger")]

    def arrived(self) -> int:
        """Return how many calls arrived since the last reset."""
        return int(self._ask("GET", "/inflight")["arrived"])

    def until_arrived(self, count: int, process: "subprocess.Popen[bytes]") -> None:
        """Return once so many calls have arrived, or a process has ended."""
        until(lambda: process.poll() is not None or self.arrived() >= count, "no call came")

    def in_flight(self) -> int:
        """Return how many calls are open now."""
        return int(self._ask("GET", "/inflight")["in_flight"])

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body).encode())
            reply = connection.getresponse()
            answer = reply.read()
            if reply.status != 200:
                raise ValueError(answer.decode())
            return json.loads(answer) if answer else None


_CALLS = re.compile(rb"(?ms)^## Calls and cost$.*?(?=^## )")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended, and what it said."""

    code: int
    out: str
    err: str

    def last_line(self) -> str:
        """Return the last line that it said."""
        return (self.err.strip().splitlines() or [""])[-1]


class Site:
    """A folder with the pipelines, the store of a run and its outputs."""

    def __init__(self, folder: Path, pipeline: str, server: Server | None, **chat: Any) -> None:
        self.folder, self.pipeline, self.server = folder, pipeline, server
        self.file = folder / "pipelines" / f"{pipeline}.yaml"
        self.store = folder / "pipelines" / ".engine" / pipeline
        self._chat = chat
        self.file.parent.mkdir(parents=True)
        for path in (SHIPPED, *(HERE / "pipelines").iterdir()):
            if path.is_file():
                shutil.copy(path, self.file.parent)

    def settings(self) -> list[str]:
        """Return the `--set` options: the server in the place of the model."""
        if self.server is None:
            return [
                part for name, value in self._chat.items() for part in ("--set", f"{name}={value}")
            ]
        given = {"model": "chaos", "base_url": self.server.url, "server": "vllm"} | self._chat
        given = {"timeout": 10.0, "slots": 8} | given
        writer = json.dumps({"use": "openai.chat", "with": given})
        options = ["--set", f"resources.writer={writer}"]
        if self.pipeline == "pink":
            for stage in ("pairs", "plans", "dialogue", "critique", "revision"):
                options += ["--set", f"stages.{stage}.concurrency=4"]
        return options

    def command(self, *more: str) -> list[str]:
        """Return the command that runs the pipeline."""
        return [sys.executable, "-m", "engine", "run", str(self.file), *self.settings(), *more]

    def start(self, command: Sequence[str] | str = (), **env: str) -> "subprocess.Popen[bytes]":
        """Start a command, by default the run; its output goes to files beside the pipeline."""
        with (self.folder / "stdout").open("wb") as out, (self.folder / "stderr").open("wb") as err:
            return subprocess.Popen(
                f"exec {command}" if isinstance(command, str) else command or self.command(),
                shell=isinstance(command, str),
                cwd=self.folder,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                env=environment(**env),
            )

    def wait(self, process: "subprocess.Popen[bytes]") -> Ended:
        """Return how it ended. Raises TimeoutExpired."""
        code = process.wait(PATIENCE if self.server is not None else EMBEDDED_PATIENCE)
        read = [(self.folder / name).read_text("utf-8", "replace") for name in ("stdout", "stderr")]
        return Ended(code, *read)

    def run(self, *more: str, **env: str) -> Ended:
        """Run the pipeline to its end."""
        with running(self.start(self.command(*more), **env)) as process:
            return self.wait(process)

    def written(self) -> Mapping[str, bytes]:
        """Return the files that the sinks wrote, but for what a card says of calls: they differ."""
        return {
            path.name: _CALLS.sub(b"", path.read_bytes())
            for path in sorted((self.folder / "out").iterdir())
            if path.is_file()
        }


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which `engine` is found, and no key and no proxy."""
    bin_folder = str(Path(sys.executable).parent)
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "OPENAI_API_KEY" and not name.lower().endswith("_proxy")
    }
    return kept | {"PATH": f"{bin_folder}{os.pathsep}{kept.get('PATH', '')}"} | more


@contextlib.contextmanager
def running(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """Give a process, and leave none behind."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def until(met: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
    """Return once a condition is met, asked every few milliseconds. Raises TimeoutError."""
    end = time.monotonic() + timeout
    while not met():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.005)


def leftovers(site: Site) -> list[str]:
    """Return what should not lie about once a run is done: temporary files and folders."""
    found = (p for place in (site.folder / "out", site.store) for p in place.rglob("*"))
    known = ("store.sqlite", "store.sqlite-wal", "store.sqlite-shm")
    return sorted(
        str(path.relative_to(site.folder))
        for path in found
        if path.name not in known
        and (
            path.name.startswith((".", "new-"))
            or path.suffix in (".part", ".tmp")
            or "work" in path.relative_to(site.folder).parts
        )
    )
