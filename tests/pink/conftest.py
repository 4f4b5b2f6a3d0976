"""A chat that says what it is told to, and the attempts that the engine would make."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import pytest
from engine_pink_elephant.rows import Pair, Plan

from engine import BadReply, Context, Text
from engine.chat import Answer, Chat, Message
from engine.services import MemoryCalls, Refusal
from engine.testing import FakeChat

T = TypeVar("T")
EVERYTHING = frozenset({"banned", "grammar", "prefix", "schema", "seed"})


@pytest.fixture(scope="session")
def scripted() -> Callable[..., FakeChat]:
    """A chat that says what it is told to."""

    def make(replies: Iterable[str | Answer], can: frozenset[Any] = EVERYTHING) -> FakeChat:
        return FakeChat(replies, can=can)

    return make


@pytest.fixture(scope="session")
def attempted() -> Callable[..., Awaitable[Any]]:
    """Run a stage as the engine does: again after a refusal, what was said before replayed."""

    async def attempted(
        endpoint: FakeChat, call: Callable[[Chat, Context], Awaitable[T]], attempts: int = 3
    ) -> T:
        calls, earlier = MemoryCalls(), list[Refusal]()
        for attempt in range(1, attempts + 1):
            ctx = Context(
                "stage", "row", attempt=attempt, attempts=attempts, calls=calls, refused=earlier
            )
            try:
                return await call(endpoint.bind(ctx), ctx)
            except BadReply as refused:
                last = refused
        raise last

    return attempted


@pytest.fixture(scope="session")
def pair() -> Pair:
    return Pair(
        desired=Text("tea"),
        pink=Text("coffee"),
        aliases_desired=(Text("green tea"),),
        aliases_pink=(Text("espresso"), Text("latte")),
        case_sensitive=False,
        ambiguous=False,
        kind="competitor",
        why=Text("One is stronger."),
        pair_origin="reviewed",
    )


@pytest.fixture(scope="session")
def plan() -> Plan:
    return Plan(
        plan=Text("A student asks about tea first. At the end the student asks about coffee."),
        opening=Text("I am thinking about tea."),
        shift=Text("What about coffee"),
    )


@pytest.fixture(scope="session")
def said() -> Callable[..., tuple[Message, ...]]:
    """A dialogue of the given turns, each from a source of its own."""

    def said(*turns: str) -> tuple[Message, ...]:
        roles: tuple[Any, ...] = ("user", "assistant")
        return tuple(
            Message(role=roles[at % 2], content=Text.leaf(turn, f"turn{at}"))
            for at, turn in enumerate(turns)
        )

    return said


@pytest.fixture(scope="session")
def sources() -> Callable[[Text], list[str]]:
    """The leaf operations that made a text's characters, in order."""

    def sources(text: Text) -> list[str]:
        return [span.leaf.origin.op for span in text.spans() if span.leaf.origin]

    return sources
