"""What all runners share: outlets, counts, verdicts, and how results become memos and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import anyio.lowlevel

from engine.channels import Item, Outlet, Target
from engine.errors import StageError, StoreError
from engine.events import DeadLetter, StageEnded
from engine.execution import Execution, Outcome
from engine.runners.given import Given
from engine.store.protocol import Memo, RowRecord, Store

__all__ = ["FAIR", "Control", "Runner", "incomplete"]

FAIR = 256
"""Rows between checkpoints of a runner that never blocks."""


class Control(Protocol):
    """What runners ask of the run that they are part of."""

    store: Store | None
    limit: int | None
    draining: bool

    def given(self, key: str) -> Given | None:
        """Return the rows that an embedder gave in place of a stage's output, if any."""
        ...

    async def finish(self, stage: str, item: Item) -> None:
        """Book a finished row, and hand it to whoever iterates the run."""
        ...

    def event(self, make: Callable[[str], Any]) -> None:
        """Tell observers."""
        ...


class Runner:
    """What all kinds share: outlets, counts, verdicts."""

    def __init__(self, control: Control, execution: Execution, tasks: Any) -> None:
        self.control, self.execution, self.tasks = control, execution, tasks
        self.wired, self.key, self.store = execution.wired, execution.key, control.store
        self.counters = execution.counters
        self.outlets: list[Outlet] = []
        self.reports = False
        self._turns = 0

    def inlet(self, name: str) -> Target:
        """Return the inlet that rows of an input are put into."""
        raise TypeError(f"stage {self.key} reads no rows")

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
        self.control.event(lambda run: StageEnded(run, self.key, self.counters))

    async def settle(self, item: Item, outcome: Outcome) -> None:
        """Count a row by its outcome, and pass it, or a signal in its place, on."""
        await self.emit(self.settled(item, outcome))

    def settled(self, item: Item, outcome: Outcome) -> Item:
        """Count a row by its outcome; return it, or the signal in its place."""
        row_id, order, fields = item
        if outcome.kind == "row":
            self.counters.out += 1
            added = self.execution.renamed(outcome.fields)
            return (row_id, order, {**fields, **added})
        if outcome.kind == "reject":
            self.reject(item, outcome)
        else:
            self.die(item, outcome)
        return (row_id, order, None)

    def reject(self, item: Item, outcome: Outcome) -> None:
        """Count a rejected row, and keep its reason."""
        self.counters.rejected += 1
        self._verdict(item, outcome)

    def _verdict(self, item: Item, outcome: Outcome) -> None:
        row_id, order, fields = item
        self.counters.reject(outcome.reason, outcome.example or excerpt(fields))
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
            said = f"{text} ({outcome.at})" if outcome.at else text
            raise StageError(self.key, (row_id or b"").hex(), said) from error
        self.counters.dead += 1
        example = " | ".join(filter(None, [outcome.at, excerpt(fields)]))
        self.counters.reject(f"dead: {text[:400]}", example)
        if self.store is not None:
            note = {
                "class": type(error).__name__ if error else outcome.example,
                "error": text,
                "at": outcome.at,
                "attempts": outcome.attempts,
                "cost": outcome.cost,
            }
            if outcome.memo:  # by which `redrive` finds what to forget
                note["memo"] = outcome.memo.hex()
            self.store.put_row(
                RowRecord(self.key, row_id or b"", order, "dead", fields or {}, note)
            )
        self.control.event(lambda run: DeadLetter(run, self.key, (row_id or b"").hex(), text))

    def remembered(self, memo: Memo, key: bytes = b"") -> Outcome:
        """Turn a memo of a row, found under `key`, into its outcome."""
        note = memo.note
        if memo.kind == "row":
            return Outcome("row", memo.fields)
        if memo.kind == "reject":
            return Outcome(
                "reject", {}, note["reason"], note.get("example", ""), attempts=note["attempts"]
            )
        return Outcome(
            "dead",
            {},
            note["error"],
            note["class"],
            attempts=note["attempts"],
            cost=note["cost"],
            at=note["at"],
            memo=key,
        )

    def put_memo(self, store: Store, key: bytes, outcome: Outcome) -> Outcome:
        """Record a row's outcome and return it: dead, if it holds what a row cannot carry.

        A death that fails the run is no dead letter: unrecorded, it is tried again.
        """
        if outcome.kind == "dead" and self.wired.model.on_error == "fail":
            return outcome
        try:
            store.put_memo(key, self.memo_of(outcome))
        except TypeError as error:
            dead = Outcome("dead", {}, error=error, attempts=outcome.attempts)
            return self.put_memo(store, key, dead)
        return replace(outcome, memo=key) if outcome.kind == "dead" else outcome

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
                "class": type(error).__name__ if error else outcome.example,
                "cost": outcome.cost,
                "at": outcome.at,
            },
        )


def incomplete(stage: str, row: str, what: str) -> StoreError:
    """Return the error for a sequence in the store, recorded as whole, that lacks an entry."""
    place = f"stage {stage}{f', row {row}' if row else ''}"
    return StoreError(
        f"{place}: a recorded {what} is missing, so the store is damaged: see "
        "`engine store check FILE`, or run with --fresh"
    )


def excerpt(fields: Mapping[str, Any] | None) -> str:
    """Return the beginning of a row's first texts, as an example."""
    texts = [str(v) for v in (fields or {}).values() if isinstance(v, str) and v]
    return " | ".join(t[:60] for t in texts[-3:])
