"""A chat that says what it is told to, and the attempts that the engine would make."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import pytest
from engine_pink_elephant.rows import Pair, Plan

from engine import BadReply, Context, Text
from engine.chat import Answer, Chat, Endpoint, Request
from engine.chat.limiter import Limiter
from engine.services import MemoryCalls

T = TypeVar("T")
EVERYTHING = frozenset({"banned", "grammar", "prefix", "schema", "seed"})


class Scripted(Endpoint):
    """Answers each call with the next reply; keeps the requests."""

    def __init__(self, replies: Iterable[str | Answer], can: frozenset[str] = EVERYTHING) -> None:
        self.replies, self.requests, self.limiter = iter(replies), list[Request](), Limiter(8)
        self._can = can

    @property
    def identity(self) -> str:
        return "scripted"

    @property
    def can(self) -> frozenset[Any]:
        return self._can

    async def send(self, request: Request) -> Answer:
        self.requests.append(request)
        reply = next(self.replies)
        return reply if isinstance(reply, Answer) else Answer(reply)


@pytest.fixture(scope="session")
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture(scope="session")
def attempted() -> Callable[..., Awaitable[Any]]:
    """Run a stage as the engine does: again after a refusal, what was said before replayed."""

    async def attempted(
        endpoint: Scripted, call: Callable[[Chat, Context], Awaitable[T]], attempts: int = 3
    ) -> T:
        calls = MemoryCalls()
        for attempt in range(1, attempts + 1):
            ctx = Context("stage", "row", attempt=attempt, attempts=attempts, calls=calls)
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
