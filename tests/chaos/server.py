"""A server that speaks OpenAI's chat completions, and fails its clients on purpose.

    python tests/chaos/server.py --seed 7 --faults error_500 reset --contents empty

It listens on the loopback and prints its port. What it replies depends on the request alone, of
which the sample is a part (through `seed`); never on the order of arrivals, and never on the faults
of the transport. So there are two kinds of faults:

transport (`--faults`, faults.py)
    429 with Retry-After in seconds, in milliseconds and as a date; 500, 503, 529; HTML pages with
    an error and with status 200; reset and close before billing, reset after it; a hang; a drip; a
    body cut short, with its length and in chunks; garbage and null where the completion should be.
    A fault is a function of (seed, request, how often it has arrived), and meets the first few
    arrivals of a request alone. With and without them, the dataset is the same to the byte.
content (`--contents`, replies.py)
    A completion that came whole, and is no good: of another schema, no JSON, empty, cut at the
    limit, filtered, hostile, 20 MB long. It is a function of (seed, request), and so a property of
    the sample: the dataset differs from the one without, and is the same whatever is killed.

Two faults are lasting, and end a run: `unauthorized` (a page that repeats the key), and the quota
(`--credit N`: what is asked after N paid completions is refused).

A completion is billed when it is made, whether its client still lives or not. `GET /ledger` gives
each arrival, `GET /inflight` how many are open, `POST /reset` empties the ledger and takes new
settings.
"""

import argparse
import asyncio
import contextlib
import json
import math
import random
import socket
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from faults import FAULTS, Fault, choose
from ledger import Ledger
from replies import CONTENTS, complete, digest

__all__ = ["ChaosServer", "Settings"]

LARGEST = 64 * 2**20
"""Bytes of a request."""
PIECES = 10
"""Pieces of a drip."""
PATIENCE = 60.0
"""Seconds after which a hang ends by itself."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the server does to its clients."""

    seed: int = 0
    faults: tuple[str, ...] = ()
    rate: float = 0.3
    """Of the arrivals that may meet a fault."""
    most: int = 2
    """How many arrivals of one request may."""
    contents: tuple[str, ...] = ()
    content_rate: float = 0.1
    latency: float = 0.02
    """Seconds that a completion takes, in the mean; exponentially distributed."""
    hang: tuple[int, ...] = ()
    """Arrivals, the first being 1, that are never answered."""
    hang_billed: bool = False
    """Whether those are paid."""
    credit: int | None = None
    """How many completions may be paid until the quota is used up."""

    def __post_init__(self) -> None:
        if unknown := {*self.faults} - {*FAULTS} | {*self.contents} - {*CONTENTS}:
            raise ValueError(f"unknown faults: {', '.join(sorted(unknown))}")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Settings":
        """Return the settings in a JSON object. Raises TypeError and ValueError for others."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in given.items()
        }
        return cls(**values)


class ChaosServer:
    """The server, its ledger and its settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.ledger = settings, Ledger()

    async def serve(self, port: int = 0) -> None:
        """Listen on the loopback, print the port, and serve until cancelled."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", port, limit=LARGEST)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while connection.open:
                method, path, headers, body = await connection.request()
                if method == "POST" and path == "/v1/chat/completions":
                    await self._complete(connection, headers, json.loads(body))
                else:
                    await self._control(connection, method, path, body)
        connection.close()

    async def _control(self, to: "_Connection", method: str, path: str, body: bytes) -> None:
        status, answer = 200, b""
        match method, path:
            case "GET", "/ledger":
                answer = json.dumps(self.ledger.dump()).encode()
            case "GET", "/inflight":
                ledger = self.ledger
                found = {"in_flight": ledger.in_flight, "arrived": len(ledger.calls)}
                answer = json.dumps(found | {"billed": ledger.billed}).encode()
            case "POST", "/reset":
                try:
                    self.settings = Settings.of(json.loads(body))
                    self.ledger = Ledger()
                except (TypeError, ValueError) as error:
                    status, answer = 400, str(error).encode()
            case "POST", "/credit":
                self.settings = replace(self.settings, credit=json.loads(body))
            case _:
                status, answer = 404, b"nothing here"
        await to.page(Fault(status=status, body=answer))

    async def _complete(
        self, to: "_Connection", headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> None:
        settings, ledger, request = self.settings, self.ledger, digest(body)
        call, before = ledger.arrived(request, time.monotonic())
        name = choose(settings.seed, request, before, settings.faults, settings.rate, settings.most)
        if len(ledger.calls) in settings.hang:
            name = "hang"
        elif settings.credit is not None and ledger.billed >= settings.credit:
            name = "quota"
        fault = FAULTS[name] if name else None
        if fault is not None and fault.echoes:
            key = headers.get("authorization", "no key")
            fault = replace(fault, body=f"<h1>Refused</h1>{key} is not right".encode())
        call.fault = name
        try:
            await asyncio.sleep(_latency(settings, request, before))
            call.billed = fault is None or fault.billed or (name == "hang" and settings.hang_billed)
            said = complete(body, settings.seed, settings.contents, settings.content_rate)
            await to.answer(said.dumps(body["model"]), fault)
            whole = fault is None or fault.form == "drip"
            call.outcome = "delivered" if whole else "fault" if call.billed else "unanswered"
        except ConnectionError:
            call.outcome = "left"
            raise
        finally:
            call.ended = time.monotonic()


def _latency(settings: Settings, request: str, before: int) -> float:
    drawn = random.Random(f"latency {settings.seed} {request} {before}").random()
    return min(-math.log(1 - drawn), 5.0) * settings.latency


class _Connection:
    """One connection of HTTP/1.1, kept alive until something breaks it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.open = True

    async def request(self) -> tuple[str, str, Mapping[str, str], bytes]:
        """Return method, path, headers and body. Raises IncompleteReadError at the end."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return method, path, headers, body

    async def answer(self, completion: bytes, fault: Fault | None) -> None:
        """Send a completion, or what the fault makes of it. Raises ConnectionError."""
        if fault is None:
            await self.page(Fault(body=completion))
            return
        half = completion[: len(completion) // 2]
        match fault.form:
            case "page":
                await self.page(fault)
                return
            case "drip":
                size = len(completion) // PIECES + 1
                await self._send(_head(200, {"content-length": str(len(completion))}))
                for start in range(0, len(completion), size):
                    await asyncio.sleep(0.01)
                    await self._send(completion[start : start + size])
                return
            case "truncated":
                await self._send(_head(200, {"content-length": str(len(completion))}) + half)
            case "cut":
                await self._send(_head(200, {"transfer-encoding": "chunked"}))
                await self._send(b"%x\r\n%b\r\n" % (len(half), half))
            case "hang":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE):
                        await self._reader.read(1)  # the client leaves
            case "reset":
                opened = self._writer.get_extra_info("socket")
                linger = struct.pack("ii", 1, 0)  # closing sends RST
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self._writer.transport.abort()
            case "close":
                pass
        self.close()

    async def page(self, page: Fault) -> None:
        """Send an answer that stands by itself."""
        headers = {"content-type": page.media, "content-length": str(len(page.body))}
        await self._send(_head(page.status, {**headers, **page.headers()}) + page.body)

    async def _send(self, data: bytes) -> None:
        if self._reader.at_eof():
            raise ConnectionResetError("the client has left")
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """Close it."""
        self.open = False
        self._writer.close()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    known = {code.value: code.phrase for code in HTTPStatus}
    lines = [f"HTTP/1.1 {status} {known.get(status, 'Overloaded')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _arguments() -> tuple[int, Settings]:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    add = parser.add_argument
    add("--port", type=int, default=0, help="default: a free one")
    add("--seed", type=int, default=0)
    add("--faults", nargs="*", default=[], choices=FAULTS, metavar="NAME", help=", ".join(FAULTS))
    add("--rate", type=float, default=0.3, help="of the arrivals that may meet a fault")
    add("--most", type=int, default=2, help="arrivals of one request that may meet a fault")
    add(
        "--contents",
        nargs="*",
        default=[],
        choices=CONTENTS,
        metavar="NAME",
        help=", ".join(CONTENTS),
    )
    add("--content-rate", type=float, default=0.1, help="of the requests that are answered badly")
    add("--latency", type=float, default=0.02, help="seconds, in the mean")
    add("--credit", type=int, help="completions that may be paid")
    given = vars(parser.parse_args())
    return given.pop("port"), Settings.of(given)


if __name__ == "__main__":
    port, settings = _arguments()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(ChaosServer(settings).serve(port))
    sys.exit(0)
