"""The example's service on a real server on loopback, and a client that reads its events."""

import importlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import uvicorn

FOLDER = Path(__file__).parents[2] / "examples" / "service"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # uvicorn's


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example's module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("service")
    for name in ("service", "reading"):
        del sys.modules[name]


class Client(httpx2.AsyncClient):
    """A client of one server."""

    server: uvicorn.Server

    @asynccontextmanager
    async def run(self, *questions: str) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
        """Start a run, and give its events as they come; left early, the client is gone."""
        rows = [{"question": question} for question in questions]
        async with self.stream("POST", "/runs", json=rows) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield events(response)


async def events(response: Any) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for line in response.aiter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


Serving = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def serving(service: Any) -> Serving:
    """Serve the app on a port of its own; leave, and the server is down."""

    @asynccontextmanager
    async def serve(chat: Any = None, most: int = 4) -> AsyncIterator[Client]:
        config = uvicorn.Config(service.make_app(chat, most), log_level="warning", ws="none")
        server = uvicorn.Server(config)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()  # so that whoever connects before the server is up just waits
            port = listener.getsockname()[1]
            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(server.serve, [listener])
                    async with Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                        client.server = server
                        yield client
                    server.should_exit = True

    return serve
