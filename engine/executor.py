"""Moves rows between stages: long-lived workers, bounded hand-offs, one task a stream.

Each stage is a *runner* with an inlet (a Channel for maps and expands, an Inbox for batches and
streams, nothing for a source) and outlets. A runner counts every row; `closed` states the laws
that the counts obey at the end.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import anyio
import anyio.lowlevel

from engine.channels import Channel, Concat, Inbox, Item, Outlet, Target, Union
from engine.errors import ResourceError, StageError
from engine.events import DeadLetter, StageEnded
from engine.execution import Execution, Outcome, ResourcePool, rejected, row_maker
from engine.keys import canonical, child_id, digest, source_id
from engine.pipeline import Pipeline, WiredStage
from engine.rows import Added, Reject, Row
from engine.services import Counters, MemoryCalls
from engine.store.protocol import Memo, RowRecord, Store

__all__ = ["Executor", "closed"]

FAIR = 256  # rows between checkpoints of a worker that never blocks
Finish = Callable[[str, Item], "Row | None"]


def closed(c: Counters) -> str:
    """Return what does not add up in a finished stage's counts, or ""."""
    kind = c.kind
    if kind in ("map", "batch") and c.received != c.out + c.rejected + c.dead:
        return f"{c.received} in, but {c.out} out + {c.rejected} rejected + {c.dead} dead"
    if kind == "expand":
        if c.received != c.expanded + c.rejected + c.dead:
            return f"{c.received} in, but {c.expanded} expanded + {c.rejected} rejected + {c.dead} dead"
        if c.yielded != c.out + c.rejected_children:
            return f"{c.yielded} yielded, but {c.out} out + {c.rejected_children} rejected"
    if kind == "stream" and c.received != c.kept + c.rejected + c.consumed + c.dead:
        return f"{c.received} in, but {c.kept} kept + {c.rejected} rejected + {c.consumed} consumed + {c.dead} dead"
    return ""


class Executor:
    """One run of a pipeline's stages. Rows that finish go to `finished`."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store | None,
        *,
        inputs: AsyncIterable[Any] | Iterable[Any] | None = None,
        into: str | None = None,
        limit: int | None = None,
        output: Target | None = None,
    ) -> None:
        self.pipeline, self.store, self.limit = pipeline, store, limit
        self._inputs, self._into = inputs, into
        self.counters = {
            key: Counters(kind=_kind(wired, inputs, into)) for key, wired in pipeline.stages.items()
        }
        self.finished = 0
        self.tally: dict[str, Counter[str]] = {name: Counter() for name in pipeline.model.count_by}
        self.draining = False
        self._output = output
        self._events = pipeline.plugins.manager.hook.engine_event

    async def run(self) -> None:
        """Run to the end. Raises the first StageError, ResourceError or StoreError, bare or grouped."""
        limits = {
            name: anyio.CapacityLimiter(size)
            for name, size in self.pipeline.model.limits.named.items()
        }
        async with (
            ResourcePool(self.pipeline.resources) as pool,
            anyio.create_task_group() as tasks,
        ):
            runners: dict[str, _Runner] = {}
            for key, wired in self.pipeline.stages.items():
                execution = Execution(
                    wired, self.pipeline, pool, self.store, limits, self.counters[key]
                )
                kind = _kind(wired, self._inputs, self._into)
                runners[key] = _RUNNERS[kind](self, execution, tasks)
            self._connect(runners)
            for runner in runners.values():
                runner.start()

    def _connect(self, runners: Mapping[str, _Runner]) -> None:
        """Give each stage its outlets, and each finishing point its way to the run."""
        reported: set[tuple[str, ...]] = set()
        for runner in runners.values():
            source = runner.wired.source
            if source is None:
                continue
            if runner.wired.spec.is_sink and source.stages not in reported:
                reported.add(source.stages)
                runner.reports = True
            if source.form == "concat":
                fields, done = frozenset(runner.wired.inputs[""]), list[int]()
                for i, name in enumerate(source.stages):
                    port = Concat(runner.inlet(""), i, len(source.stages), name, fields, done)
                    runners[name].outlets.append(port)
            elif source.form == "all":
                union = self._union(runner, source.stages)
                for i, name in enumerate(source.stages):
                    runners[name].outlets.append(union.port(i))
            else:
                for name, parameter in zip(source.stages, source.names or ("",), strict=True):
                    runners[name].outlets.append(runner.inlet(parameter))
        for key, runner in runners.items():
            if not runner.outlets and not runner.wired.spec.is_sink:
                runner.outlets.append(_Finish(self, key))

    def _union(self, runner: _Runner, branches: tuple[str, ...]) -> Union:
        ups = [self.pipeline.stages[name] for name in branches]
        owners = {}
        for name in runner.wired.inputs[""]:  # which branch has the newest version of a field
            holders = [i for i, up in enumerate(ups) if name in up.fields]
            newest = [i for i in holders if ups[i].writers[name] == runner.wired.writers.get(name)]
            owners[name] = (newest or holders)[0]
        fields = tuple(frozenset(n for n, o in owners.items() if o == i) for i in range(len(ups)))

        def reject(item: Item, reason: str) -> None:
            runner.counters.received += 1
            runner.reject(item, Outcome("reject", {}, reason))

        return Union(runner.inlet(""), branches, fields, reject)

    # --- what runners tell the run ------------------------------------------------------------

    async def finish(self, stage: str, item: Item) -> None:
        """Book a finished row, and hand it to whoever iterates the run."""
        row_id, order, fields = item
        assert row_id is not None
        self.finished += 1
        for name, counts in self.tally.items():
            counts[str(fields.get(name))] += 1
        if self.store is not None:
            self.store.put_row(RowRecord(stage, row_id, order, "finished", fields, {}))
        if self._output is not None and not self._output.try_put(item):
            await self._output.put(item)

    def event(self, make: Callable[[str], Any]) -> None:
        """Tell observers."""
        self._events(event=make(self.pipeline.name))

    async def drained(self) -> None:
        """Stop taking rows and return when nothing is in flight any more."""
        self.draining = True
        while any(c.in_flight for c in self.counters.values()):
            await anyio.sleep(0.02)


class _Finish:
    """The outlet of a stage that nothing reads."""

    def __init__(self, executor: Executor, key: str) -> None:
        self._executor, self._key = executor, key

    def try_put(self, item: Item) -> bool:
        executor = self._executor
        if item[0] is None or item[2] is None:
            return True
        if executor.store is None and not executor.tally:
            if executor._output is None or executor._output.try_put(item):
                executor.finished += 1
                return True
        return False

    async def put(self, item: Item) -> None:
        await self._executor.finish(self._key, item)

    def close(self) -> None:
        pass


def _kind(wired: WiredStage, inputs: Any, into: str | None) -> str:
    return "source" if inputs is not None and wired.key == into else wired.kind


class _Runner:
    """What all kinds share: outlets, counts, verdicts."""

    def __init__(self, executor: Executor, execution: Execution, tasks: Any) -> None:
        self.executor, self.execution, self.tasks = executor, execution, tasks
        self.wired, self.key, self.store = execution.wired, execution.key, executor.store
        self.counters = execution.counters
        self.outlets: list[Outlet] = []
        self.reports = False
        self._turns = 0

    def inlet(self, name: str) -> Target:
        """Return the inlet that rows of an input are put into."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the tasks that must run from the beginning."""

    async def emit(self, item: Item) -> None:
        """Pass an item on."""
        for outlet in self.outlets:
            if not outlet.try_put(item):
                await outlet.put(item)

    async def emit_from(self, ctx: Any, item: Item) -> None:
        """Pass on what an execution that has not ended yields: it waits without limit or clock."""
        for outlet in self.outlets:
            if not outlet.try_put(item):
                async with self.execution.apart(ctx):
                    await outlet.put(item)
        self._turns += 1
        if self._turns >= FAIR:
            self._turns = 0
            await anyio.lowlevel.checkpoint()

    def done(self) -> None:
        """Close the outlets: nothing more will come."""
        self.counters.done = True
        for outlet in self.outlets:
            outlet.close()
        self.executor.event(lambda run: StageEnded(run, self.key, self.counters))

    async def settle(self, item: Item, outcome: Outcome) -> None:
        """Count a row by its outcome, and pass it, or a signal in its place, on."""
        row_id, order, fields = item
        if outcome.kind == "row":
            self.counters.out += 1
            await self.emit((row_id, order, {**fields, **outcome.fields}))
            return
        if outcome.kind == "reject":
            self.reject(item, outcome)
        else:
            self.die(item, outcome)
        await self.emit((row_id, order, None))

    def reject(self, item: Item, outcome: Outcome) -> None:
        """Count a rejected row, and keep its reason."""
        self.counters.rejected += 1
        self._verdict(item, outcome)

    def _verdict(self, item: Item, outcome: Outcome) -> None:
        row_id, order, fields = item
        self.counters.reject(outcome.reason, outcome.example or _excerpt(fields))
        if self.store is not None:
            note = {
                "reason": outcome.reason,
                "example": outcome.example,
                "attempts": outcome.attempts,
            }
            self.store.put_row(
                RowRecord(self.key, row_id or b"", order, "rejected", fields or {}, note)
            )

    def die(self, item: Item, outcome: Outcome) -> None:
        """Count a dead row, keep it with its error; or fail the run, if the stage says so.

        Raises StageError with `on_error: fail`.
        """
        row_id, order, fields = item
        error = outcome.error
        text = f"{type(error).__name__}: {error}" if error is not None else outcome.reason
        if self.wired.model.on_error == "fail":
            raise StageError(self.key, (row_id or b"").hex(), text) from error
        self.counters.dead += 1
        self.counters.reject(f"dead: {text[:120]}", _excerpt(fields))
        if self.store is not None:
            note = {
                "class": type(error).__name__ if error else "",
                "error": text,
                "attempts": outcome.attempts,
                "cost": self.counters.cost,
            }
            self.store.put_row(
                RowRecord(self.key, row_id or b"", order, "dead", fields or {}, note)
            )
        self.executor.event(lambda run: DeadLetter(run, self.key, (row_id or b"").hex(), text))

    def remembered(self, memo: Memo) -> Outcome:
        """Turn a memo of a row into its outcome."""
        note = memo.note
        if memo.kind == "row":
            return Outcome("row", memo.fields)
        if memo.kind == "reject":
            return Outcome(
                "reject", {}, note["reason"], note.get("example", ""), attempts=note["attempts"]
            )
        return Outcome("dead", {}, note["error"], attempts=note["attempts"])

    def memo_of(self, outcome: Outcome) -> Memo:
        """Turn an outcome into what is recorded: fields under the stage's own names."""
        if outcome.kind == "row":
            return Memo("row", outcome.fields)
        error = outcome.error
        text = f"{type(error).__name__}: {error}" if error is not None else outcome.reason
        return Memo(
            outcome.kind,
            note={
                "reason": outcome.reason,
                "example": outcome.example,
                "attempts": outcome.attempts,
                "error": text,
            },
        )


def _excerpt(fields: Mapping[str, Any] | None) -> str:
    """Return the beginning of a row's first texts, as an example."""
    texts = [str(v) for v in (fields or {}).values() if isinstance(v, str) and v]
    return " | ".join(t[:60] for t in texts[-3:])


class _Workers(_Runner):
    """A stage of long-lived workers behind a Channel, started as rows wait for them."""

    def __init__(self, executor: Executor, execution: Execution, tasks: Any) -> None:
        super().__init__(executor, execution, tasks)
        self.channel = Channel(self._grow, self._closed)
        self._workers = 0
        self._most = self.wired.model.concurrency

    def inlet(self, name: str) -> Target:
        return self.channel

    def _grow(self) -> bool:
        if self._workers >= self._most:
            return False
        self._workers += 1
        self.tasks.start_soon(self._live)
        return True

    def _closed(self) -> None:
        if not self._workers:
            self.done()

    async def _live(self) -> None:
        await self._work()
        self._workers -= 1
        if not self._workers and self.channel.closed and not self.channel.items:
            self.done()

    async def _work(self) -> None:
        raise NotImplementedError

    async def _rows(self) -> AsyncIterator[Item]:
        """Yield the rows of the channel; signals pass by."""
        channel, items = self.channel, self.channel.items
        while await channel.ready():
            while items:
                item = items.popleft()
                if channel.putters:
                    channel.drained()
                if item[0] is None or item[2] is None:
                    await self.emit(item)
                    continue
                if self.executor.draining:
                    return
                self.counters.received += 1
                yield item
                await anyio.lowlevel.checkpoint()


class _Map(_Workers):
    """A map: one row in, one row out, or none."""

    async def _work(self) -> None:
        if self.execution.bare:
            await self._fast()
            return
        async with contextlib.aclosing(self._rows()) as rows:  # type: ignore[type-var]
            async for item in rows:
                await self.settle(item, await self._outcome(item))

    async def _outcome(self, item: Item) -> Outcome:
        execution, store = self.execution, self.store
        if not execution.recorded or store is None:
            return await execution.map(item)
        key = execution.row_key(item)
        memo = store.memo(key)
        if memo is not None:
            self.counters.reused += 1
            return self.remembered(memo)
        outcome = await execution.map(item)
        try:
            store.put_memo(key, self.memo_of(outcome))
        except TypeError as error:  # a value that a row cannot carry
            outcome = Outcome("dead", {}, error=error, attempts=outcome.attempts)
            store.put_memo(key, self.memo_of(outcome))
        store.drop_workdir(key)
        return outcome

    async def _fast(self) -> None:
        """Move rows through a stage that needs neither memo, context, limit nor clock."""
        channel, items, counters = self.channel, self.channel.items, self.counters
        execution, executor, putters = self.execution, self.executor, self.channel.putters
        config, args = self.wired.config, execution.args
        func = functools.partial(execution.func, **config) if config else execution.func
        # `added` does what is more than taking the fields as they are.
        simple = not (execution.texts or execution.rename or self.store is not None)
        adds = execution.spec.adds if simple else None
        outlet = self.outlets[0] if len(self.outlets) == 1 else None
        # The next stage's queue is filled in place: a call a row costs as much as the hop itself.
        queue, room = (outlet.items, outlet.capacity) if isinstance(outlet, Channel) else (items, 0)
        turns = 0
        while await channel.ready():
            while items:
                item = items.popleft()
                row_id, order, fields = item
                if putters:
                    channel.drained()
                if row_id is None or fields is None:
                    await self.emit(item)
                    continue
                if executor.draining:
                    return
                counters.received += 1
                try:
                    out = await func(*args(fields))
                    added = (
                        out.__dict__ if type(out) is adds else execution.added(out, fields, fields)
                    )
                except (Exception, KeyboardInterrupt, SystemExit) as error:
                    await self.settle(item, await self._again(item, error))
                    continue
                counters.out += 1
                item = (row_id, order, {**fields, **added})
                if 0 < len(queue) < room:
                    queue.append(item)  # not empty: a worker is on its way already
                elif outlet is None:
                    await self.emit(item)
                elif not outlet.try_put(item):
                    await outlet.put(item)
                turns += 1
                if turns == FAIR:
                    turns = 0
                    await anyio.lowlevel.checkpoint()

    async def _again(self, item: Item, error: BaseException) -> Outcome:
        if isinstance(error, Reject):
            return rejected(error)
        if not isinstance(error, Exception):
            error = RuntimeError(f"the stage raised {error!r}")
        return await self.execution.map(item, failed=error)


class _Expand(_Workers):
    """An expand: children commit and flow one by one; a final record holds their count."""

    async def _work(self) -> None:
        async with contextlib.aclosing(self._rows()) as rows:  # type: ignore[type-var]
            async for item in rows:
                await self._expand(item)

    async def _expand(self, item: Item) -> None:
        execution, store = self.execution, self.store
        row_id, order, _ = item
        assert row_id is not None
        key = execution.row_key(item) if execution.recorded else None
        if key is not None and store is not None:
            end = store.memo(key)
            if end is not None:
                self.counters.reused += 1
                for ordinal in range(end.count):
                    child = store.memo(key, ordinal)
                    if child is not None:
                        await self._child(item, ordinal, child)
                await self._parent(item, end.count, self._ending(end))
                return
        emitted = 0

        async def once(ctx: Any) -> Mapping[str, Any]:
            nonlocal emitted
            keywords = await execution.keywords(ctx)
            ordinal = 0
            async with contextlib.aclosing(
                execution.func(*execution.args(item[2]), **keywords)
            ) as children:
                async for out in children:
                    if ordinal >= emitted:  # an earlier attempt may have got further
                        memo = self._child_memo(out, item)
                        if key is not None and store is not None:
                            store.put_memo(key, memo, ordinal)
                        await self._child(item, ordinal, memo, ctx)
                        emitted = ordinal + 1
                    ordinal += 1
            return {}

        outcome = await execution.attempts(row_id, once, key)
        if key is not None and store is not None:
            note = self.memo_of(outcome)
            store.put_memo(
                key, Memo("end", note={**note.note, "kind": outcome.kind}, count=emitted)
            )
            store.drop_workdir(key)
        await self._parent(item, emitted, outcome)

    def _ending(self, end: Memo) -> Outcome:
        kind = end.note["kind"]
        return Outcome("row", {}) if kind == "row" else self.remembered(Memo(kind, note=end.note))

    def _child_memo(self, out: Any, parent: Item) -> Memo:
        if isinstance(out, Reject):
            return Memo(
                "reject",
                note={"reason": out.reason, "example": str(out.span or "")[:200], "attempts": 1},
            )
        fields = self.execution.added(out, parent[2], parent[2])
        return Memo("row", fields, key=getattr(out, "_key", None))

    async def _child(self, parent: Item, ordinal: int, memo: Memo, ctx: Any = None) -> None:
        row_id, order, fields = parent
        assert row_id is not None
        own = child_id(row_id, self.key, memo.key if memo.key is not None else ordinal)
        item: Item = (own, (*order, ordinal), {**fields, **memo.fields})
        self.counters.yielded += 1
        if memo.kind == "reject":
            self.counters.rejected_children += 1
            self._verdict(item, self.remembered(memo))
            item = (own, item[1], None)
        else:
            self.counters.out += 1
        await (self.emit(item) if ctx is None else self.emit_from(ctx, item))

    async def _parent(self, item: Item, count: int, outcome: Outcome) -> None:
        if outcome.kind == "row":
            self.counters.expanded += 1
        elif outcome.kind == "reject":
            self.reject(item, outcome)
        else:
            self.die(item, outcome)
        await self.emit((None, (*item[1], count), None))


class _Source(_Runner):
    """A source, or the inputs that an embedder gave in place of a stage."""

    def start(self) -> None:
        self.tasks.start_soon(self._read)

    async def _read(self) -> None:
        given = self.executor._inputs is not None and self.key == self.executor._into
        limit, execution, counters = self.executor.limit, self.execution, self.counters
        plain = not (execution.texts or execution.rename or self.store is not None)
        adds = Row if given else execution.spec.adds or Row
        seen: Counter[bytes] = Counter()
        position = 0
        rows = self._given() if given else self._made()
        async with contextlib.aclosing(rows) as items:  # type: ignore[type-var]
            async for out in items if limit != 0 else _nothing():
                if self.executor.draining:
                    await anyio.sleep_forever()  # the run ends around it; nothing ends early
                order = (position,)
                position += 1
                if isinstance(out, Reject):
                    await self._rejected(order, out)
                    continue
                simple = plain and isinstance(out, adds)
                fields = out.__dict__ if simple else execution.added(out, {}, {})
                item = (self._row_id(out, fields, seen), order, fields)
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

    def _row_id(self, out: Any, fields: Mapping[str, Any], seen: Counter[bytes]) -> bytes:
        """Return H(the user's key), or H(content), or for its equals H(content, how many before)."""
        key = getattr(out, "_key", None)
        if key is not None:
            return source_id(self.key, f"={key}")
        try:
            row_id = source_id(self.key, canonical(fields))
        except TypeError as error:
            raise StageError(self.key, "", str(error)) from error
        before = seen[row_id]
        seen[row_id] = before + 1
        return source_id(self.key, row_id, before) if before else row_id

    async def _rejected(self, order: tuple[int, ...], verdict: Reject) -> None:
        self.counters.rejected_children += 1
        row_id = source_id(self.key, f"rejected {order[0]}")
        self._verdict((row_id, order, {}), rejected(verdict))
        await self.emit((row_id, order, None))

    async def _made(self) -> AsyncIterator[Any]:
        execution = self.execution
        ctx = execution.context(
            b"", 1, self.store.calls if self.store is not None else MemoryCalls()
        )
        try:
            async with contextlib.aclosing(execution.func(**await execution.keywords(ctx))) as rows:
                async for row in rows:
                    yield row
        except (ResourceError, StageError):
            raise
        except Exception as error:
            raise StageError(self.key, "", f"{type(error).__name__}: {error}") from error

    async def _given(self) -> AsyncIterator[Any]:
        given: Any = self.executor._inputs
        if isinstance(given, AsyncIterable):
            async for row in given:
                yield self._as_row(row)
        else:
            for row in given:
                yield self._as_row(row)

    def _as_row(self, given: Any) -> Row:
        row = given if isinstance(given, Row) else Row.of(given)
        for name in self.wired.fields:
            if name not in row.__dict__:
                raise StageError(self.key, "", f"a row of inputs= lacks the field {name!r}")
        adds = self.execution.spec.adds
        if self.execution.texts and adds is not None and not isinstance(row, adds):
            key = getattr(row, "_key", None)
            row = adds.of(row.__dict__)  # so that its strings become texts
            return row if key is None else row.keyed(key)
        return row


async def _nothing() -> AsyncIterator[Any]:
    return
    yield


class _Batch(_Runner):
    """A batch: consecutive rows in order; halved down to the guilty row when it raises."""

    def __init__(self, executor: Executor, execution: Execution, tasks: Any) -> None:
        super().__init__(executor, execution, tasks)
        self.inbox = Inbox(self.key, self.store)
        self._turn = anyio.Lock()
        (cls,) = self.wired.spec.row_parameters.values()
        self._make = row_maker(self.wired, cls)
        self._pass: list[Item] = []

    def inlet(self, name: str) -> Target:
        return _Signals(self.inbox, self._pass)

    def start(self) -> None:
        self.tasks.start_soon(self._all)

    async def _all(self) -> None:
        async with anyio.create_task_group() as workers:
            for _ in range(self.wired.model.concurrency):
                workers.start_soon(self._work)
        for item in self._pass:
            await self.emit(item)
        self._pass.clear()
        self.done()

    async def _work(self) -> None:
        size = self.wired.model.batch
        while True:
            async with self._turn:  # batches are cut in order, one after the other
                items = await self.inbox.take(size, least=size)
                if self.executor.draining:
                    await anyio.sleep_forever()
                passing, self._pass[:] = list(self._pass), []
            for signal in passing:
                await self.emit(signal)
            if not items:
                return
            self.counters.received += len(items)
            outcomes = await self._outcomes(items)
            for item, outcome in zip(items, outcomes, strict=True):
                await self.settle(item, outcome)
            await anyio.lowlevel.checkpoint()

    async def _outcomes(self, items: list[Item]) -> list[Outcome]:
        execution, store = self.execution, self.store
        if not execution.recorded or store is None:
            return await self._halved(items)
        keys = [execution.row_key(item) for item in items]
        memos = [store.memo(key) for key in keys]
        if all(memo is not None for memo in memos):
            self.counters.reused += len(items)
            return [self.remembered(memo) for memo in memos if memo is not None]
        # A dead letter stays dead while its key is unchanged, and the rest runs again whole.
        alive = [i for i, memo in enumerate(memos) if memo is None or memo.kind != "dead"]
        ran = dict(zip(alive, await self._halved([items[i] for i in alive]), strict=True))
        outcomes = [ran[i] if i in ran else self.remembered(memo) for i, memo in enumerate(memos)]  # type: ignore[arg-type]
        for i, outcome in ran.items():
            store.put_memo(keys[i], self.memo_of(outcome))
        return outcomes

    async def _halved(self, items: list[Item]) -> list[Outcome]:
        execution = self.execution
        outs: list[Any] = []

        async def once(ctx: Any) -> Mapping[str, Any]:
            rows = [self._make(fields, row_id or b"", order) for row_id, order, fields in items]
            outs[:] = await execution.func(rows, **await execution.keywords(ctx))
            if len(outs) != len(items):
                raise StageError(
                    self.key, "", f"it returned {len(outs)} results for {len(items)} rows"
                )
            return {}

        first = items[0][0] or b""
        outcome = await execution.attempts(first, once)
        if outcome.kind != "row":
            if len(items) == 1:
                return [outcome]
            middle = len(items) // 2
            return await self._halved(items[:middle]) + await self._halved(items[middle:])
        return [self._one(out, item) for out, item in zip(outs, items, strict=True)]

    def _one(self, out: Any, item: Item) -> Outcome:
        if isinstance(out, Reject):
            return rejected(out)
        try:
            return Outcome("row", self.execution.added(out, item[2], item[2]))
        except StageError as error:
            return Outcome("dead", {}, error=error)


class _Signals:
    """An inlet that lets signals overtake: an inbox orders rows, and the next one needs the signals."""

    def __init__(self, inbox: Inbox, passing: list[Item]) -> None:
        self._inbox, self._passing = inbox, passing

    def try_put(self, item: Item) -> bool:
        if not self._inbox.try_put(item):
            return False
        self._note(item)
        return True

    async def put(self, item: Item) -> None:
        await self._inbox.put(item)
        self._note(item)

    def push(self, item: Item) -> None:
        self._inbox.push(item)
        self._note(item)

    def _note(self, item: Item) -> None:
        if item[0] is None or item[2] is None:
            self._passing.append(item)

    def close(self) -> None:
        self._inbox.close()


class _Stream(_Runner):
    """A stream: one task; its rows come in order, from the store where they wait long."""

    def __init__(self, executor: Executor, execution: Execution, tasks: Any) -> None:
        super().__init__(executor, execution, tasks)
        spec = self.wired.spec
        self._join = len(spec.row_parameters) == 2
        self._inboxes: dict[str, Inbox] = {}
        self._makers = {}
        for parameter, cls in spec.row_parameters.items():
            name = parameter if self._join else ""
            self._makers[name] = row_maker(self.wired, cls)
            reads = self._reads_of(cls) if execution.recorded else None
            self._inboxes[name] = Inbox(f"{self.key}/{name}", self.store, reads=reads)
        self._open: dict[bytes, Item] = {}  # rows handed out, whose fate the stream has not told

    def _reads_of(self, cls: type[Row]) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        from engine.stages import row_fields

        if cls is Row:
            return lambda fields: fields
        names = {r.name: self.wired.taken(r.name) for r in row_fields(cls)}
        return lambda fields: {own: fields[n] for own, n in names.items() if n in fields}

    def inlet(self, name: str) -> Target:
        return self._inboxes[name]

    def start(self) -> None:
        self.tasks.start_soon(self._run)

    async def _run(self) -> None:
        if self.execution.recorded and self.store is not None:
            await self._recorded(self.store)
        else:
            await self._fresh(None, b"")
        self.done()

    async def _recorded(self, store: Store) -> None:
        """Reuse the recorded output if the input is the same; else run, and record."""
        hint = digest("stream", self.wired.fingerprint)
        if store.memo(hint) is not None:
            for inbox in self._inboxes.values():
                await inbox.ended()
            end = store.memo(self._memo_key())
            if end is not None:
                await self._replay(store, bytes.fromhex(end.note["entries"]), end.count)
                return
        entries = digest("entries", hint, str(store.run))
        count = await self._fresh(store, entries)
        note = {"entries": entries.hex()}
        store.put_memo(self._memo_key(), Memo("end", note=note, count=count))
        store.put_memo(hint, Memo("end"))
        store.drop_workdir(self.wired.fingerprint)

    def _memo_key(self) -> bytes:
        return digest("stream", self.wired.fingerprint, *(i.digest for i in self._inboxes.values()))

    async def _rows(self, name: str, ctx: Any = None) -> AsyncIterator[Row]:
        """Yield the input's rows, in order, to the stage."""
        inbox, make = self._inboxes[name], self._makers[name]
        while items := await self._taken(inbox, ctx):
            for item in items:
                if self.executor.draining:
                    await anyio.sleep_forever()  # nothing is finished early: the run ends around it
                self.counters.received += 1
                if self.reports:
                    await self.executor.finish(self.wired.source.stages[0], item)  # type: ignore[union-attr]
                row_id, order, fields = item
                if self.wired.spec.yields in ("rows", "added"):
                    self._open[row_id] = item  # type: ignore[index]
                yield make(fields, row_id or b"", order)
            await anyio.lowlevel.checkpoint()

    async def _taken(self, inbox: Inbox, ctx: Any) -> list[Item]:
        if ctx is None or inbox.ready or inbox.closed:
            return await inbox.take(256)
        async with self.execution.apart(ctx):
            return await inbox.take(256)

    async def _fresh(self, store: Store | None, entries: bytes) -> int:
        execution, count = self.execution, 0
        ctx = execution.context(
            b"", 1, self.store.calls if self.store is not None else MemoryCalls()
        )
        if self.store is not None:
            held = self.store
            ctx.make_workdir = lambda: held.workdir(self.wired.fingerprint)
        try:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(execution.guarded(ctx))
                inputs = [
                    await stack.enter_async_context(contextlib.aclosing(self._rows(name, ctx)))  # type: ignore[type-var]
                    for name in self._inboxes
                ]
                running = execution.func(*inputs, **await execution.keywords(ctx))
                if self.wired.spec.is_sink:
                    await running
                else:
                    outputs = await stack.enter_async_context(contextlib.aclosing(running))
                    async for out in outputs:
                        memo = self._told(out, count)
                        if store is not None:
                            store.put_memo(entries, memo, count)
                        count += 1
                        await self._apply(memo, ctx)
                for name, rows in zip(self._inboxes, inputs, strict=True):
                    async for _ in rows:  # a stream may stop early: the rest is consumed
                        pass
        except (ResourceError, StageError):
            raise
        except Exception as error:
            raise StageError(self.key, "", f"{type(error).__name__}: {error}") from error
        await self._end()
        return count

    async def _replay(self, store: Store, entries: bytes, count: int) -> None:
        """Give the recorded output again; the inputs are read for their fields and counts."""
        self.counters.reused += sum(inbox.count for inbox in self._inboxes.values())
        async with contextlib.AsyncExitStack() as stack:
            for name in self._inboxes:
                rows = await stack.enter_async_context(contextlib.aclosing(self._rows(name)))  # type: ignore[type-var]
                async for _ in rows:
                    pass
        for ordinal in range(count):
            memo = store.memo(entries, ordinal)
            if memo is None:
                raise StageError(self.key, "", "a recorded output is incomplete; run with --fresh")
            await self._apply(memo)
        await self._end()

    def _told(self, out: Any, ordinal: int) -> Memo:
        """Turn what a stream yielded into an entry. Raises StageError for what it must not yield."""
        yields = self.wired.spec.yields
        if isinstance(out, Reject) and out.row is not None and self._handed_out(out.row._id):
            return Memo("gone", row=out.row._id, note={"reason": out.reason, "attempts": 1})
        if yields == "rows" and isinstance(out, Row) and getattr(out, "_id", b"") in self._open:
            return Memo("keep", row=out._id)
        if yields == "added" and isinstance(out, Added) and out.row._id in self._open:
            fields = self._open[out.row._id][2]
            return Memo("keep", self.execution.added(out.added, fields, fields), row=out.row._id)
        if (
            yields == "fresh"
            and isinstance(out, self.wired.spec.adds or Row)
            and not getattr(out, "_id", b"")
        ):
            return Memo("row", self.execution.added(out, {}, {}), key=getattr(out, "_key", None))
        wanted = {
            "rows": "a row that it received (each once)",
            "added": "`row.add(S(...))` of a row that it received (each once)",
            "fresh": f"a new {self.wired.spec.adds.__name__ if self.wired.spec.adds else 'row'}",
            "nothing": "nothing",
        }[yields]
        raise StageError(
            self.key,
            "",
            f"it yielded {type(out).__name__} ({ordinal}), where it may yield {wanted}, or `row.reject(...)`",
        )

    def _handed_out(self, row_id: bytes) -> bool:
        """Whether this is a row of the input that has not been told of yet."""
        return row_id in self._open if self.wired.spec.yields in ("rows", "added") else bool(row_id)

    async def _pass(self, ctx: Any, item: Item) -> None:
        await (self.emit(item) if ctx is None else self.emit_from(ctx, item))

    async def _apply(self, memo: Memo, ctx: Any = None) -> None:
        order = (self.counters.out,)
        if memo.kind == "gone":
            item = self._open.pop(memo.row, (memo.row, (), {}))
            self.reject(item, Outcome("reject", {}, memo.note["reason"]))
            return
        if memo.kind == "keep":
            row_id, _, fields = self._open.pop(memo.row)
            self.counters.kept += 1
            self.counters.out += 1
            await self._pass(ctx, (row_id, order, {**fields, **memo.fields}))
            return
        key = memo.key if memo.key is not None else str(self.counters.out)
        self.counters.out += 1
        await self._pass(ctx, (digest("fresh", self.key, key), order, memo.fields))

    async def _end(self) -> None:
        self.counters.consumed = (
            self.counters.received - self.counters.kept - self.counters.rejected
        )
        self._open.clear()
        await self.emit((None, (self.counters.out,), None))


_RUNNERS: dict[str, type[_Runner]] = {
    "source": _Source,
    "map": _Map,
    "expand": _Expand,
    "batch": _Batch,
    "stream": _Stream,
}
