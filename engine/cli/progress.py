"""Live progress: a table on a terminal, plain lines elsewhere; pulled from counters."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from engine.cli import visible
from engine.views import STAGE_COLUMNS, clock, spent_line

if TYPE_CHECKING:
    from engine.runs import Run

__all__ = ["Progress"]

LIVE_SECONDS, PLAIN_SECONDS = 0.25, 10.0
SAID_SECONDS = 30.0
"""How long plain lines do not say again what stages say of their work."""


class Progress:
    """Shows a run's counters on stderr until its block ends."""

    def __init__(self, run: Run, *, quiet: bool = False) -> None:
        self._run = run
        self._mode = "quiet" if quiet else "live" if sys.stderr.isatty() else "plain"
        self._view: Any = None
        self._started = time.monotonic()
        self._said = -SAID_SECONDS

    def __enter__(self) -> Self:
        if self._mode == "live":
            from rich.console import Console
            from rich.live import Live

            self._view = Live(
                console=Console(stderr=True),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
            )
            self._view.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._view is not None:
            self._view.__exit__(exc_type, exc, traceback)
            self._view = None

    async def live(self) -> None:
        """Refresh until cancelled."""
        import anyio

        if self._mode == "quiet":
            return
        while True:
            await anyio.sleep(LIVE_SECONDS if self._mode == "live" else PLAIN_SECONDS)
            if self._mode == "live" and self._view is not None:
                self._view.update(self._table(), refresh=True)
            elif self._mode == "plain":
                click.echo("\n".join([self._line(), *self._sayings_now_and_then()]), err=True)

    def say(self, message: str) -> None:
        """Print a line above the table."""
        if self._view is None:
            click.echo(message, err=True)
        else:
            self._view.console.print(message, markup=False, highlight=False)

    def _table(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        from engine.cli.summary import plain_table, spent_table

        counters = self._run.counters
        table = plain_table("stage", *STAGE_COLUMNS, "running", "rows/s", "left")
        for key, row in self._rows():
            table.add_row(key, *row)
        seconds = time.monotonic() - self._started
        told = f"{self._run.pipeline.name}: {self._run.finished} finished, {clock(seconds)}"
        spent = spent_line(counters)
        parts: list[Any] = [
            table,
            *(Text(line, no_wrap=True, overflow="ellipsis") for line in self._sayings()),
        ]
        parts += [spent_table(counters)] if spent else []
        return Group(*parts, Text(f"{told}; {spent}" if spent else told, "dim"))

    def _rows(self) -> list[tuple[str, list[str]]]:
        seconds = max(time.monotonic() - self._started, 1e-6)
        rows = []
        for key, c in self._run.counters.items():
            wired = self._run.pipeline.stages[key]
            settled = c.out if wired.kind == "source" else c.received - c.in_flight
            rate = settled / seconds
            left = "done" if c.done else self._left(key, rate)
            mark = "✓" if c.done else "·"
            received = "" if wired.kind == "source" else str(c.received)
            out = "" if wired.spec.is_sink else str(c.out)
            rejected = c.rejected + c.rejected_children
            rows.append(
                (
                    f"{mark} {key}",
                    [
                        received,
                        out,
                        str(rejected or ""),
                        str(c.dead or ""),
                        str(c.reused or ""),
                        str(c.in_flight or ""),
                        f"{rate:.1f}" if rate < 100 else f"{rate:.0f}",
                        left,
                    ],
                )
            )
        return rows

    def _left(self, key: str, rate: float) -> str:
        """Return the time that the rows made so far still need, once no more can come."""
        wired = self._run.pipeline.stages[key]
        ups = [self._run.counters[name] for name in (wired.source.stages if wired.source else ())]
        if not ups or not all(up.done for up in ups) or rate <= 0:
            return "…"
        waiting = sum(up.out for up in ups) - self._run.counters[key].received
        return clock((waiting + self._run.counters[key].in_flight) / rate)

    def _sayings(self) -> list[str]:
        """Return what stages say of the rows in hand: the newest of each, and how many speak."""
        return [
            f"  {key}: {visible(c.saying)}"
            + (f" (the newest of {len(c.sayings)})" if len(c.sayings) > 1 else "")
            for key, c in self._run.counters.items()
            if c.saying
        ]

    def _sayings_now_and_then(self) -> list[str]:
        """Return the same for plain lines, or nothing where that was printed a moment ago."""
        now = time.monotonic()
        said = self._sayings() if now - self._said >= SAID_SECONDS else []
        self._said = now if said else self._said
        return said

    def _line(self) -> str:
        parts = []
        for key, c in self._run.counters.items():
            rejected = c.rejected + c.rejected_children
            part = f"{key} {c.out or c.received}"
            part += f" (-{rejected})" if rejected else ""
            part += f" (dead {c.dead})" if c.dead else ""
            parts.append(part + (" done" if c.done else ""))
        spent = spent_line(self._run.counters)
        told = f"[{clock(time.monotonic() - self._started)}] " + ", ".join(parts)
        return f"{told}; {spent}" if spent else told
