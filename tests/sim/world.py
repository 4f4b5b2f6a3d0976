"""The simulated machine: virtual time, a disk that survives kills, no threads, one seed.

All randomness that a run can meet is drawn from the seed of its `World`: latencies and faults by
`World.draw`, a hash of names, and the order of tasks by trio's own scheduler, which shuffles each
batch of runnable tasks with a generator of its own (`trio._core._run._r`). With
`_ALLOW_DETERMINISTIC_SCHEDULING` (made for Hypothesis) it sorts them first, so that memory addresses
do not matter. Both are private to trio; there is no public way.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self
from unittest import mock

import anyio
import anyio.to_thread
import apsw
import trio
import trio.testing
from trio._core import _run as scheduler

import engine.channels
from engine.errors import StoreError
from engine.store import SqliteStore
from engine.store.rescue import Rescue

FOREVER = 1e6
"""Virtual seconds after which a run that has not ended is said to hang."""


class Found(AssertionError):
    """The auditor found something wrong."""


class World:
    """One seed: its disk and its model server live through all lives of the simulated process."""

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self.life = 0
        self.trace: list[tuple[float, str, str]] = []
        self.image: bytes | None = None  # what the disk holds
        self.dead = False  # killed: nothing that is still running reaches the disk or the server
        self.folder = Path()  # where the rescue file lies
        self.fails_at: int | None = None  # the number of the commit that fails
        self.full_at: int | None = None  # ... that finds the disk full
        self.reserve = True  # whether there still is the file that only takes room
        self.commits = 0
        self.failed = False
        self.failed_at = self.not_before = 0.0
        self.wrong: list[str] = []  # what the auditor found out while the run went on
        self.billed: Counter[tuple[str, int]] = Counter()  # (prompt, seed) -> paid calls
        self.broken: Counter[tuple[str, int]] = Counter()  # ... that the server billed, then lost
        self.allowed: Counter[tuple[str, int]] = Counter()  # ... that a kill may make be paid again
        self.arrivals: Counter[tuple[int, str, int]] = Counter()
        self.in_flight: Counter[tuple[str, int]] = Counter()
        self.unseen: Counter[tuple[str, int]] = Counter()  # answered, but no stage has seen it
        self.ran: Counter[tuple[str, str]] = Counter()  # (stage, row) -> first attempts
        self.inside: Counter[str] = Counter()
        self.sinks: dict[str, list[dict[str, Any]]] = {}
        self.kills = self.drains = self.failures = 0
        self.hours = 0.0

    def begin(self) -> None:
        """Begin another life: what a process holds in memory is gone."""
        self.life += 1
        self.dead = self.failed = False
        self.commits = 0
        self.fails_at = self.full_at = None
        self.reserve = True
        self.not_before = 0.0
        self.in_flight.clear()
        self.unseen.clear()
        self.inside.clear()
        self.ran.clear()

    def draw(self, *names: object) -> float:
        """Return a number from 0 to 1 that depends on the seed and these names alone."""
        data = blake2b(repr((self.seed, *names)).encode(), digest_size=8).digest()
        return int.from_bytes(data, "little") / 2**64

    def note(self, kind: str, what: object = "") -> None:
        """Add an event to the trace."""
        if not self.dead:
            self.trace.append((round(anyio.current_time(), 6), kind, str(what)))

    def note_end(self, seconds: float) -> None:
        """Add the end of a life to the trace."""
        self.trace.append((round(seconds, 6), "life ended", f"{self.life}, killed: {self.dead}"))

    def find(self, wrong: str) -> None:
        """Book what is wrong: raised here, it might be taken for a failing stage."""
        if not self.dead:
            self.wrong.append(wrong)

    async def nap(self, *names: object) -> None:
        """Take a while, which depends on these names."""
        drawn = self.draw("nap", *names)
        if drawn < 0.5:
            await anyio.sleep(4 * drawn)
        else:
            await anyio.lowlevel.checkpoint()

    @contextlib.contextmanager
    def at_most(self, count: int, what: str) -> Iterator[None]:
        """Say that something is under way, and find out if it is oftener than it may be."""
        self.inside[what] += 1
        if self.inside[what] > count:
            self.find(f"{self.inside[what]} at once in {what}, where {count} may be")
        try:
            yield
        finally:
            self.inside[what] -= 1

    # --- ends of a life -----------------------------------------------------------------------

    def kill(self) -> None:
        """Stop the world: nothing of what runs now reaches the disk or the server any more."""
        self.note("kill")
        self.image = CONNECTIONS[-1].taken() if CONNECTIONS else self.image
        self.dead = True
        self.allowed += self.in_flight + self.unseen

    @property
    def is_full(self) -> bool:
        """Whether the disk has been full in this life."""
        return self.full_at is not None and self.commits >= self.full_at

    def failed_for(self, seconds: float) -> bool:
        """Whether the disk failed longer ago than this."""
        return self.failed and anyio.current_time() > self.failed_at + seconds

    def stop(self) -> None:
        """Book that calls in flight are cut off; what has arrived must not be lost."""
        self.note("stop")
        self.allowed += self.in_flight


# --- the disk -----------------------------------------------------------------------------------

WORLDS: list[World] = []
CONNECTIONS: list[SimConnection] = []


def world() -> World:
    """Return the world that is simulated now."""
    return WORLDS[-1]


class SimConnection(apsw.Connection):
    """A database in memory that begins as the disk's image and leaves one when it is closed."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(":memory:")
        here = self._world = world()
        CONNECTIONS.append(self)
        if here.image is not None:
            self.deserialize("main", here.image)
        self.set_commit_hook(self._commit)

    def _commit(self) -> bool:
        here = self._world
        if here.dead:
            return False
        here.commits += 1
        if here.failed:
            here.find("a commit was tried after one had failed")
            raise apsw.IOError("simulated: the disk has failed")
        if here.commits == here.fails_at:
            here.note("commit fails", here.commits)
            here.failed, here.failed_at = True, anyio.current_time()
            raise apsw.IOError("simulated: the disk failed")
        if here.full_at is not None and here.commits >= here.full_at and here.reserve:
            here.note("disk full", here.commits)
            raise apsw.FullError("simulated: the disk is full")
        here.note("commit", here.commits)
        return False

    def taken(self) -> bytes:
        """Return an image of the disk."""
        self.set_commit_hook(None)  # taking it commits, too
        return self.serialize("main")

    def close(self, force: bool = False) -> None:
        if not self._world.dead:
            self._world.image = self.taken()
        super().close(force)


class SimStore(SqliteStore):
    """The store itself, on a simulated disk; its writer thread is simulated, too."""

    def __init__(self) -> None:
        super().__init__(None)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        rescue = SimRescue(world().folder)
        self._commits._limiter, self._commits._rescue = anyio.CapacityLimiter(1), rescue
        try:
            self._take_rescued(rescue)
        except BaseException:
            with contextlib.suppress(StoreError):
                await self.__aexit__(None, None, None)
            raise
        return self


class SimRescue(Rescue):
    """The rescue file itself, on a disk that a kill freezes; its reserve is simulated."""

    def free(self) -> bool:
        here = world()
        had, here.reserve = here.reserve, False
        return had

    def save(self, calls: Iterable[Sequence[Any]]) -> None:
        if not world().dead:
            super().save(calls)


async def in_no_thread(
    func: Callable[..., Any],
    *args: Any,
    abandon_on_cancel: bool = False,
    cancellable: bool | None = None,
    limiter: anyio.CapacityLimiter | None = None,
) -> Any:
    """Stand in for `anyio.to_thread.run_sync`: work takes virtual time before and after it is done."""
    here = world()
    here_slow = 1.0 if here.draw("slow disk", here.life) < 0.2 else 0.01
    async with limiter or contextlib.nullcontext():
        with anyio.CancelScope(shield=not abandon_on_cancel):
            await anyio.sleep(here_slow * here.draw("before", here.life, here.commits))
            result = func(*args)
            await anyio.sleep(here_slow * here.draw("after", here.life, here.commits))
            return result


# --- running ------------------------------------------------------------------------------------


@contextlib.contextmanager
def simulated(here: World) -> Iterator[None]:
    """Make this world the one that everything runs in."""
    queue = engine.channels.Channel.__init__
    small = here.draw("small queues") < 0.4
    with (
        tempfile.TemporaryDirectory(prefix="sim-") as folder,
        mock.patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        mock.patch.object(anyio.to_thread, "run_sync", in_no_thread),
        mock.patch.object(apsw, "Connection", SimConnection),
        mock.patch.object(logging.getLogger("engine"), "disabled", True),  # long waits are told
        mock.patch.object(engine.channels, "HELD_IN_MEMORY", 3 if small else 1024),
        mock.patch.object(queue, "__defaults__", (2 if small else 1024,)),
    ):
        WORLDS.append(here)
        here.folder = Path(folder)
        try:
            yield
        finally:
            WORLDS.pop()
            CONNECTIONS.clear()


def run(here: World, main: Callable[[], Awaitable[None]]) -> None:
    """Run a life under virtual time. Raises Found if it hangs."""
    scheduler._r.seed(f"{here.seed}/{here.life}")

    async def watched() -> None:
        with anyio.move_on_after(FOREVER) as watch:
            await main()
        here.hours += anyio.current_time() / 3600
        if watch.cancelled_caught:
            raise Found("the run hangs")

    trio.run(watched, clock=trio.testing.MockClock(autojump_threshold=0))


def tables(image: bytes | None) -> dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]:
    """Return the paid replies and the memo of a disk's image: key -> what is recorded."""
    found: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = defaultdict(dict)
    if image is None:
        return found
    connection = apsw.Connection(":memory:")
    connection.deserialize("main", image)
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_master").get:
            return found
        for generation, key, sample, reply in connection.execute(
            "SELECT generation, key, sample, reply FROM calls"
        ):
            found["calls"][generation, key, sample] = (reply,)
        for generation, key, ordinal, kind, body, count in connection.execute(
            "SELECT generation, key, ordinal, kind, body, count FROM memo"
        ):
            found["memo"][generation, key, ordinal] = (kind, body, count)
    finally:
        connection.close()
    return found
