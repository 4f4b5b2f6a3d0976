"""The server does what it says: replies are functions of requests, and faults are as told."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from faults import FAULTS, PASSING, choose
from harness import Server, until
from ledger import paid_twice
from replies import complete, digest

BODY = {"model": "chaos", "seed": 1, "messages": [{"role": "user", "content": "Say."}]}


@contextmanager
def asked(server: Server, body: dict[str, Any], timeout: float = 10) -> Iterator[Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        headers = {"authorization": "Bearer sk-known"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
        yield connection.getresponse()
    finally:
        connection.close()


def said(server: Server, body: dict[str, Any]) -> tuple[int, bytes]:
    with asked(server, body) as reply:
        return reply.status, reply.read()


def test_a_reply_depends_on_the_request_alone(server: Server) -> None:
    others = [BODY | {"seed": seed} for seed in range(2, 12)]
    server.reset(seed=3, latency=0.0)
    first = [said(server, body) for body in [BODY, *others]]
    server.reset(seed=3, latency=0.0, faults=["drip"], rate=1.0)
    again = [said(server, body) for body in [*reversed(others), BODY]]
    assert first == again[::-1]
    assert len({text for _, text in first}) > 5  # each sample is another
    server.reset(seed=4, latency=0.0)
    assert said(server, BODY) != first[0]


def test_a_bad_content_is_a_property_of_the_sample() -> None:
    samples = [BODY | {"seed": seed} for seed in range(400)]
    clean = [complete(body, 7) for body in samples]
    spoilt = [complete(body, 7, ("empty",), 0.25) for body in samples]
    assert spoilt == [complete(body, 7, ("empty",), 0.25) for body in samples]
    bad = sum(completion.text == "" for completion in spoilt)
    assert 60 < bad < 140
    assert all(s.text in ("", c.text) for s, c in zip(spoilt, clean, strict=True))


def test_the_ledger_counts_what_was_paid_twice(server: Server) -> None:
    server.reset(latency=0.0)
    for body in (BODY, BODY, BODY, BODY | {"seed": 2}):
        said(server, body)
    calls = server.ledger()
    assert [call.outcome for call in calls] == ["delivered"] * 4
    assert all(call.billed and (call.ended or 0) >= call.arrived for call in calls)
    assert {call.request for call in calls} == {digest(BODY), digest(BODY | {"seed": 2})}
    assert paid_twice(calls) == paid_twice(calls, broken=False) == 2


def test_a_fault_meets_the_first_arrivals_alone() -> None:
    names = ("reset", "cut")
    met = [choose(1, "request", arrival, names, 1.0, 2) for arrival in range(4)]
    assert None not in met[:2]
    assert met[2:] == [None, None]
    assert met == [choose(1, "request", arrival, names, 1.0, 2) for arrival in range(4)]


@pytest.mark.parametrize("name", [n for n, f in FAULTS.items() if f.form in ("page", "drip")])
def test_pages(name: str, server: Server) -> None:
    fault = FAULTS[name]
    server.reset(latency=0.0, faults=[name], rate=1.0, most=1)
    with asked(server, BODY) as reply:
        body = reply.read()
        assert reply.status == fault.status
        assert reply.getheader("content-type", "") == ("" if fault.form == "drip" else fault.media)
        assert {name: reply.getheader(name) for name in fault.headers()}.keys() <= {
            name.lower() for name, value in reply.getheaders() if value
        }
    assert (b"sk-known" in body) == fault.echoes
    status, again = said(server, BODY)
    assert (status, "choices" in json.loads(again)) == (200, True)
    assert (body == again) == (name == "drip")
    assert [call.billed for call in server.ledger()] == [fault.billed, True]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("reset", ConnectionResetError),
        ("reset_billed", ConnectionResetError),
        ("close", http.client.RemoteDisconnected),
        ("truncated", http.client.IncompleteRead),
        ("cut", http.client.IncompleteRead),
        ("hang", TimeoutError),
    ],
)
def test_broken_connections(name: str, error: type[Exception], server: Server) -> None:
    server.reset(latency=0.0, faults=[name], rate=1.0, most=1)
    with pytest.raises(error), asked(server, BODY, timeout=0.2) as reply:
        reply.read()
    until(lambda: server.in_flight() == 0, "the end of the call")
    [call] = server.ledger()
    assert call.outcome == ("fault" if PASSING[name].billed else "unanswered")
    assert call.billed == PASSING[name].billed
    assert said(server, BODY)[0] == 200


def test_a_completion_is_billed_whether_its_client_lives_or_not(server: Server) -> None:
    server.reset(latency=0.2)
    with pytest.raises(TimeoutError), asked(server, BODY, timeout=0.001):
        pass
    until(lambda: server.in_flight() == 0, "the end of the call")
    [call] = server.ledger()
    assert (call.billed, call.outcome) == (True, "left")


def test_the_quota_is_used_up_after_so_many(server: Server) -> None:
    server.reset(latency=0.0, credit=1)
    assert said(server, BODY)[0] == 200
    status, body = said(server, BODY)
    assert (status, json.loads(body)["error"]["code"]) == (429, "insufficient_quota")
    server.credit(None)
    assert said(server, BODY)[0] == 200


def test_unknown_settings_are_refused(server: Server) -> None:
    with pytest.raises(ValueError, match="unknown faults: nonsense"):
        server.reset(faults=["nonsense"])
