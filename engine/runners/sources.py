"""Sources, and the inputs that an embedder gave in place of a stage."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
import anyio.lowlevel

from engine.errors import BadReply, ResourceError, StageError, StoreError, unwrap
from engine.execution import TELLING, rejected
from engine.keys import canonical, source_id
from engine.rows import Reject, Row
from engine.runners.base import FAIR, Runner
from engine.store.codec import encode

__all__ = ["Source"]


class Source(Runner):
    """A source, or the inputs that an embedder gave in place of a stage."""

    def start(self) -> None:
        self.tasks.start_soon(self._read)

    async def _read(self) -> None:
        given = self.control.given(self.key)
        limit, execution, counters = self.control.limit, self.execution, self.counters
        # `added` does what is more than taking the fields as they are.
        plain = self.store is None and (given is not None or not execution.texts)
        adds = Row if given else execution.spec.adds or Row
        seen: Counter[bytes] = Counter()
        position = 0
        async with contextlib.AsyncExitStack() as stack:
            if given is not None:
                stack.push_async_callback(given.close)
            rows = self._made() if given is None else given.rows()
            items = await stack.enter_async_context(contextlib.aclosing(rows))  # type: ignore[type-var]
            async for out in items if limit != 0 else _nothing():
                if self.control.draining:
                    await anyio.sleep_forever()  # the run ends around it; nothing ends early
                order = (position,)
                position += 1
                if isinstance(out, Reject):
                    await self._rejected(order, out)
                    continue
                try:
                    fields = (
                        out.__dict__
                        if plain and isinstance(out, adds)
                        else self._fields(out, given is not None)
                    )
                    row_id = self._row_id(out, fields, seen)
                except TypeError as error:
                    which = f"row {order[0]} (the first is 0)"
                    raise StageError(self.key, "", f"{which}: {error}") from error
                # Given rows bear the names that the pipeline has already.
                item = (row_id, order, execution.renamed(fields) if given is None else fields)
                counters.out += 1
                for outlet in self.outlets:
                    if not outlet.try_put(item):
                        await outlet.put(item)
                if counters.out == limit:
                    break
                if not position % FAIR:
                    await anyio.lowlevel.checkpoint()
        await self.emit((None, (position,), None))
        self.done()

    def _fields(self, out: Any, given: bool) -> Mapping[str, Any]:
        """Return a row's fields; strings declared as Text become texts.

        Raises TypeError for a value that a row cannot carry.
        """
        if not given:
            return self.execution.added(out, {}, {})
        fields: Mapping[str, Any] = out.__dict__
        encode(fields, [])
        return fields

    def _row_id(self, out: Any, fields: Mapping[str, Any], seen: Counter[bytes]) -> bytes:
        """Return H(the user's key) or H(content); for equals, H(that, how many came before).

        Raises TypeError for content that a row cannot carry.
        """
        key = getattr(out, "_key", None)
        if key is not None:
            row_id = source_id(self.key, f"={key}")
            if self.store is not None:  # where rows are found again by their ids
                if row_id in seen:
                    raise StageError(self.key, row_id.hex(), f"two rows have the key {key!r}")
                seen[row_id] = 1
            return row_id
        row_id = source_id(self.key, canonical(fields))
        before = seen[row_id]
        seen[row_id] = before + 1
        before += getattr(out, "_before", 0)
        return source_id(self.key, row_id, before) if before else row_id

    async def _rejected(self, order: tuple[int, ...], verdict: Reject) -> None:
        self.counters.rejected_children += 1
        row_id = source_id(self.key, f"rejected {order[0]}")
        self._verdict((row_id, order, {}), rejected(verdict))
        await self.emit((row_id, order, None))

    async def _made(self) -> AsyncIterator[Any]:
        """Yield the stage's rows; it runs again from its start where it refuses a reply.

        Raises StageError once its attempts are spent, and for any other error of the stage.
        """
        execution, retry = self.execution, self.wired.model.retry
        calls = execution.calls()
        yielded = 0
        for attempt in range(1, retry + 1):
            ctx = execution.context(b"", attempt, calls)
            try:
                made = execution.func(**await execution.keywords(ctx))
                async with contextlib.aclosing(made) as rows:
                    ordinal = 0
                    async for row in rows:
                        ordinal += 1
                        if ordinal > yielded:
                            yielded += 1
                            yield row
                return
            except Exception as raised:
                error = unwrap(raised, *TELLING)
                if isinstance(error, (ResourceError, StageError, StoreError)):
                    raise error from None
                if not isinstance(error, BadReply):
                    said = f"{type(error).__name__}: {error}"
                    raise StageError(self.key, "", said) from error
                if attempt == retry:
                    raise StageError(
                        self.key,
                        "",
                        f"it refused a reply in each of {retry} attempts, the last for "
                        f"{error.reason!r}: with a higher `retry` it draws others",
                    ) from error
                self.counters.retries += 1
            finally:
                self.counters.sayings.clear()


async def _nothing() -> AsyncIterator[Any]:
    return
    yield
