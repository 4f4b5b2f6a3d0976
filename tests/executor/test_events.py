"""Plugins observe a run through `engine_event`: rare events, never one per row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.events import DeadLetter, Event, RunEnded, RunStarted, StageEnded
from engine.pipeline import read_pipeline

pytestmark = pytest.mark.anyio
STAGES = Path(__file__).with_name("stages_kinds.py")


class Observer:
    """A plugin that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    @engine.hookimpl
    def engine_event(self, event: Event) -> None:
        self.heard.append(event)


async def test_an_observer_hears_the_run_its_stages_and_its_dead(
    pipeline: Callable[..., Path],
) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers'}, poison: {use: './stages.py:poison'}}",
        stages=STAGES,
    )
    checked = read_pipeline(path)
    observer = Observer()
    checked.plugins.register("observer", observer)
    summary = await engine.run(checked, store=None)
    kinds: list[Any] = [type(event) for event in observer.heard]
    assert (kinds[0], kinds[-1]) == (RunStarted, RunEnded)
    assert sorted(k.__name__ for k in kinds[1:-1]) == ["DeadLetter", "StageEnded", "StageEnded"]
    (dead,) = [event for event in observer.heard if isinstance(event, DeadLetter)]
    assert (dead.stage, dead.error) == ("poison", "ValueError: poison 5")
    ended = {
        event.stage: event.counters for event in observer.heard if isinstance(event, StageEnded)
    }
    assert ended["poison"].out == summary.finished == 19
    (end,) = [event for event in observer.heard if isinstance(event, RunEnded)]
    assert end.status == "done"
