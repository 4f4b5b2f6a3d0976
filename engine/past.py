"""Runs that have been: found as FILE or FILE@ID, and what their store tells of them."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.errors import InputError
from engine.loader import load
from engine.pipeline import Pipeline, read_pipeline
from engine.services import Counters, Spent
from engine.store.files import owner
from engine.store.protocol import RunRecord
from engine.store.sqlite import ReadOnlyStore, find_runs

__all__ = ["Past", "counters_of", "open_past", "split_run"]


@dataclass(slots=True)
class Past:
    """The store of a pipeline's file, open for reading, while somebody else may be writing."""

    file: str
    store: ReadOnlyStore
    pipeline: Pipeline | None
    """The pipeline as its file is now; None if it cannot be read."""
    problem: str
    """Why it cannot."""
    number: int | None
    """The run that was asked for; None: the newest."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.store.close()

    @property
    def run(self) -> RunRecord:
        """The run that was asked for, or the newest that is no pilot, or else the newest.

        Raises InputError if there is none.
        """
        runs = self.store.runs()
        if not runs:
            raise InputError(f"{self.file} has no runs: `engine run {self.file}` makes one")
        if self.number is None:
            whole = [record for record in runs if record.status != "pilot"]
            return (whole or runs)[-1]
        for record in runs:
            if record.id == self.number:
                return record
        known = f"1 to {runs[-1].id}" if len(runs) == runs[-1].id > 2 else _listed(runs)
        raise InputError(f"{self.file} has no run {self.number} (runs: {known})")

    def status(self, record: RunRecord) -> tuple[str, int | None]:
        """Return how a run stands, and the process that runs it."""
        if record.status != "running":
            return record.status, None
        pid = owner(self.store.folder) if self.store.folder is not None else None
        newest = self.store.runs()[-1].id == record.id
        return ("running", pid) if pid is not None and newest else ("interrupted", None)

    def counts(self, record: RunRecord) -> dict[str, int]:
        """Return how many rows of a run have each fate, from its manifest."""
        counts = {"finished": 0, "rejected": 0, "dead": 0}
        for (fate, _), count in self.store.count_rows(record.id).items():
            counts[fate] += count
        return counts

    def require(self) -> Pipeline:
        """Return the pipeline. Raises InputError where its file cannot be read."""
        if self.pipeline is None:
            raise InputError(self.problem)
        return self.pipeline


def _listed(runs: list[RunRecord]) -> str:
    return ", ".join(str(record.id) for record in runs)


def split_run(run: str) -> tuple[str, int | None]:
    """Return the file and number of `FILE` or `FILE@ID`. Raises InputError for another form."""
    file, at, number = run.rpartition("@")
    if not at or Path(run).exists():
        return run, None
    if not number.isdigit():
        raise InputError(f"{run!r}: a run is FILE or FILE@ID, and ID is a number")
    return file, int(number)


def open_past(run: str) -> Past:
    """Open the store of `FILE` or `FILE@ID`.

    The file's plugins are loaded, for they define the models that rows hold. Raises InputError
    where the file names no pipeline, and StoreError where it has no store, or none to read.
    """
    file, number = split_run(run)
    document = load(file)
    name = document.value.get("name") if isinstance(document.value, dict) else None
    pipeline, problem = None, ""
    with talking():
        try:
            pipeline = read_pipeline(document)
        except InputError as error:
            if not isinstance(name, str):
                raise
            problem = str(error)
    store = find_runs(Path(document.folder) / ".engine" / str(name))
    return Past(file, store, pipeline, problem, number)


@contextlib.contextmanager
def talking() -> Iterator[None]:
    """Send to stderr what a module prints when it is imported: stdout is for data."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def counters_of(summary: Mapping[str, Any]) -> dict[str, Counters]:
    """Return the counters that a run's summary holds; none for a run that was killed."""
    found = {}
    for key, values in summary.get("stages", {}).items():
        known = {name: values[name] for name in Counters.__slots__ if name in values}
        known["models"] = {name: Spent(**spent) for name, spent in values["models"].items()}
        known["reasons"] = Counter(values["reasons"])
        found[key] = Counters(**known)
    return found
