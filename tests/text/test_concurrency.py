"""Templates filled by many at once: each text knows its own sources, and nobody else's.

All use the same characters, so that only the origin tells one from the other.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import anyio
import pytest
from anyio import to_thread

from engine.text import Template, Text

TASKS, THREADS, TIMES = 1000, 16, 100
LITERALS = "Dear {who}, you are number {number}; yours, {who}"
SHARED = Template(LITERALS, id="shared")
CHAT = Template("## system\nYou serve {who}.\n\n## user\n{who} is {number}.", id="chat")


class Filled(NamedTuple):
    text: Text
    said: str
    template: str
    """Whose literals it has; "" for `Text.format`."""


class Owner(NamedTuple):
    """Whoever fills: a task or a thread. `who` has the same characters for all of them."""

    number: int

    def filled(self) -> Iterator[Filled]:
        """Fill in each way."""
        own = Template(LITERALS, id=f"own-{self.number}")  # parsed once for all of them
        who, n = Text.leaf("Ada", "source:people", params={"line": self.number}), self.number
        said = f"Dear Ada, you are number {n}; yours, Ada"
        yield Filled(SHARED.fill(who=who, number=n), said, "shared")
        yield Filled(own.fill(who=who, number=n), said, own.id)
        (_, system), (_, user) = CHAT.messages(who=who, number=n)
        yield Filled(system, "You serve Ada.", "chat")
        yield Filled(user, f"Ada is {n}.", "chat")
        yield Filled(Text(LITERALS).format(who=who, number=n), said, "")

    def check(self, filled: Filled) -> None:
        """Each span names what this owner gave, and the template that it filled."""
        text = filled.text
        assert text == filled.said
        for span in text.spans():
            phrase, origin = str(text)[span.start : span.stop], span.leaf.origin
            match origin.op if origin else None:
                case "source:people":
                    assert origin is not None
                    assert (phrase, origin.params["line"]) == ("Ada", self.number)
                case "template":
                    assert origin is not None
                    assert origin.params["id"] == filled.template
                case "literal":
                    assert phrase == str(self.number) or filled.template == ""
                case op:
                    assert (op, phrase) == (None, str(self.number))  # `Text.format` made these
        lines = {n.params["line"] for n in text.graph().nodes if n.op == "source:people"}
        assert lines == {self.number}


def in_a_thread(start: anyio.Event, number: int) -> int:
    """Fill many times with the interpreter switching threads as often as it can."""
    anyio.from_thread.run(start.wait)
    owner = Owner(number)
    texts = [filled for _ in range(TIMES) for filled in owner.filled()]
    for filled in texts:
        owner.check(filled)
    return len(texts)


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns every 10 microseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.anyio
@pytest.mark.usefixtures("hasty")
async def test_no_attribution_across_tasks_and_threads() -> None:
    start = anyio.Event()
    kept: dict[int, list[Filled]] = {}
    ready = 0

    async def in_a_task(number: int) -> None:
        nonlocal ready
        ready += 1
        await start.wait()
        texts = kept[number] = []
        for filled in Owner(number).filled():
            texts.append(filled)
            await anyio.lowlevel.checkpoint()  # all others go on between any two of ours

    async def in_threads(number: int) -> None:
        checked = await to_thread.run_sync(
            partial(in_a_thread, start, number), limiter=limiter, abandon_on_cancel=True
        )
        assert checked == 5 * TIMES

    limiter = anyio.CapacityLimiter(THREADS)
    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            for number in range(THREADS):
                tasks.start_soon(in_threads, TASKS + number)
            for number in range(TASKS):
                tasks.start_soon(in_a_task, number)
            while ready < TASKS or limiter.borrowed_tokens < THREADS:
                await anyio.lowlevel.checkpoint()
            start.set()
    assert len(kept) == TASKS
    for number, texts in kept.items():
        assert len(texts) == 5
        for filled in texts:
            Owner(number).check(filled)


def test_the_check_refuses_what_is_another_ones() -> None:
    for filled in Owner(1).filled():
        Owner(1).check(filled)
        with pytest.raises(AssertionError):
            Owner(2).check(filled)
