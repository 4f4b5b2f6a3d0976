"""What a row takes in a pilot: its calls, their tokens and time, whoever paid for them and when."""

from __future__ import annotations

from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
)
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from time import thread_time
from typing import Any, Generic, TypeVar

import anyio

from engine.chat import Answer, Endpoint, Request
from engine.execution import Execution, Outcome
from engine.services import CallRecords, Refusal
from engine.stages import Context

__all__ = ["Meter", "Metered", "Taken", "Working", "timed"]


@dataclass(slots=True)
class Taken:
    """What one execution of a stage has taken: a row's, a batch's, or a whole source's."""

    rows: int = 0
    """Rows that it holds; 0 for a source or stream."""
    calls: int = 0
    """Calls whose replies it used or refused, be they paid now or found in the store."""
    new: int = 0
    cached: int = 0
    out: int = 0
    cost: float = 0.0
    characters: int = 0
    """Of all replies."""
    seconds: float = 0.0
    """In which it worked and waited for nobody but its own calls."""
    cpu: float = 0.0
    """Seconds in which it kept this process's event loop busy."""
    sent: dict[str, list[float]] = field(default_factory=dict)
    """Resource -> calls sent, and the seconds that they took."""

    @property
    def paid(self) -> int:
        """Calls that were sent, and not found in the store."""
        return int(sum(calls for calls, _ in self.sent.values()))


_here: ContextVar[Taken] = ContextVar("_here")
"""What the execution that runs in this task takes."""


class Meter:
    """What the rows of one stage have taken, by row; `earlier` is what earlier pilots found."""

    def __init__(self, earlier: Mapping[str, Any]) -> None:
        self._earlier = {row: Taken(**taken) for row, taken in earlier.items()}
        self._taken: dict[str, Taken] = {}
        self._seen: set[tuple[bytes, int]] = set()
        self.reused: set[str] = set()
        """Rows whose results were found in the store."""

    def row(self, row_id: str, rows: int) -> Taken:
        """Return what a row takes, to be added to."""
        taken = self._taken.setdefault(row_id, Taken())
        taken.rows = max(taken.rows, rows)
        return taken

    def reply(self, taken: Taken, call: bytes, sample: int, reply: bytes) -> None:
        """Add a reply, once."""
        if (call, sample) in self._seen:
            return
        self._seen.add((call, sample))
        answer = Answer.loads(reply)
        usage = answer.usage
        taken.calls += 1
        taken.new += usage.new
        taken.cached += usage.cached
        taken.out += usage.out
        taken.cost += usage.cost
        taken.characters += len(answer.text)

    def all(self) -> dict[str, Taken]:
        """Return what each row has taken; time that was spent earlier as it was measured then."""
        found = dict(self._taken)
        for row, taken in self._taken.items():
            before = self._earlier.get(row)
            if before is not None and not taken.paid:
                taken.seconds, taken.sent, taken.cpu = before.seconds, before.sent, before.cpu
        known = self.reused & self._earlier.keys()
        found |= {row: self._earlier[row] for row in known}
        return {row: found[row] for row in sorted(found)}  # sums are the same in any run

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON, for a later pilot."""
        return {row: asdict(taken) for row, taken in self.all().items()}


class Metered(Execution):
    """An execution that tells a Meter what each row takes."""

    meter: Meter

    def recall(self, item: Any) -> Any:
        """Return a row's recorded result; the meter is told of it."""
        key, memo = super().recall(item)
        if memo is not None:
            self.meter.reused.add(item[0].hex())
        return key, memo

    def context(
        self,
        row_id: bytes,
        attempt: int,
        calls: Any,
        rows: int = 1,
        refused: list[Refusal] | None = None,
    ) -> Context:
        """Return the context of an attempt, whose calls are metered."""
        taken = self.meter.row(row_id.hex(), rows if row_id else 0)
        metered = _Calls(calls, self.meter, taken)
        return super().context(row_id, attempt, metered, rows, refused)

    async def keywords(self, ctx: Context) -> dict[str, Any]:
        """Return the keywords; what this task calls from now on is this row's."""
        assert isinstance(ctx.calls, _Calls)
        _here.set(ctx.calls.taken)
        return await super().keywords(ctx)

    async def attempts(
        self,
        row_id: bytes,
        once: Callable[[Context], Any],
        key: bytes | None = None,
        failed: Exception | None = None,
        rows: int = 1,
        calls: CallRecords | None = None,
    ) -> Outcome:
        """Run a row's attempts, and measure the time in which it waited for nobody."""
        waited, began = 0.0, anyio.current_time()

        async def measured(ctx: Context) -> Any:
            nonlocal waited
            before = ctx.waited  # for the stage's limit
            waited += before
            try:
                return await once(ctx)
            finally:
                waited += ctx.waited - before

        try:
            return await super().attempts(row_id, measured, key, failed, rows, calls)
        finally:
            taken = self.meter.row(row_id.hex(), rows)
            taken.seconds += anyio.current_time() - began - waited


class _Calls:
    """Call records whose replies are metered."""

    def __init__(self, calls: CallRecords, meter: Meter, taken: Taken) -> None:
        self._calls, self._meter, self.taken = calls, meter, taken

    def replay(self, key: bytes, sample: int) -> bytes | None:
        found = self._calls.replay(key, sample)
        if found is not None:
            self._meter.reply(self.taken, key, sample, found)
        return found

    async def record(self, key: bytes, sample: int, reply: bytes) -> None:
        self._meter.reply(self.taken, key, sample, reply)
        await self._calls.record(key, sample, reply)

    def refusals(self, key: bytes, fingerprint: bytes) -> Collection[int]:
        return self._calls.refusals(key, fingerprint)

    def refuse(self, key: bytes, sample: int, fingerprint: bytes, reason: str) -> None:
        self._calls.refuse(key, sample, fingerprint, reason)


T = TypeVar("T")


class Working(Generic[T]):
    """Awaits a coroutine, and adds the time that it keeps a processor busy to what is taken."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], taken: Taken) -> None:
        self._coroutine, self._taken = coroutine, taken

    def __await__(self) -> Generator[Any, Any, T]:
        step: Callable[[Any], Any] = self._coroutine.send
        given: Any = None
        while True:
            began = thread_time()
            try:
                asked = step(given)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                self._taken.cpu += thread_time() - began
            try:
                step, given = self._coroutine.send, (yield asked)
            except BaseException as error:
                step, given = self._coroutine.throw, error


@contextmanager
def timed(resources: Mapping[str, Any]) -> Iterator[None]:
    """Measure how long each call takes at its endpoint, inside the block."""
    chats = {key: chat for key, chat in resources.items() if isinstance(chat, Endpoint)}
    held = {key: chat.__dict__.get("send") for key, chat in chats.items()}
    for key, chat in chats.items():
        chat.__dict__["send"] = _timing(chat.send, key)
    try:
        yield
    finally:
        for key, chat in chats.items():
            del chat.__dict__["send"]
            if held[key] is not None:
                chat.__dict__["send"] = held[key]


def _timing(
    send: Callable[[Request], Awaitable[Answer]], key: str
) -> Callable[[Request], Awaitable[Answer]]:
    async def sending(request: Request) -> Answer:
        began = anyio.current_time()
        answer = await send(request)
        if (taken := _here.get(None)) is not None:
            sent = taken.sent.setdefault(key, [0, 0.0])
            sent[0] += 1
            sent[1] += anyio.current_time() - began
        return answer

    return sending
