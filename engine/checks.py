"""What a pipeline must hold beyond its wiring: counted fields, prices, one writer a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from engine.errors import nearest
from engine.loader import Document
from engine.resources import Resource
from engine.settings import is_output, is_read, map_paths
from engine.shape import PipelineModel
from engine.wiring import WiredStage

__all__ = ["check_counted", "check_priced", "check_written", "listed", "unread"]


def unread(stages: Mapping[str, WiredStage]) -> list[str]:
    """Return the stages that no other reads."""
    read = {name for wired in stages.values() for name in wired.upstream}
    return [key for key in stages if key not in read]


def check_counted(
    document: Document, model: PipelineModel, stages: Mapping[str, WiredStage]
) -> None:
    """Refuse to count a field that no finished row can have."""
    last = [stages[key] for key in unread(stages)]
    ends = [w for w in last if not w.spec.is_sink]
    ends += [stages[name] for w in last if w.spec.is_sink for name in w.upstream]
    known = list(dict.fromkeys(name for wired in ends for name in wired.fields))
    for i, name in enumerate(model.count_by):
        if name not in known and all(wired.fields for wired in ends):
            raise document.at("count_by", i).error(
                f"no finished row has the field {name!r}"
                + nearest(name, known, say="; did you mean {!r}?")
                + f" (they have: {listed(known)})"
            )


def check_priced(document: Document, model: PipelineModel, given: Mapping[str, Resource]) -> None:
    """Refuse a bound on the cost where nothing says what a call costs."""
    priced = any("prices" in m.with_ for key, m in model.resources.items() if key not in given)
    if model.max_cost is not None and not priced and not given:
        raise document.at("max_cost").error(
            "no resource has `prices`, so that all calls would cost nothing: give some under the "
            "`with:` of an openai.chat, or leave `max_cost` out"
        )


def check_written(stages: Iterable[WiredStage]) -> None:
    """Refuse two stages that write one file, and a stage that writes what another reads."""
    stages = list(stages)
    readers = [(path, wired) for wired in stages for _, path in _paths(wired, is_read)]
    writers: list[tuple[Path, WiredStage]] = []
    for wired in stages:
        for name, path in _paths(wired, is_output):
            reader = next((other for read, other in readers if _meet(read, path)), None)
            writer = next((w for p, w in writers if w is not wired and _meet(p, path)), None)
            if other := reader or writer:
                verb = "reads" if reader else "writes"
                raise (wired.place / "with" / name).error(
                    f"{wired.label}, {name}: {other.label} {verb} this file, too: write another"
                )
            writers.append((path, wired))


def _meet(one: Path, written: Path) -> bool:
    """Return whether a file, folder or glob holds what is written, or lies in it.

    Else the next run would read what this one wrote, or a folder take the place of another's file.
    """
    pattern = str(one).replace("**/", "*")  # fnmatch's star crosses folders
    named = fnmatch(str(written), pattern) if "**" in str(one) else written.match(str(one))
    return one == written or named or one in written.parents or written in one.parents


def _paths(wired: WiredStage, wanted: Callable[[Any], bool]) -> list[tuple[str, Path]]:
    """Return the (parameter, path) pairs of a stage whose hint is of the wanted sort."""
    found: list[tuple[str, Path]] = []
    for name, (hint, _) in wired.spec.config.items():

        def note(part: Any, path: Path, name: str = name) -> Path:
            if wanted(part):
                found.append((name, Path(os.path.normpath(path))))
            return path

        map_paths(hint, wired.config[name], note)
    return found


def listed(names: Iterable[str]) -> str:
    """Return names as a message lists them."""
    return ", ".join(names) or "none"
