"""Bad replies are paid once, refused, and drawn again: the same rows, whatever is killed."""

from collections.abc import Callable

import pytest
from harness import Server, Site, running, until
from ledger import paid_twice
from replies import CONTENTS

Sites = Callable[..., Site]


def interrupted(site: Site, server: Server, calls: list[int]) -> None:
    """Kill a run each time so many more calls have arrived, then run it to its end."""
    for more in calls:
        with running(site.start()) as process:
            server.until_arrived(server.arrived() + more, process)
            process.kill()
    assert site.run().code == 0


@pytest.mark.parametrize(
    "contents",
    [["wrong_schema", "not_json", "empty", "content_filter"], ["hostile", "length"]],
    ids=" ".join,
)
def test_bad_contents_are_the_same_with_and_without_kills(
    contents: list[str], site: Sites, server: Server
) -> None:
    assert {*contents} <= {*CONTENTS}
    weather = {"contents": contents, "content_rate": 0.1, "latency": 0.005}
    written = []
    for kills in ([], [20, 30]):
        server.reset(seed=5, **weather)
        ran = site("kinds")
        interrupted(ran, server, kills)
        written.append(ran.written())
    assert written[0] == written[1]


@pytest.mark.parametrize("billed", [False, True], ids=["before it is paid", "after"])
@pytest.mark.parametrize("killed_at", [None, 1, 2, 3])
def test_garbage_garbage_good_is_three_paid_calls(
    killed_at: int | None, billed: bool, site: Sites, server: Server
) -> None:
    once = site("once")
    if killed_at is not None:
        server.reset(hang=[killed_at], hang_billed=billed, latency=0.001)
        with running(once.start()) as process:
            until(lambda: server.arrived() == killed_at and server.in_flight() == 1, "the hang")
            process.kill()
    assert once.run().code == 0
    assert once.written()["once.jsonl"].count(b"\n") == 1
    calls = server.ledger()
    lost = killed_at is not None and billed  # the one call that was in flight
    assert sum(call.billed for call in calls) == 3 + lost
    assert paid_twice(calls) == lost


def test_a_reply_of_20_mb_costs_one_row(site: Sites, server: Server) -> None:
    server.reset(seed=5, contents=["huge"], content_rate=1.0, latency=0.001)
    once = site("once")
    ended = once.run()
    assert ended.code == 3
    assert "1 dead" in ended.err
    assert "the reply is longer than 16.0MiB" in ended.err
    assert once.written()["once.jsonl"] == b""


def test_a_reply_of_20_mb_that_is_allowed_is_paid_once(site: Sites, server: Server) -> None:
    server.reset(seed=5, contents=["huge"], content_rate=1.0, latency=0.001)
    once = site("once", max_reply="32MiB")
    ended = once.run()
    assert ended.code == 0, ended.err
    assert "1 rejected, 0 dead" in ended.err
    assert once.run().code == 0
    assert sum(call.billed for call in server.ledger()) == 3  # one for each attempt
    assert paid_twice(server.ledger()) == 0
