"""A web service around a pipeline: rows in as JSON, finished rows out as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from reading import read_rows
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import engine
from engine.chat import Chat
from engine.rows import plain

PIPELINE = Path(__file__).with_name("answers.yaml")
SUMMED = ("status", "finished", "rejected", "dead", "seconds")
Events = MemoryObjectSendStream[ServerSentEvent]


class Runs:
    """`POST /runs`: one run for each request, at most `most` at once; all share one chat."""

    def __init__(self, chat: Chat, most: int) -> None:
        self.chat, self.slots = chat, anyio.CapacityLimiter(most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Its run lives in a task of the response, which ends with it."""
        rows = await read_rows(Request(scope, receive))
        try:
            self.slots.acquire_nowait()
        except anyio.WouldBlock:
            raise HTTPException(503, "too many runs: try again", {"Retry-After": "5"}) from None
        try:
            out, events = anyio.create_memory_object_stream[ServerSentEvent](0)
            stopping = anyio.Event()  # set when the server is to stop
            async with out, events:
                response = EventSourceResponse(
                    events,
                    data_sender_callable=partial(self.work, rows, out, stopping),
                    shutdown_event=stopping,
                    shutdown_grace_period=5,
                )
                await response(scope, receive, send)
        finally:
            self.slots.release()

    async def work(self, rows: Sequence[Any], out: Events, stopping: anyio.Event) -> None:
        """Run the pipeline and send what comes of it; cancelled at once when the client leaves."""
        told = {"rejected": 0, "dead": 0}
        async with out, anyio.create_task_group() as tasks:
            try:
                async with engine.open(
                    PIPELINE, inputs=rows, store=None, resources={"writer": self.chat}
                ) as run:
                    tasks.start_soon(stop_when, stopping, run)
                    async for row in run:
                        await out.send(event("row", plain(row.fields)))
                        await tell(told, run.summary, out)
                await tell(told, run.summary, out)
                summary = run.summary.as_dict()
                await out.send(event("summary", {name: summary[name] for name in SUMMED}))
            except engine.EngineError as error:
                await out.send(event("error", {"error": str(error)}))
            tasks.cancel_scope.cancel()


async def stop_when(stopping: anyio.Event, run: engine.Run) -> None:
    """Stop a run when the server is to stop: its client is still told how far it came."""
    await stopping.wait()
    run.stop()


async def tell(told: dict[str, int], summary: engine.Summary, out: Events) -> None:
    """Send how many rows were rejected or are dead, where that has changed."""
    for name in told:
        if told[name] != (count := getattr(summary, name)):
            told[name] = count
            await out.send(event(name, {"rows": count}))


def event(name: str, data: Any) -> ServerSentEvent:
    """Return a server-sent event that carries JSON."""
    return ServerSentEvent(event=name, data=json.dumps(data))


def make_app(chat: Chat | None = None, most: int = 4) -> Starlette:
    """Make the service. `chat` is the pipeline's own, unless one is given."""
    writer: Any = chat or engine.open(PIPELINE).pipeline.resources["writer"]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with writer:  # once for all requests
            yield

    routes = [Route("/runs", Runs(writer, most), methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan)
