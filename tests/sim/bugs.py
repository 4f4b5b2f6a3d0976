"""Bugs that are planted into the engine, to see whether the simulation finds them.

Each is what a plausible mistake would have made of some function; nothing in the engine knows of
them. `with planted("ack before commit"): ...`
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from inspect import signature
from typing import Any
from unittest import mock

from engine.channels import Inbox, Item
from engine.chat import Limiter
from engine.chat.bound import Bound
from engine.context import Context
from engine.execution import Outcome
from engine.executor import Executor
from engine.keys import digest, memo_key
from engine.runners.base import Runner
from engine.runners.batches import Batch
from engine.runners.streams import Stream
from engine.runners.workers import Workers
from engine.services import Gate
from engine.store.calls import Calls
from engine.store.commits import Commits
from engine.store.sqlite import SqliteStore
from tests.sim.world import world

Bug = Callable[[], AbstractContextManager[Any]]
BUGS: dict[str, Bug] = {}


def bug(name: str, target: Any, method: str) -> Callable[[Callable[..., Any]], Bug]:
    """Register a wrong version of a method; it is given the right one first."""

    def register(wrong: Callable[..., Any]) -> Bug:
        right = getattr(target, method)
        takes, wrongly = signature(right).parameters, signature(wrong).parameters
        if not any(p.kind is p.VAR_POSITIONAL for p in wrongly.values()):
            assert [*takes] == [*wrongly][1:], f"{name}: {method} has changed"  # not a bug: a crash

        def version(self: Any, *args: Any, **keywords: Any) -> Any:
            return wrong(right, self, *args, **keywords)

        BUGS[name] = lambda: mock.patch.object(target, method, version)
        return BUGS[name]

    return register


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a bug for the length of the block."""
    with BUGS[name]():
        yield


# --- what is durable, and when ------------------------------------------------------------------


@bug("ack before commit", Calls, "record")
async def _(right: Any, self: Calls, key: bytes, sample: int, reply: bytes) -> None:
    async def no_wait(*_: Any, **__: Any) -> None:
        pass

    with mock.patch.object(SqliteStore, "flush", no_wait):
        await right(self, key, sample, reply)


@bug("end before child", SqliteStore, "put_memo")
def _(right: Any, self: Any, key: bytes, memo: Any, ordinal: int = -1) -> None:
    late = self.__dict__.setdefault("late", [])
    if ordinal >= 0:  # the child is left for the next call, which may be in the next group
        late, self.late = [*late, (key, memo, ordinal)], []
        for held in late[:-1]:
            right(self, *held)
        self.late = late[-1:]
        return
    right(self, key, memo, ordinal)


@bug("memo before its texts", SqliteStore, "put")
def _(right: Any, self: Any, table: str, values: tuple[Any, ...]) -> None:
    late = self.__dict__.setdefault("late", [])
    if table == "texts":
        late.append(values)
        return
    right(self, table, values)
    for held in self.__dict__.get("later", []):
        right(self, "texts", held)
    self.later, self.late = late, []


@bug("a failed commit is tried again", Commits, "_transact")
def _(right: Any, self: Commits, group: Any) -> None:
    try:
        right(self, group)
    except Exception:
        right(self, group)


@bug("a failed commit is forgotten", Commits, "_transact")
def _(right: Any, self: Commits, group: Any) -> None:
    with contextlib.suppress(Exception):
        right(self, group)


@bug("lost dead letter", Runner, "die")
def _(right: Any, self: Runner, item: Item, outcome: Outcome) -> None:
    if outcome.error is not None:
        right(self, item, outcome)
        return
    with mock.patch.object(self, "store", None):  # it was booked when it died, in another run
        right(self, item, outcome)


# --- calls --------------------------------------------------------------------------------------


@bug("double billing on retry", Bound, "_call_key")
def _(right: Any, self: Any, request: Any, key: str | None) -> bytes:
    return digest(right(self, request, key), str(self._ctx.attempt))


@bug("occurrences counted over all executions", Bound, "__init__")
def _(right: Any, self: Any, endpoint: Any, ctx: Any, row_id: Any = None) -> None:
    ctx.asked = endpoint.__dict__.setdefault("counts", Counter())
    right(self, endpoint, ctx, row_id)


@bug("refusals of an earlier run are heeded", Calls, "refusals")
def _(right: Any, self: Any, key: bytes, fingerprint: bytes) -> set[int]:
    query = "SELECT sample FROM refusals WHERE generation=? AND key=? AND fingerprint=?"
    values = (self._store.generation, key, fingerprint)
    return {sample for (sample,) in self._store.read_all(query, values)}


@bug("the seed of a call depends on the run", Bound, "_sample")
def _(right: Any, self: Any, *args: Any) -> Any:
    self._ctx.seed = world().life
    return right(self, *args)


@bug("more calls than slots", Limiter, "_wait")
def _(right: Any, self: Limiter, need: Any) -> float:
    with mock.patch.object(self, "slots", self.slots + 1):
        with mock.patch.object(self, "_window", self._window + 1):
            return float(right(self, need))


@bug("Retry-After is ignored", Limiter, "_pause")
def _(right: Any, self: Limiter, *_: Any) -> None:
    pass


@bug("the clock runs while a call waits", Context, "waiting")
@contextlib.contextmanager
def _(right: Any, self: Context) -> Iterator[None]:
    scope, self.scope = self.scope, None
    with right(self):
        self.scope = scope
        try:
            yield
        finally:
            self.scope = None
    self.scope = scope


# --- results ------------------------------------------------------------------------------------


BUGS["stale memo"] = lambda: mock.patch(
    "engine.execution.memo_key", lambda fingerprint, row_id, _: memo_key(fingerprint, row_id, {})
)


@bug("a stream's memo without its input", Stream, "_memo_key")
def _(right: Any, self: Stream, fingerprint: bytes) -> bytes:
    return digest("stream", fingerprint, "whatever it reads")


@bug("a batch is taken for done by its first row", Batch, "_outcomes")
async def _(right: Any, self: Batch, items: list[Item]) -> list[Outcome]:
    memos = [self.execution.recall(item)[1] for item in items]
    if memos[0] is None:
        found: list[Outcome] = await right(self, items)
        return found
    return [self.remembered(memo or memos[0]) for memo in memos]


@bug("a stream that is drained ends early", Stream, "_rows")
async def _(right: Any, self: Stream, name: str, ctx: Any = None) -> AsyncIterator[Any]:
    async with contextlib.aclosing(right(self, name, ctx)) as rows:
        async for row in rows:
            yield row
            if self.control.draining:
                break


# --- rows ---------------------------------------------------------------------------------------


@bug("reorder at the sink", Inbox, "_take")
def _(right: Any, self: Inbox, item: Item) -> None:
    if not self.place.startswith("sink"):
        right(self, item)
    elif item[0] is not None and item[2] is not None:
        self.ready.append(item)
        self.count += 1
        self._event.set()


@bug("a rejected row gives no signal", Runner, "settle")
async def _(right: Any, self: Runner, item: Item, outcome: Outcome) -> None:
    if outcome.kind == "reject":
        self.settled(item, outcome)
    else:
        await right(self, item, outcome)


@bug("a rejected row is not counted", Runner, "reject")
def _(right: Any, self: Runner, item: Item, outcome: Outcome) -> None:
    right(self, item, outcome)
    self.counters.rejected -= outcome.attempts > 1


@bug("a row reused is not written to the manifest", Runner, "reject")
def _(right: Any, self: Runner, item: Item, outcome: Outcome) -> None:
    with mock.patch.object(self, "store", None if self.counters.reused else self.store):
        right(self, item, outcome)


@bug("one worker too many", Workers, "__init__")
def _(right: Any, self: Any, *args: Any) -> None:
    right(self, *args)
    self._most += 1


# --- the end ------------------------------------------------------------------------------------


@bug("a drain loses replies in flight", Executor, "drained")
async def _(right: Any, self: Executor) -> None:
    self.draining = True
    self.gate.close()


@bug("calls start while the run drains", Gate, "admit")
async def _(right: Any, self: Gate) -> None:
    pass
