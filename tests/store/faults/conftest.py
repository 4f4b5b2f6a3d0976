"""A disk that is watched: what is written below a folder can be recorded, or made to fail.

SQLite's files are seen through a VFS of their own, all others through `os` and `open`. A `Recorder`
keeps each write, truncate, sync and name, and builds folders as a power cut could leave them. A
`Fault` makes the k-th operation of a kind fail.
"""

import builtins
import errno
import io
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import apsw
import pytest

import engine
from engine import EngineError
from engine.runs import first_error
from engine.testing import FakeChat

FULL = os.environ.get("FAULTS") == "full"
"""Whether to run all cuts and faults (`make disk`), or a spread of them."""
SECTOR = 512
"""Bytes that a disk writes whole or not at all."""


class Watcher:
    """Hears of each operation below `root`; `before` may raise OSError in its place."""

    root: Path

    def before(self, kind: str, path: str) -> None: ...

    def after(self, kind: str, path: str, offset: int = 0, data: bytes = b"") -> None: ...


# --- what a power cut leaves ---------------------------------------------------------------------

Mode = Literal["none", "random", "all"]


class _File:
    """What is on the disk for certain, and what was written since and may be."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, data), or (size, None)

    def sync(self) -> None:
        self.synced, self.pending = self.content("all", random.Random()), []

    def content(self, mode: Mode, rng: random.Random) -> bytearray:
        content = bytearray(self.synced)
        for offset, data in self.pending if mode != "none" else ():
            if data is None:
                if mode == "all" or rng.random() < 0.5:
                    content[offset:] = bytes(max(0, offset - len(content)))
                continue
            for at in range(0, len(data), SECTOR) if mode == "random" else (0,):
                piece = data[at : at + SECTOR] if mode == "random" else data
                if mode == "all" or rng.random() < 0.5:
                    start = offset + at
                    content.extend(bytes(max(0, start - len(content))))
                    content[start : start + len(piece)] = piece
        return content


class Recorder(Watcher):
    """Keeps what happens to a folder, in order; `note` puts a word of the test's own into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[tuple[Any, ...]] = []
        self._lock = threading.RLock()
        self._uids: dict[int, int] = {}  # inode -> a number that is never used again
        self._seen: dict[int, tuple[int, int, bytes]] = {}  # number -> size, time, content
        self._tree: dict[int, dict[str, int]] = {}
        self._sqlite: set[str] = set()
        self._last = 0
        self._scan()
        for uid in [*self._tree, *self._seen]:
            self.log.append(("sync", uid))  # what is there at the beginning is there for good
        self._begun = len(self.log)

    def moment(self, rng: random.Random) -> int:
        """Return a moment at random: after how many operations."""
        return rng.randrange(self._begun, len(self.log) + 1)

    def note(self, word: Any) -> None:
        self.log.append(("note", word))

    def before(self, kind: str, path: str) -> None:
        if kind == "rename":
            with self._lock:
                self._scan()  # as it was

    def after(self, kind: str, path: str, offset: int = 0, data: bytes = b"") -> None:
        with self._lock:
            if kind == "sqlite":
                self._sqlite.add(path)
                self._scan()
            elif kind in ("rename", "unlink", "mkdir"):
                self._scan()
            elif kind == "write" and path in self._sqlite:
                self.log.append(("data", self._uid(path), offset, bytes(data)))
            elif kind == "truncate" and path in self._sqlite:
                self.log.append(("data", self._uid(path), offset, None))
            elif kind == "sync":
                self._scan()
                self.log.append(("sync", self._uid(path)))

    def _uid(self, path: str) -> int:
        return self._number(os.stat(path).st_ino)  # noqa: PTH116

    def _number(self, inode: int) -> int:
        if inode not in self._uids:
            self._last += 1
            self._uids[inode] = self._last
        return self._uids[inode]

    def _scan(self) -> None:
        """Record names, and the contents of files that are not SQLite's, as far as they changed."""
        inodes = set[int]()
        todo, tree = [self.root], dict[int, dict[str, int]]()
        while todo:
            folder = todo.pop()
            try:
                inode = folder.stat().st_ino
                entries = list(os.scandir(folder))
            except FileNotFoundError:  # another thread has just removed it
                continue
            inodes.add(inode)
            names = tree[self._number(inode)] = {}
            for entry in entries:
                if entry.name.endswith("-shm"):
                    continue  # made anew when a database is opened
                try:
                    stat = entry.stat(follow_symlinks=False)
                    inodes.add(stat.st_ino)
                    uid = names[entry.name] = self._number(stat.st_ino)
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(Path(entry.path))
                    elif entry.path not in self._sqlite:
                        self._look(uid, entry.path, stat)
                except FileNotFoundError:
                    names.pop(entry.name, None)
        if changed := {uid: n for uid, n in tree.items() if self._tree.get(uid) != n}:
            self.log.append(("names", changed))
        self._tree = tree
        self._uids = {inode: uid for inode, uid in self._uids.items() if inode in inodes}

    def _look(self, uid: int, path: str, stat: os.stat_result) -> None:
        size, time, old = self._seen.get(uid, (-1, -1, b""))
        if (size, time) == (stat.st_size, stat.st_mtime_ns):
            return
        new = Path(path).read_bytes() if stat.st_size < 1 << 22 else b""  # a reserve: only its room
        same = len(old) if new.startswith(old) else 0
        self._seen[uid] = (stat.st_size, stat.st_mtime_ns, new)
        self.log.append(("data", uid, same, new[same:]))
        if len(new) < len(old):
            self.log.append(("data", uid, len(new), None))

    def notes(self, upto: int | None = None) -> list[Any]:
        return [entry[1] for entry in self.log[:upto] if entry[0] == "note"]

    def cut(self, target: Path, at: int, mode: Mode, rng: random.Random) -> None:
        """Build the folder as it may be if the power fails after `at` operations."""
        files: dict[int, _File] = {}
        folders: dict[int, list[dict[str, int]]] = {}  # what is durable, then what may be
        for kind, *entry in self.log[:at]:
            if kind == "names":
                for uid, names in entry[0].items():
                    folders.setdefault(uid, [{}]).append(names)
            elif kind == "data":
                uid, offset, data = entry
                files.setdefault(uid, _File()).pending.append((offset, data))
            elif kind == "sync" and entry[0] in folders:
                del folders[entry[0]][:-1]
            elif kind == "sync" and entry[0] in files:
                files[entry[0]].sync()

        def build(uid: int, path: Path) -> None:
            path.mkdir()
            listings = folders[uid]
            names = {"none": listings[0], "all": listings[-1]}.get(mode) or rng.choice(listings)
            for name, inner in names.items():
                if inner in folders:
                    build(inner, path / name)
                else:
                    (path / name).write_bytes(files.get(inner, _File()).content(mode, rng))

        build(1, target)


# --- what fails ----------------------------------------------------------------------------------


class Fault(Watcher):
    """The k-th operation of a kind fails with an errno; `lasting`: so do all that follow."""

    def __init__(
        self, root: Path, kind: str, k: int, number: int = errno.EIO, *, lasting: bool = False
    ) -> None:
        self.root, self.kind, self.k, self.number, self.lasting = root, kind, k, number, lasting
        self.count, self.path = 0, ""

    @property
    def met(self) -> bool:
        return bool(self.path)

    def before(self, kind: str, path: str) -> None:
        if kind != self.kind or not ("/.engine" in path or "/.out." in path or "/out." in path):
            return  # the store, and what the sinks write: not the pipeline's own files
        self.count += 1
        if self.count == self.k or (self.lasting and self.count > self.k):
            self.path = self.path or path
            raise OSError(self.number, os.strerror(self.number), path)


# --- watching ------------------------------------------------------------------------------------


class _VfsFile(apsw.VFSFile):
    def __init__(self, watcher: Watcher, name: Any, flags: list[int]) -> None:
        self._watcher = watcher
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._new = not Path(self._path).exists()
        self._refuse("open")
        super().__init__("unix", name, flags)
        watcher.after("sqlite", self._path)

    def _refuse(self, kind: str) -> None:
        """Fail as SQLite's own VFS would."""
        try:
            self._watcher.before(kind, self._path)
        except OSError as error:
            if kind == "open":
                raise apsw.CantOpenError(str(error)) from error
            if kind == "write" and error.errno == errno.ENOSPC:
                raise apsw.FullError(str(error)) from error
            code = {"write": apsw.SQLITE_IOERR_WRITE, "sync": apsw.SQLITE_IOERR_FSYNC}
            failure = apsw.IOError(str(error))
            failure.extendedresult = code.get(kind, apsw.SQLITE_IOERR_TRUNCATE)
            raise failure from error

    def xWrite(self, data: bytes, offset: int) -> None:
        self._refuse("write")
        super().xWrite(data, offset)
        self._watcher.after("write", self._path, offset, data)

    def xTruncate(self, newsize: int) -> None:
        self._refuse("truncate")
        super().xTruncate(newsize)
        self._watcher.after("truncate", self._path, newsize)

    def xSync(self, flags: int) -> None:
        self._refuse("sync")
        super().xSync(flags)
        self._watcher.after("sync", self._path)
        if self._new and self._path.endswith(("-wal", "-journal")):
            self._new = False  # SQLite syncs the folder of a journal that it has made
            self._watcher.after("sync", str(Path(self._path).parent))


class _Vfs(apsw.VFS):
    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        super().__init__("watched", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        if not Path(path).is_relative_to(self._watcher.root):
            return super().xOpen(name, flags)
        return _VfsFile(self._watcher, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        if Path(filename).is_relative_to(self._watcher.root):
            self._watcher.after("unlink", filename)
            if syncdir:
                self._watcher.after("sync", str(Path(filename).parent))


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Let a watcher see what this process does below its root."""
    root = str(watcher.root)

    def mine(path: Any) -> str:
        """Return the path if it lies below the root, else nothing."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115
        found = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        return found if found.startswith(root) else ""

    def wrap(module: Any, name: str, kind: str) -> None:
        real = getattr(module, name)

        def wrapper(path: Any, *args: Any, **kwargs: Any) -> Any:
            below = "" if kwargs.get("dir_fd") is not None else mine(path)
            if below:
                watcher.before(kind, below)
            found = real(path, *args, **kwargs)
            if below:
                watcher.after(kind, below)
            return found

        patch.setattr(module, name, wrapper)

    class Raw(io.FileIO):
        def write(self, data: Any) -> Any:
            watcher.before("write", str(self.name))
            return super().write(data)

        def truncate(self, size: int | None = None) -> int:
            watcher.before("truncate", str(self.name))
            return super().truncate(size)

    real_open = io.open

    def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        below = "" if isinstance(file, int) else mine(file)
        if not below:
            return real_open(file, mode, buffering, *args, **kwargs)
        watcher.before("open", below)
        if not set(mode) & set("wax+"):
            return real_open(file, mode, buffering, *args, **kwargs)
        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name, kind in {
            "open": "open",
            "fsync": "sync",
            "fdatasync": "sync",
            "write": "write",
            "pwrite": "write",
            "posix_fallocate": "write",
            "truncate": "truncate",
            "ftruncate": "truncate",
            "rename": "rename",
            "replace": "rename",
            "mkdir": "mkdir",
            "unlink": "unlink",
        }.items():
            wrap(os, name, kind)
        # What SQLite's callbacks raise while another error is on its way out has nowhere to go.
        patch.setattr(sys, "unraisablehook", lambda told: None)
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        vfs = _Vfs(watcher)
        try:
            yield
        finally:
            vfs.unregister()


@pytest.fixture
def watch() -> Callable[[Watcher], Any]:
    return watched


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def fault() -> type[Fault]:
    return Fault


# --- a pipeline whose runs are broken ------------------------------------------------------------

STAGES = Path(__file__).parents[2] / "resume" / "stages_resume.py"
PIPELINE = """\
name: test
resources: {llm: {use: fixture.chat, with: {file: replies.jsonl}}}
stages:
  numbers: {use: ./stages.py:numbers, with: {count: 12}}
  word: {use: ./stages.py:word}
  ask: {use: ./stages.py:ask, with: {llm: llm}}
  gate: {use: ./stages.py:gate}
  parts: {use: ./stages.py:parts}
  score: {use: ./stages.py:score, batch: 4}
  place: {use: ./stages.py:place}
  out: {use: dataset.write, with: {path: out.jsonl}}
  table: {use: dataset.write, with: {path: out.parquet, fields: [row_id, n, word, part, score, place]}}
"""


class Lab:
    """A folder with a pipeline in it that asks a chat; `paid` counts the replies."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.paid, self.said = folder, 0, ""

    def make(self) -> "Lab":
        self.folder.mkdir(parents=True)
        (self.folder / "p.yaml").write_text(PIPELINE)
        (self.folder / "stages.py").write_text(STAGES.read_text())
        return self

    def _reply(self, request: Any) -> str:
        self.paid += 1
        seed = request.sampling.seed
        return "no" if seed % 4 == 0 else f"reply {seed} " * (1 + seed % 50)

    async def run(self, *overrides: str) -> int:
        """Run the pipeline; return the exit code that the command line would give."""
        try:
            with anyio.fail_after(60):
                run = engine.open(
                    self.folder / "p.yaml", set=overrides, resources={"llm": FakeChat(self._reply)}
                )
                async with run:
                    await run.finish()
                code = run.summary.exit_code
        except* EngineError as group:
            error = first_error(group)
            assert isinstance(error, EngineError)
            self.said = str(error)
            code = error.exit_code
        except* OSError as group:
            self.said = str(first_error(group))
            code = 4
        return code

    @property
    def output(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.folder.glob("out.*") if p.is_file()}


@pytest.fixture
def lab() -> type[Lab]:
    return Lab
