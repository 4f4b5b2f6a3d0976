"""A paid reply is never paid for again: over kills, new gates, samples and equal requests."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.chat import Answer, BadReply, Chat, Endpoint, Message, Request
from engine.chat.limiter import Limiter
from engine.stages import Context
from engine.store import SqliteStore, find_runs
from engine.text import Text

pytestmark = pytest.mark.anyio
ASK = [Message(role="user", content=Text("say something \ud800"))]


class Scripted(Endpoint):
    """Answers from a list, in order; what is asked beyond it fails."""

    identity = "scripted"
    can: frozenset[str] = frozenset()

    def __init__(self, *replies: str) -> None:
        self.limiter, self.replies, self.paid = Limiter(longest=0), list(replies), 0

    async def send(self, request: Request) -> Answer:
        self.paid += 1
        return Answer(self.replies.pop(0))


class Killed(BaseException):
    """Stands for a kill between two steps."""


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(folder) as store:
        store.begin(pipeline="p", fresh=False)
        yield store


def bound(chat: Endpoint, store: SqliteStore, fingerprint: bytes = b"f", row: str = "r") -> Chat:
    return chat.bind(Context("s", row, calls=store.calls, fingerprint=fingerprint))


async def row(
    chat: Endpoint,
    store: SqliteStore,
    good: Callable[[str], bool] = lambda text: text == "good",
    *,
    fingerprint: bytes = b"f",
    retry: int = 3,
    budget: int = 99,
) -> str:
    """Run one row as the executor does; it is killed when `budget` replies have been looked at."""
    for _ in range(retry):
        (reply,) = await bound(chat, store, fingerprint).complete(ASK)
        budget -= 1
        if budget < 0:
            raise Killed
        if good(reply.text):
            return str(reply.text)
        with pytest.raises(BadReply):
            reply.refuse("garbage \udfff")
    return "rejected"


@pytest.mark.parametrize("killed_hard", [True, False])
@pytest.mark.parametrize("kills", [[], [0], [1], [2], [0, 0, 1, 2, 2], [1, 2]])
async def test_garbage_garbage_good_is_three_calls(
    tmp_path: Path, kills: list[int], killed_hard: bool
) -> None:
    chat = Scripted("garbage", "more garbage", "good")
    for budget in kills:
        async with opened(tmp_path) as store:
            with pytest.raises(Killed):
                await row(chat, store, budget=budget)
            if killed_hard:  # what is queued is lost, what is durable is not
                store._commits._queue.clear()
    async with opened(tmp_path) as store:
        assert await row(chat, store) == "good"
    assert chat.paid == 3
    async with opened(tmp_path) as store:
        assert await row(chat, store) == "good"
    assert chat.paid == 3


@pytest.mark.parametrize("kills", [[], [1], [2], [1, 2, 2]])
async def test_a_kill_gives_no_attempts_away(tmp_path: Path, kills: list[int]) -> None:
    """The row of an interrupted run ends as it would have ended: rejected by its third reply."""
    chat = Scripted("a", "b", "c", "good")
    for budget in kills:
        async with opened(tmp_path) as store:
            with pytest.raises(Killed):
                await row(chat, store, budget=budget)
    async with opened(tmp_path) as store:
        assert await row(chat, store) == "rejected"
    assert chat.paid == 3


async def test_a_new_gate_starts_again_from_the_stored_samples(tmp_path: Path) -> None:
    chat = Scripted("a", "bb", "ccc")
    async with opened(tmp_path) as store:
        assert await row(chat, store, lambda text: len(text) == 3) == "ccc"
    async with opened(tmp_path) as store:
        assert await row(chat, store, lambda text: len(text) == 2, fingerprint=b"new") == "bb"
        assert await row(chat, store, lambda text: True, fingerprint=b"newer") == "a"
        assert await row(chat, store, lambda text: len(text) == 3, fingerprint=b"newest") == "ccc"
    assert chat.paid == 3


async def test_a_reply_is_durable_before_it_is_parsed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        (reply,) = await bound(Scripted("\ud83d lone"), store).complete(ASK)
        other = find_runs(tmp_path)  # what another process sees at this moment
        assert other.read("SELECT count(*) FROM calls") == (1,)
        other.close()
        assert reply.text == "\ud83d lone"
    async with opened(tmp_path) as store:
        (replayed,) = await bound(Scripted(), store).complete(ASK)
    assert (replayed.text, replayed.text.did) == (reply.text, reply.text.did)


async def test_equal_requests_are_told_apart_over_a_kill(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        chat = bound(Scripted(*"abc"), store)
        first = [str((await chat.complete(ASK))[0].text) for _ in range(2)]
        (kept,) = await chat.complete(ASK, key="node 3")
    assert first == ["a", "b"]
    async with opened(tmp_path) as store:
        chat = bound(Scripted("d"), store)
        assert (await chat.complete(ASK, key="node 3"))[0].text == kept.text == "c"
        assert [str((await chat.complete(ASK))[0].text) for _ in range(3)] == ["a", "b", "d"]
        (other,) = await bound(Scripted("e"), store, row="other row").complete(ASK)
        assert other.text == "e"


async def test_samples_are_paid_once_each(tmp_path: Path) -> None:
    chat = Scripted(*"abcdef")
    async with opened(tmp_path) as store:
        found = [str(reply.text) for reply in await bound(chat, store).complete(ASK, n=3)]
    assert sorted(found) == ["a", "b", "c"]
    async with opened(tmp_path) as store:
        again = await bound(chat, store).complete(ASK, n=3)
        assert [str(reply.text) for reply in again] == found
        with pytest.raises(BadReply):
            again[1].refuse("no")
        four = await bound(chat, store).complete(ASK, n=3)
        assert [str(reply.text) for reply in four] == [found[0], found[2], "d"]
        more = await bound(chat, store, b"new").complete(ASK, n=4)
        assert [str(reply.text) for reply in more] == [*found, "d"]
    assert chat.paid == 4


async def test_a_new_generation_pays_anew(tmp_path: Path) -> None:
    chat = Scripted("a", "b")
    for fresh, wanted in [(False, "a"), (True, "b"), (False, "b")]:
        async with SqliteStore(tmp_path) as store:
            store.begin(pipeline="p", fresh=fresh)
            (reply,) = await bound(chat, store).complete(ASK)
            assert reply.text == wanted
