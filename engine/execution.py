"""One stage on one row: arguments, attempts, memo. No queues and no tasks here."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import anyio.lowlevel

from engine.arguments import arguments, is_text
from engine.channels import Item
from engine.context import Ancestor
from engine.errors import (
    BadReply,
    ResourceError,
    StageError,
    StoreError,
    raised_at,
    unwrap,
)
from engine.keys import memo_key
from engine.pipeline import Pipeline, WiredStage
from engine.pool import ResourcePool
from engine.rows import Reject
from engine.services import CallRecords, Counters, Gate, MemoryCalls, Refusal
from engine.stages import Context, row_fields
from engine.store.codec import encode
from engine.store.protocol import Memo, Store
from engine.text import Text
from engine.wiring import needed

__all__ = ["TELLING", "Execution", "Outcome", "rejected"]

TELLING = (StoreError, ResourceError, Reject, BadReply)
"""What counts when child tasks raise several errors: what concerns every row, then verdicts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row in a stage."""

    kind: Literal["row", "reject", "dead"]
    fields: Mapping[str, Any]
    reason: str = ""
    example: str = ""
    error: BaseException | None = None
    attempts: int = 1
    cost: float = 0.0
    """What the calls of all attempts cost, where the row is dead."""
    at: str = ""
    """Where the stage raised what made the row dead: `file:line in function`."""
    memo: bytes = b""
    """The memo key that it is recorded under, where the row is dead."""


class Execution:
    """A wired stage, compiled: how it is called, what it reads and adds, how it is memoised."""

    def __init__(
        self,
        wired: WiredStage,
        pipeline: Pipeline,
        pool: ResourcePool,
        store: Store | None,
        limits: Mapping[str, anyio.CapacityLimiter],
        counters: Mapping[str, Counters],
        gate: Gate,
        accepted: tuple[bytes, ...] = (),
    ) -> None:
        self.wired, self.spec, self.key = wired, wired.spec, wired.key
        self.func = wired.spec.func
        self._pipeline, self._pool, self._limits, self._gate = pipeline, pool, limits, gate
        self.store, self.counters = store, counters[wired.key]
        self._upstream = _ancestors(wired, pipeline, counters) if wired.spec.is_sink else {}
        self.recorded = store is not None and wired.recorded
        self.fingerprints = (wired.fingerprint, *accepted)
        """Under which results are looked for: the stage's own, then older ones that it accepts."""
        self.rename = dict(wired.model.give)
        self.texts = _text_fields(wired)
        self.args = arguments(wired)
        self.limiter = limits[wired.model.limit] if wired.model.limit else None
        self._names = {r.name: wired.taken(r.name) for r in self.spec.reads}
        self._holders: set[int] = set()  # ids of contexts
        self.bare = not (
            self.recorded
            or self.spec.resources
            or self.spec.context
            or self.limiter
            or wired.model.timeout
        )
        """Whether a row needs neither memo, context, limit nor clock."""

    # --- what it reads and adds ---------------------------------------------------------------

    def reads(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values read, under the stage's own names: what enters digests."""
        if self.spec.reads_all:
            return fields
        return {own: fields[name] for own, name in self._names.items() if name in fields}

    def row_key(self, item: Item) -> bytes:
        """Return the memo key of a row."""
        row_id, _, fields = item
        return memo_key(self.wired.fingerprint, row_id or b"", self.reads(fields))

    def recall(self, item: Item) -> tuple[bytes, Memo | None]:
        """Return the recorded result of a row, if there is one, and the memo key that it is under.

        The key is that of the stage's own fingerprint where nothing is recorded.
        """
        assert self.store is not None
        row_id, _, fields = item
        read = self.reads(fields)
        for fingerprint in self.fingerprints:
            key = memo_key(fingerprint, row_id or b"", read)
            memo = self.store.memo(key)
            if memo is not None:
                return key, memo
        return memo_key(self.wired.fingerprint, row_id or b"", read), None

    def added(
        self, out: Any, read: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return the fields of a returned row under the stage's own names: what is recorded.

        Raises StageError for a value that is not what the return annotation says.
        """
        if out is None and self.spec.adds is None:
            return {}
        adds = self.spec.adds
        if adds is None or not isinstance(out, adds):
            wanted = adds.__name__ if adds else "None"
            raise StageError(
                self.key, "", f"it returned {type(out).__name__}, where {wanted} is declared"
            )
        fields: Mapping[str, Any] = out.__dict__
        if self.texts and any(type(fields.get(name)) is str for name in self.texts):
            fields = self._anchored(fields, inputs)
        if self.store is not None and not self.recorded:
            encode(fields, [])  # what cannot be stored is this stage's fault, not the sink's
        return fields

    def renamed(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Apply `give:`."""
        if not self.rename:
            return fields
        return {self.rename.get(name, name): value for name, value in fields.items()}

    def _anchored(self, fields: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Turn plain strings into leaves that this stage made from the texts that it read."""
        sources = [v for v in self.reads(inputs).values() if isinstance(v, Text)]
        return {
            name: Text.leaf(value, f"stage:{self.key}", inputs=sources)
            if name in self.texts and type(value) is str
            else value
            for name, value in fields.items()
        }

    # --- calling it ---------------------------------------------------------------------------

    def calls(self) -> CallRecords:
        """Return the store's call records, or new ones, which no store keeps."""
        return self.store.calls if self.store is not None else MemoryCalls()

    def context(
        self,
        row_id: bytes,
        attempt: int,
        calls: Any,
        rows: int = 1,
        refused: list[Refusal] | None = None,
    ) -> Context:
        """Return the context of one attempt, which holds `rows` rows.

        `refused` grows by the replies that it refuses.
        """
        store = self.store
        return Context(
            stage_key=self.key,
            row_id=row_id.hex(),
            attempt=attempt,
            attempts=self.wired.model.retry,
            seed=self._pipeline.model.seed,
            limits=self._limits,
            fingerprint=self.wired.fingerprint,
            fields=self.wired.inputs.get("", {}),
            pipeline=self._pipeline.name,
            upstream=self._upstream,
            calls=calls,
            counters=self.counters,
            gate=self._gate,
            refused=[] if refused is None else refused,
            rows=rows,
            open_blobs=store.blobs if store is not None else None,
        )

    async def keywords(self, ctx: Context) -> dict[str, Any]:
        """Return the keywords: configuration, resources bound to this execution, context."""
        keywords = dict(self.wired.config)
        for name, key in self.wired.resources.items():
            with ctx.waiting():  # opening is the run's time, not the row's
                opened = await self._pool.get(key)
            keywords[name] = opened.bind(ctx)
        for name in self.spec.resources:
            keywords.setdefault(name, None)
        if self.spec.context:
            keywords[self.spec.context] = ctx
        return keywords

    @asynccontextmanager
    async def guarded(self, ctx: Context) -> AsyncIterator[None]:
        """Hold the stage's named limit, and its clock."""
        async with AsyncExitStack() as stack:
            if self.limiter is not None:
                with ctx.waiting():
                    await self._hold(ctx)
                stack.callback(self._let_go, ctx)
            if self.wired.model.timeout is not None:
                ctx.scope = stack.enter_context(anyio.fail_after(self.wired.model.timeout))
            yield

    @asynccontextmanager
    async def apart(self, ctx: Context) -> AsyncIterator[None]:
        """Wait for other stages with neither limit nor clock: they may need the limit."""
        held = id(ctx) in self._holders
        self._let_go(ctx)
        with ctx.waiting():
            yield
            if held:
                await self._hold(ctx)

    async def _hold(self, ctx: Context) -> None:
        if self.limiter is not None:
            await self.limiter.acquire_on_behalf_of(id(ctx))
            self._holders.add(id(ctx))

    def _let_go(self, ctx: Context) -> None:
        if self.limiter is not None and id(ctx) in self._holders:
            self._holders.discard(id(ctx))
            self.limiter.release_on_behalf_of(id(ctx))

    async def attempts(
        self,
        row_id: bytes,
        once: Callable[[Context], Any],
        key: bytes | None = None,
        failed: Exception | None = None,
        rows: int = 1,
        calls: CallRecords | None = None,
    ) -> Outcome:
        """Run `once` until it gives fields, rejects, or the attempts are spent.

        `failed` is the error of a first attempt that has been made already; `rows` are how many
        rows wait while an attempt waits, and `calls` what was paid for before, if that is not a
        matter of these attempts alone.
        """
        calls = self.calls() if calls is None else calls
        last: BaseException | None = failed
        cost, refused = 0.0, list[Refusal]()
        retry = self.wired.model.retry
        for attempt in range(1 if failed is None else 2, retry + 1):
            self.counters.retries += attempt > 1
            ctx = self.context(row_id, attempt, calls, rows, refused)
            if key is not None and self.store is not None:
                ctx.make_workdir = functools.partial(self.store.workdir, key)
            try:
                async with self.guarded(ctx):
                    return Outcome("row", await once(ctx), attempts=attempt)
            except KeyboardInterrupt as error:
                raise StageError(self.key, row_id.hex(), "interrupted") from error
            except SystemExit as error:  # a row's doing cannot end the host
                last = RuntimeError(f"the stage raised {error!r}")
            except Exception as error:
                await self.not_cancelled()
                last = unwrap(error, *TELLING)
                if isinstance(last, Reject):
                    return rejected(last, attempt)
                if isinstance(last, (ResourceError, StoreError)):
                    raise last from None  # it concerns every row
                if ctx.scope is not None and ctx.scope.cancelled_caught:
                    last = TimeoutError(f"no result within {self.wired.model.timeout:g} s")
                if getattr(last, "retryable", True) is False and not isinstance(last, BadReply):
                    retry = attempt  # tried again as before, it would fail again
                    break
            finally:
                cost += ctx.cost
                self.counters.sayings.pop(ctx.row_id, None)
        if isinstance(last, BadReply):
            example = "" if last.span is None else str(last.span)[:200]
            return Outcome("reject", {}, last.reason, example, attempts=retry)
        at = raised_at(last, self.func.__module__.partition(".")[0]) if last is not None else ""
        return Outcome("dead", {}, error=last, attempts=retry, cost=cost, at=at)

    async def not_cancelled(self) -> None:
        """Go on with the cancellation that a stage made an error of: it is no result of the row.

        With `on_error: fail` the error is told: no row dies of it.
        """
        if self.wired.model.on_error != "fail":
            await anyio.lowlevel.checkpoint_if_cancelled()

    async def map(self, item: Item, failed: Exception | None = None) -> Outcome:
        """Run a map on one row; `failed` as in `attempts`."""
        row_id, _, fields = item

        async def once(ctx: Context) -> Mapping[str, Any]:
            try:
                read = self.args(fields)
            except KeyError as error:  # open rows: what the first rows had, this one lacks
                raise StageError(
                    self.key, (row_id or b"").hex(), f"the row has no {error}"
                ) from None
            return self.added(await self.func(*read, **await self.keywords(ctx)), fields, fields)

        key = self.row_key(item) if self.recorded else None
        return await self.attempts(row_id or b"", once, key, failed)


def rejected(verdict: Reject, attempts: int = 1) -> Outcome:
    """Turn a Reject into an outcome."""
    example = "" if verdict.span is None else str(verdict.span)[:200]
    return Outcome("reject", {}, verdict.reason, example, attempts=attempts)


def _ancestors(
    wired: WiredStage, pipeline: Pipeline, counters: Mapping[str, Counters]
) -> dict[str, Ancestor]:
    """Return the stages whose rows lead to a stage, in the pipeline's order."""
    leading = needed(pipeline.stages, wired.upstream)
    return {
        key: Ancestor(stage.spec.name, counters[key])
        for key, stage in pipeline.stages.items()
        if key in leading
    }


def _text_fields(wired: WiredStage) -> frozenset[str]:
    """Return the added fields that are declared as Text."""
    if wired.spec.adds is None:
        return frozenset()
    return frozenset(r.name for r in row_fields(wired.spec.adds) if is_text(r.type))
