"""The server of the scale run: OpenAI's chat completions on the loopback, as fast as may be.

    python -m tests.pink.scale.server [--port 0] [--room 1000000]

It prints its port. `GET /calls` tells how many calls of each kind came, `GET /stats` what was
asked, read, written and planted, and `GET /facts/NAME` which ones; all outlive the clients. A
request that came before is answered as before, and counted as repeated. `--room` is what the prefix
cache holds, in tokens: a million take 57 GB for a model of 7B with grouped heads (28 layers, 4
heads of 128, 16 bits), which is what one card has.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
import traceback
from collections import Counter
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from tests.pink.scale.asked import Asked
from tests.pink.scale.prefixes import Prefixes
from tests.pink.scale.writer import Writer

__all__ = ["Model"]


@dataclass(slots=True)
class Tally:
    """What the calls of one kind came to."""

    calls: int = 0
    """Different ones: a call that came again is in `repeated` alone."""
    repeated: int = 0
    prompt: int = 0
    cached: int = 0
    cached_prompts: int = 0
    out: int = 0


class Model:
    """Answers requests, and keeps count."""

    def __init__(self, room: int) -> None:
        self._write = Writer()
        self._prefixes = Prefixes(room)
        self._seen: dict[bytes, float] = {}
        self.tallies: dict[str, Tally] = {}
        self.counts: Counter[str] = Counter()
        self.facts: dict[str, set[Hashable]] = {}
        self.repeated: list[float] = []
        """When each call that came again had been answered before, on the machine's clock."""

    def answer(self, body: bytes) -> bytes:
        """Return the body of the reply to a request."""
        asked = Asked(body)
        made = self._write(asked)
        read = self._prefixes.call(asked.messages, made.text)
        tally = self.tallies.setdefault(made.kind, Tally())
        if (before := self._seen.get(asked.key)) is not None:
            tally.repeated += 1
            self.repeated.append(before)
        else:
            self.counts.update(made.counts)
            for name, which in made.facts:
                self.facts.setdefault(name, set()).add(which)
            tally.calls += 1
            tally.prompt += read.prompt
            tally.cached += read.cached
            tally.cached_prompts += read.cached_prompts
            tally.out += read.out
        self._seen[asked.key] = time.monotonic()
        usage = {
            "prompt_tokens": read.prompt,
            "completion_tokens": read.out,
            "total_tokens": read.prompt + read.out,
            "prompt_tokens_details": {"cached_tokens": read.cached},
        }
        message = {"role": "assistant", "content": made.text}
        choice = {"index": 0, "message": message, "finish_reason": made.finish}
        return orjson.dumps({"object": "chat.completion", "choices": [choice], "usage": usage})

    def stats(self) -> Any:
        """Return all counts."""
        return {
            "kinds": {kind: asdict(tally) for kind, tally in self.tallies.items()},
            "counts": self.counts,
            "facts": {name: len(which) for name, which in self.facts.items()},
            "repeated": self.repeated,
            "cpu": time.process_time(),
        }


class Connection(asyncio.Protocol):
    """One client: requests are answered one after the other, in the order in which they come."""

    def __init__(self, model: Model) -> None:
        self._model, self._data = model, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        while self._data:
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            line, *headers = head.split(b"\r\n")
            length = 0
            for header in headers:
                if header[:15].lower() == b"content-length:":
                    length = int(header[15:])
            if len(rest) < length:
                return
            self._data = rest[length:]
            status, body = self._reply(line.split(b" "), rest[:length])
            self._transport.write(
                b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (status, len(body), body)
            )

    def _reply(self, line: list[bytes], body: bytes) -> tuple[int, bytes]:
        method, path = line[0], line[1].decode()
        try:
            if method == b"POST" and path.endswith("/chat/completions"):
                return 200, self._model.answer(body)
            if path == "/calls":
                return 200, orjson.dumps({k: t.calls for k, t in self._model.tallies.items()})
            if path == "/stats":
                return 200, orjson.dumps(self._model.stats())
            if path.startswith("/facts/"):
                return 200, orjson.dumps(list(self._model.facts.get(path[7:], ())))
        except Exception:  # a fault of this server: the run must end by it
            said = traceback.format_exc()
            print(said, file=sys.stderr, flush=True)
            return 404, orjson.dumps({"error": {"message": said[-500:]}})
        return 404, b"{}"


async def serve(port: int, room: int) -> None:
    """Serve until the process is killed."""
    model = Model(room)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(model), "127.0.0.1", port, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.pink.scale.server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--room", type=int, default=1_000_000, help="tokens that are kept")
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.room))


if __name__ == "__main__":
    main()
