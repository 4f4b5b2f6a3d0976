"""CPU of the client for each request, beside the openai SDK with its defaults; the target is half.

A server on the loopback, in a process of its own, answers at once; 64 workers keep one request
each in flight. Ours: a whole run without a store, in which a map stage asks `openai.chat` once for
each row, from `engine.open` to its end. The SDK: `AsyncOpenAI().chat.completions.create`, on the
same prompts. Both on asyncio, in this process, in turns, each after a warm-up; the CPU is this
process's alone. Reported: the bare `OpenAIChat.send`; and a run under trio, beside the SDK there.
Command: `python -m benchmarks.client [--short]`; the server alone: `... --serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

import anyio

import engine
from benchmarks.common import ROOT, Result, document, least, show
from engine import Row, Text, stage
from engine.chat import Chat, Message, Request, Sampling
from engine.chat.openai_chat import OpenAIChat

TARGET, WORKERS = 0.5, 64
SYSTEM = "You are a careful assistant. Answer in one short paragraph, and name no other instrument."
QUESTION = "Question %d: which instrument suits a beginner who likes low notes, and why?"
REPLY = "A cello suits a beginner who likes low notes: its range is close to the voice. " * 4
SAMPLING = Sampling(temperature=0.8, max_tokens=200)
PIPELINE = f"""
name: bench
resources:
  llm:
    use: openai.chat
    with:
      model: known
      base_url: %s
      slots: {WORKERS}
      sampling: {{temperature: 0.8, max_tokens: 200}}
stages:
  questions: {{use: './client.py:questions', with: {{count: %d}}}}
  ask: {{use: './client.py:ask', with: {{llm: llm}}, concurrency: {WORKERS}}}
"""


class Question(Row):
    question: Text


class Reply(Row):
    reply: Text


@stage("bench.questions")
async def questions(*, count: int) -> AsyncIterator[Question]:
    """Yield questions."""
    for number in range(count):
        yield Question(Text(QUESTION % number)).keyed(str(number))


@stage("bench.ask")
async def ask(question: Text, *, llm: Chat) -> Reply:
    """Ask once."""
    (reply,) = await llm.complete(prompt(question))
    return Reply(reply.text)


def prompt(question: str) -> list[Message]:
    return [
        Message(role="system", content=Text(SYSTEM)),
        Message(role="user", content=Text(question)),
    ]


# --- the server -----------------------------------------------------------------------------------


class Served(asyncio.Protocol):
    """One connection of a server that says the same to everything."""

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._data = body[length:]
            self._transport.write(ANSWER)  # type: ignore[attr-defined]


def answer() -> bytes:
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "known",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": REPLY, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 60,
                "completion_tokens": 80,
                "total_tokens": 140,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
            },
            "system_fingerprint": "fp_1",
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"x-request-id: req_1\r\n\r\n" + body


ANSWER = answer()


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Served, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Start the server's process; its URL. Ends it afterwards."""
    command = [sys.executable, "-m", "benchmarks.client", "--serve"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


# --- the clients ----------------------------------------------------------------------------------


async def workers(count: int, work: Callable[[int], Awaitable[object]]) -> None:
    """Do `work` for the numbers up to `count`, WORKERS at a time."""
    numbers = iter(range(count))

    async def worker(numbers: Iterable[int]) -> None:
        for number in numbers:
            await work(number)

    async with anyio.create_task_group() as tasks:
        for _ in range(WORKERS):
            tasks.start_soon(worker, numbers)


async def by_sdk(url: str, count: int) -> None:
    """Ask through the SDK with its defaults."""
    import openai

    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:

        async def one(number: int) -> None:
            found = await client.chat.completions.create(
                model="known",
                messages=[
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": QUESTION % number},
                ],
                temperature=0.8,
                max_tokens=200,
                seed=number,
            )
            assert found.choices[0].message.content == REPLY

        await workers(count, one)


async def by_send(url: str, count: int) -> None:
    """Ask through the endpoint alone: neither limiter nor records."""

    async def one(number: int) -> None:
        sampling = SAMPLING.model_copy(update={"seed": number})
        request = Request(tuple(prompt(QUESTION % number)), "", sampling, None, None, 0)
        assert (await chat.send(request)).text == REPLY

    async with OpenAIChat(model="known", base_url=url, slots=WORKERS) as chat:
        await workers(count, one)


async def by_run(url: str, count: int) -> None:
    """Ask in a whole run."""
    async with engine.open(document(PIPELINE % (url, count)), store=None) as run:
        summary = await run.finish()
    if summary.finished != count or summary.stages["ask"].calls != count:
        raise RuntimeError(f"{count} rows went in: {summary}")


def measure(short: bool) -> list[Result]:
    """Return the ratio of a run, judged, and what else is worth knowing."""
    count, repeats = (600, 3) if short else (2000, 5)
    results = []
    with serving() as url:
        for backend in ("asyncio", "trio"):
            sides = [by_sdk, by_run] + ([by_send] if backend == "asyncio" else [])
            for side in sides:
                anyio.run(side, url, 2 * WORKERS, backend=backend)
            sdk, *ours = least(
                repeats,
                *(lambda s=s, b=backend: anyio.run(s, url, count, backend=b) for s in sides),
            )
            for name, spent in zip(("run", "send alone"), ours, strict=False):
                ratio, judged = spent / sdk, (name, backend) == ("run", "asyncio")
                each = 1e6 / count
                results.append(
                    Result(
                        f"client, {name} ({backend})",
                        f"{ratio:.2f}x ({spent * each:.0f} / {sdk * each:.0f} us)",
                        f"<= {TARGET:g}x" if judged else "-",
                        ratio <= TARGET if judged else None,
                    )
                )
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="fewer requests and repeats")
    parser.add_argument("--serve", action="store_true", help="be the server, and print the port")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
    sys.exit(show(measure(options.short)))
