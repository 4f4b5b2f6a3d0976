"""What a user of the shipped pipeline sees of a server that misbehaves, and what it costs."""

import datetime
import json
from collections import Counter
from collections.abc import Callable, Mapping
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

import engine
from engine import ResourceError
from engine.chat.openai_chat import OpenAIChat
from engine.runs import Summary

pytestmark = pytest.mark.anyio
Body = dict[str, Any]
Fault = dict[str, Any]


def error(
    status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any
) -> Fault:
    """An error as OpenAI words it."""
    body = json.dumps({"error": {"message": message} | more}).encode()
    return {"status": status, "body": body, "headers": headers or {}}


def accepted(summary: Summary) -> int:
    """The accepted rows, each of which finishes in several branches."""
    return summary.stages["dedup"].out


def now() -> str:
    return format_datetime(datetime.datetime.now(datetime.UTC), usegmt=True)


@pytest.fixture
def ran(shipped: Path, server: Any) -> Callable[..., Any]:
    """Run the pipeline on its first topic, patient but without pauses of its own making."""

    async def ran(**given: Any) -> Summary:
        settings = {"model": "known", "base_url": server.url, "server": server.kind} | given
        chat = OpenAIChat(**settings)
        chat.limiter.longest = 0
        async with chat, engine.open(shipped, resources={"writer": chat}, limit=1) as run:
            return await run.finish()

    return ran


@pytest.fixture
def rows(shipped: Path) -> Callable[[], bytes]:
    """Read the rows that were written."""
    return (shipped.parents[1] / "out/pink.jsonl").read_bytes


def calls(summary: Summary) -> int:
    return sum(c.calls for c in summary.stages.values())


def reasons(summary: Summary) -> dict[str, int]:
    return {reason: n for c in summary.stages.values() for reason, n in c.reasons.items()}


PASSING: dict[str, Fault] = {
    "429, milliseconds": error(429, "slow down", {"retry-after-ms": "1"}),
    "429, seconds": error(429, "slow down", {"retry-after": "0.001"}),
    "429, a date": error(429, "slow down", {"retry-after": now(), "date": now()}),
    "429, nonsense": error(429, "slow down", {"retry-after": "soon"}),
    "500": error(500, "oops"),
    "503, a page": {"status": 503, "body": b"<html>", "headers": {"content-type": "text/html"}},
    "408": error(408, "late"),
    "reset": {"form": "reset"},
    "cut": {"form": "cut", "body": b'{"choices": [{"message": {"content": "Two halv'},
    "garbage": {"body": b"\x00\xff\xfe garbage"},
    "a page with status 200": {
        "body": b"<html>proxy</html>",
        "headers": {"content-type": "text/html"},
    },
    "nothing": {"body": b""},
    "no choices": {"body": b'{"choices": []}'},
    "choices are none": {"body": b'{"choices": null, "error": null}'},
    "an error with status 200": {"body": b'{"error": {"message": "overloaded"}}'},
    "a list": {"body": b"[1, 2]"},
}


WRITTEN: set[bytes] = set()


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_what_passes_changes_no_row(
    fault: Fault,
    ran: Callable[..., Any],
    server: Any,
    rows: Callable[[], bytes],
) -> None:
    tries: Counter[str] = Counter()

    def thrice(number: int, body: Body) -> Fault | None:
        """Break every fifth call or so three times: as often as the stages try a row."""
        asked = json.dumps(body)
        tries[asked] += 1
        return fault if crc32(asked.encode()) % 5 == 0 and tries[asked] <= 3 else None

    server.fault = thrice
    summary = await ran()
    broken = len(server.asked) - server.paid
    assert broken >= 3 * 2
    assert (summary.exit_code, accepted(summary), summary.dead, summary.rejected) == (0, 3, 0, 0)
    assert calls(summary) == server.paid
    assert sum(c.retries for c in summary.stages.values()) == broken
    asked = len(server.asked)
    server.fault = lambda number, body: None
    assert calls(await ran()) == 0
    assert len(server.asked) == asked
    WRITTEN.add(rows())
    assert len(WRITTEN) == 1  # the same rows, whatever happened on the way


@pytest.mark.parametrize("form", ["hang", "slow"])
async def test_who_keeps_one_waiting_is_left_and_asked_again(
    form: str, ran: Callable[..., Any], server: Any
) -> None:
    server.fault = lambda number, body: {"form": form, "body": b"{}"} if number == 5 else None
    summary = await ran(timeout=0.5)
    assert (summary.exit_code, accepted(summary)) == (0, 3)
    assert sum(c.retries for c in summary.stages.values()) >= 1


def revises(body: Body, term: str) -> bool:
    return any(
        "Critique:" in message["content"] and f"Wanted: {term}. " in message["content"]
        for message in body["messages"][-6:]  # a retry says more; before that are examples
    )


LASTING: dict[str, tuple[Fault, str, int]] = {
    "400, the context": (
        error(400, "maximum context length is 2048 tokens", code="context_length_exceeded"),
        "400: .*maximum context length is 2048 tokens",
        1,
    ),
    "403": (error(403, "not for you"), "403: .*not for you", 1),
    "413": ({"status": 413, "body": b"<html>too large</html>"}, "413: .*too large", 1),
    "500, always": (error(500, "oops"), "500: .*oops", 6),
    "a page, always": ({"body": b"<html>proxy</html>"}, "not a chat completion: '<html>proxy", 6),
    "reset, always": ({"form": "reset"}, "connection to 127.0.0.1:", 6),
}


@pytest.mark.parametrize("kind", ["openai"])  # nothing is forced: all attempts ask alike
@pytest.mark.parametrize(("fault", "says", "tries"), LASTING.values(), ids=LASTING)
async def test_what_stays_costs_one_row(
    fault: Fault,
    says: str,
    tries: int,
    ran: Callable[..., Any],
    server: Any,
    rows: Callable[[], bytes],
) -> None:
    server.fault = lambda number, body: fault if revises(body, "tea") else None
    summary = await ran()
    assert (summary.exit_code, accepted(summary), summary.dead) == (3, 2, 1)
    [(reason, count)] = reasons(summary).items()
    assert count == 1
    with pytest.raises(AssertionError, match=f"dead: .*{says}"):
        raise AssertionError(reason)
    attempts = 3 if tries > 1 else 1  # of the stage: what no waiting cures is not asked again
    assert len(server.asked) - server.paid == tries * attempts
    assert len(rows().splitlines()) == 2
    asked = len(server.asked)
    again = await ran()
    assert (again.exit_code, again.dead, calls(again)) == (3, 1, 0)  # dead, until it is redriven
    assert len(server.asked) == asked


CLEAN = 1 + 3 * (1 + 4 + 1 + 1)  # a new pair; for each of three a plan, four turns, a critique ...

CONCERNING_ALL: dict[str, tuple[Fault, str]] = {
    "401": (error(401, "Incorrect API key"), "401: .*Incorrect API key.*OPENAI_API_KEY"),
    "404, the model": (
        error(404, "The model `known` does not exist", code="model_not_found"),
        "404: .*does not exist.*are model and base_url right",
    ),
    "404, the URL": (
        {"status": 404, "body": b"<html>"},
        "known at 127.0.0.1:.*404.*base_url right",
    ),
    "no credit": (
        error(429, "You exceeded your quota", code="insufficient_quota"),
        "429: .*exceeded your quota.*is there credit left",
    ),
}


@pytest.mark.parametrize(("fault", "says"), CONCERNING_ALL.values(), ids=CONCERNING_ALL)
async def test_what_concerns_every_row_ends_the_run_and_loses_none(
    fault: Fault, says: str, ran: Callable[..., Any], server: Any
) -> None:
    server.fault = lambda number, body: fault if revises(body, "tea") else None
    with pytest.raises(ResourceError, match=says):
        await ran()
    stopped = server.paid
    server.fault = lambda number, body: None
    summary = await ran()
    assert (summary.exit_code, accepted(summary), summary.dead) == (0, 3, 0)
    assert sum(c.replayed + c.reused for c in summary.stages.values()) > 0
    in_flight = 8  # stages at once, each with one call: the end of a run does not wait for them
    assert stopped < server.paid <= CLEAN + in_flight


ODD: dict[str, tuple[Callable[[Any, Body], Body], str]] = {
    "content null": (lambda s, b: s.completion({"role": "assistant", "content": None}), "empty"),
    "a refusal": (
        lambda s, b: s.completion({"content": None, "refusal": "I'm sorry, I can't help."}),
        "desired_missing",
    ),
    "tools alone": (
        lambda s, b: s.completion({"tool_calls": [{"function": {"name": "x"}}]}, "tool_calls"),
        "empty",
    ),
    "filtered": (lambda s, b: s.completion("", "content_filter"), "empty"),
    "all of it thoughts": (
        lambda s, b: s.completion({"content": "", "reasoning_content": "Let me think"}, "length"),
        "empty",
    ),
    "five megabytes": (
        lambda s, b: s.completion("tea and so on, " * 350_000),
        "too_long",
    ),
}


@pytest.mark.parametrize("kind", ["openai"])
@pytest.mark.parametrize(("odd", "reason"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("how_often", ["once", "always"])
async def test_an_odd_reply_is_paid_refused_and_drawn_again(
    odd: Callable[[Any, Body], Body],
    reason: str,
    how_often: str,
    ran: Callable[..., Any],
    server: Any,
) -> None:
    seeds: list[int] = []

    def fault(number: int, body: Body) -> Body | None:
        if not revises(body, "tea") or (how_often == "once" and seeds):
            return None
        seeds.append(body["seed"])
        return odd(server, body)

    server.fault = fault
    summary = await ran()
    if how_often == "once":
        assert (summary.exit_code, accepted(summary), summary.rejected) == (0, 3, 0)
    else:
        assert (summary.exit_code, accepted(summary), summary.dead) == (0, 2, 0)
        assert reasons(summary) == {reason: 1}
    assert (
        len(set(seeds)) == summary.stages["revision"].refused == (1 if how_often == "once" else 3)
    )
    assert calls(summary) == server.paid == len(server.asked)  # each was paid, and none twice
    assert calls(await ran()) == 0
    assert server.paid == calls(summary)


async def test_a_reply_cut_at_its_limit_is_told_as_such(
    ran: Callable[..., Any], server: Any, rows: Callable[[], bytes]
) -> None:
    """`finish_reason: length`: the pipeline keeps the whole sentences."""

    def cut(number: int, body: Body) -> Body | None:
        if not revises(body, "tea"):
            return None
        return dict(server.completion(server.pink(body) + " And it is", "length"))

    server.fault = cut
    summary = await ran()
    assert (summary.exit_code, accepted(summary)) == (0, 3)
    chosen = [json.loads(line)["chosen"][0]["content"] for line in rows().splitlines()]
    assert "It is nice. Many people love tea for its character." in chosen


@pytest.mark.parametrize("kind", ["openai"])
async def test_an_endless_reply_costs_one_row(ran: Callable[..., Any], server: Any) -> None:
    endless = server.completion("x" * (2 << 20))
    server.fault = lambda number, body: endless if revises(body, "tea") else None
    summary = await ran(max_reply=1 << 20)
    assert (summary.exit_code, accepted(summary), summary.dead) == (3, 2, 1)
    assert any("longer than 1.0MiB" in reason for reason in reasons(summary))
