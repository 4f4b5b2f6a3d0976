"""The faults of the transport: a reply that does not arrive, or arrives late.

None of them changes what a request is answered once it is answered: with and without them, the
dataset is the same.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal

__all__ = ["FAULTS", "LASTING", "PASSING", "Fault", "choose"]

Headers = Mapping[str, str]
Form = Literal["page", "reset", "close", "hang", "drip", "truncated", "cut"]
"""What is done with the connection:

page       a whole answer, but not the completion
reset      nothing is sent, and the connection is reset
close      nothing is sent, and the connection is closed
hang       nothing is sent, and the connection stays
drip       the completion, in small pieces with pauses between: late, but whole
truncated  half of what `content-length` says
cut        half of a chunked body, without its end
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail a client."""

    form: Form = "page"
    billed: bool = False
    """Whether the completion is made, and paid, before things go wrong."""
    status: int = 200
    body: bytes = b""
    media: str = "application/json"
    headers: Callable[[], Headers] = dict
    echoes: bool = False
    """Whether the page repeats the key that it was sent, as some proxies do."""


def _error(message: str, code: str = "overloaded") -> bytes:
    return f'{{"error": {{"message": "{message}", "type": "x", "code": "{code}"}}}}'.encode()


def _date() -> Headers:
    """Ask for a second, as a date; the server's own clock says when now is."""
    now = datetime.now(UTC)
    later = format_datetime(now + timedelta(seconds=1), usegmt=True)
    return {"date": format_datetime(now, usegmt=True), "retry-after": later}


SLOW_DOWN = _error("slow down", "rate_limit_exceeded")
PAGE = b"<!doctype html><title>502</title><h1>Bad Gateway</h1><p>{{error}} $(reboot)</p>"

PASSING: Mapping[str, Fault] = {
    "limited_seconds": Fault(status=429, body=SLOW_DOWN, headers=lambda: {"retry-after": "0.05"}),
    "limited_ms": Fault(status=429, body=SLOW_DOWN, headers=lambda: {"retry-after-ms": "40"}),
    "limited_date": Fault(status=429, body=SLOW_DOWN, headers=_date),
    "error_500": Fault(status=500, body=_error("oops")),
    "error_503": Fault(status=503, body=_error("overloaded")),
    "error_529": Fault(status=529, body=_error("overloaded")),
    "echo_500": Fault(status=500, media="text/html", echoes=True),
    "page_502": Fault(status=502, body=PAGE, media="text/html"),
    "page_200": Fault(status=200, body=PAGE, media="text/html"),
    "reset": Fault("reset"),
    "close": Fault("close"),
    "hang": Fault("hang"),
    "drip": Fault("drip", billed=True),
    "reset_billed": Fault("reset", billed=True),
    "truncated": Fault("truncated", billed=True),
    "cut": Fault("cut", billed=True),
    "garbage": Fault(body=b'{"choices": [{"mess\x00\xff\xfe', billed=True),
    "null": Fault(body=b'{"choices": null, "error": null}', billed=True),
}
"""Faults that pass: asked again, the server answers."""

LASTING: Mapping[str, Fault] = {
    "quota": Fault(
        status=429, body=_error("You exceeded your current quota", "insufficient_quota")
    ),
    "unauthorized": Fault(status=401, media="text/html", echoes=True),
}
"""Faults that concern every request: they end a run."""

FAULTS = {**PASSING, **LASTING}


def choose(
    seed: int, request: str, arrival: int, names: tuple[str, ...], rate: float, most: int
) -> str | None:
    """Return the fault that the n-th arrival (from 0) of a request meets, or None.

    The first `most` arrivals alone can meet one, so that each request is answered in the end.
    """
    drawn = random.Random(f"{seed} {request} {arrival}")
    if not names or arrival >= most or drawn.random() >= rate:
        return None
    return drawn.choice(names)
