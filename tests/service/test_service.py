"""The example's service, driven by a real client over loopback."""

import gc
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from engine.chat import Answer, Request
from engine.errors import ResourceError
from engine.testing import FakeChat

pytestmark = pytest.mark.anyio
FOLDER = Path(__file__).parents[2] / "examples" / "service"


class Gated(FakeChat):
    """Answers at once, but for questions that begin with `slow`: those wait for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.waits, self.cancelled = anyio.Event(), anyio.Event(), anyio.Event()
        self.opened = self.closed = 0

    async def __aenter__(self) -> "Gated":
        self.opened += 1
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        self.closed += 1

    async def send(self, request: Request) -> Answer:
        self.requests.append(request)
        asked = str(request.messages[-1].content)
        if asked.startswith("broken"):
            raise ResourceError("the model's server is gone")
        if asked.startswith("bad"):
            raise ValueError("cannot be answered")
        if asked.startswith("slow"):
            self.waits.set()
            try:
                await self.gate.wait()
            except BaseException:
                self.cancelled.set()
                raise
        return Answer(f"re: {asked}")


async def test_the_example_as_it_stands(serving: Any) -> None:
    async with serving() as client, client.run("What is a kayak?", "And a lighthouse?") as events:
        found = [event async for event in events]
    rows = sorted((data["question"], data["answer"]) for name, data in found if name == "row")
    assert rows == [
        ("And a lighthouse?", "A tower with a lamp that shows ships where the coast is."),
        ("What is a kayak?", "A narrow boat, paddled by one person who faces forward."),
    ]
    name, summary = found[-1]
    assert (name, len(found)) == ("summary", 3)
    assert summary.pop("seconds") > 0
    assert summary == {"status": "done", "finished": 2, "rejected": 0, "dead": 0}


async def test_rows_come_one_by_one_before_the_run_is_over(serving: Any) -> None:
    chat = Gated()
    async with serving(chat) as client, client.run("quick", "slow") as events:
        name, row = await anext(events)
        assert (name, row["answer"]) == ("row", "re: quick")
        chat.gate.set()  # only now can the second row be answered
        assert [name async for name, _ in events] == ["row", "summary"]


async def test_rejected_and_dead_rows_are_counted(serving: Any) -> None:
    async with serving(Gated()) as client, client.run("x" * 2001, "bad", "fine") as events:
        found = [event async for event in events]
    assert ("rejected", {"rows": 1}) in found
    assert ("dead", {"rows": 1}) in found
    assert found[-1][1]["finished"] == found[-1][1]["rejected"] == found[-1][1]["dead"] == 1


async def test_a_failing_run_ends_with_an_error(serving: Any) -> None:
    async with serving(Gated()) as client:
        async with client.run("broken") as events:
            assert [e async for e in events] == [("error", {"error": "the model's server is gone"})]
        async with client.run("fine") as events:
            assert (await anext(events))[0] == "row"


async def test_a_client_that_leaves_cancels_its_run_at_once(serving: Any) -> None:
    chat = Gated()
    async with serving(chat, most=1) as client:
        async with client.run("slow") as events:  # nothing is being sent when it leaves
            await chat.waits.wait()
        await chat.cancelled.wait()
        assert not chat.gate.is_set()
        assert (chat.opened, chat.closed) == (1, 0)  # others go on using it
        while (response := await client.post("/runs", json=[{"question": "next"}])).status_code != 200:  # fmt: skip
            assert response.status_code == 503  # until the one slot is free again
        assert "re: next" in response.text
    assert (chat.opened, chat.closed) == (1, 1)
    assert events is not None


async def test_a_client_that_leaves_between_rows_cancels_its_run(serving: Any) -> None:
    chat = Gated()
    async with serving(chat) as client:
        async with client.run("quick", "slow") as events:
            await anext(events)
            await chat.waits.wait()
        await chat.cancelled.wait()


async def test_two_clients_at_once(serving: Any) -> None:
    chat = Gated()
    async with serving(chat) as client, client.run("slow one") as first:
        await chat.waits.wait()
        async with client.run("quick") as second:
            assert [data["answer"] async for name, data in second if name == "row"] == ["re: quick"]
        chat.gate.set()
        assert [data["answer"] async for name, data in first if name == "row"] == ["re: slow one"]
    assert chat.opened == 1


async def test_too_many_runs_are_refused_for_a_while(serving: Any) -> None:
    chat = Gated()
    async with serving(chat, most=2) as client, client.run("slow") as one, client.run("slow"):
        refused = await client.post("/runs", json=[{"question": "q"}])
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        chat.gate.set()
        assert (await anext(one))[0] == "row"


ROWS = [{"question": "q"}]
BAD = {
    "no JSON": ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "Invalid JSON"),
    "another type": ({"content": b"question=q", "headers": {"content-type": "text/plain"}}, 415, "send application/json"),
    "no type": ({"content": b"[]"}, 415, "send application/json"),
    "no list": ({"json": {"question": "q"}}, 422, "rows: Input should be a valid"),
    "no rows": ({"json": []}, 422, "rows: List should have at least 1 item"),
    "too many rows": ({"json": ROWS * 1001}, 422, "rows: List should have at most 1000 items"),
    "no question": ({"json": [*ROWS, {}]}, 422, "rows.1.question: Field required"),
    "a number": ({"json": [{"question": 3}]}, 422, "rows.0.question: Input should be a valid string"),
    "an unknown field": ({"json": [{"question": "q", "answer": "a"}]}, 422, "rows.0.answer: Extra inputs are not permitted"),
    "too big": ({"json": [{"question": "q" * (1 << 20)}]}, 413, "the body may have 1048576 bytes"),
}  # fmt: skip


async def test_bad_input_is_refused_with_a_reason(serving: Any) -> None:
    chat = Gated()
    async with serving(chat) as client:
        for name, (request, status, message) in BAD.items():
            response = await client.post("/runs", **request)
            assert (response.status_code, name) == (status, name)
            assert message in response.text
        assert (await client.get("/runs")).status_code == 405
    assert chat.requests == []


async def test_a_body_without_a_length_is_bounded_too(serving: Any) -> None:
    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 65536

    headers = {"content-type": "application/json"}
    async with serving(Gated()) as client:
        response = await client.post("/runs", content=chunks(), headers=headers)
        assert "content-length" not in response.request.headers
        assert (response.status_code, response.text) == (413, "the body may have 1048576 bytes")


async def test_a_server_that_is_to_stop_ends_the_runs_and_says_so(serving: Any) -> None:
    chat = Gated()
    async with serving(chat) as client:
        async with client.run("slow", "quick") as events:
            assert (await anext(events))[0] == "row"
            client.server.should_exit = True
            name, summary = await anext(events)
            assert (name, summary["status"], summary["finished"]) == ("summary", "interrupted", 1)
            assert [event async for event in events] == []
        await chat.cancelled.wait()
    assert (chat.opened, chat.closed) == (1, 1)


async def test_many_requests_leave_nothing_behind(serving: Any) -> None:
    chat = Gated()
    async with serving(chat) as client:
        for _ in range(3):
            async with client.run("q") as events:
                await anext(events)
        await anyio.wait_all_tasks_blocked()
        gc.collect()
        tasks, threads = len(anyio.get_running_tasks()), threading.active_count()
        for n in range(30):
            async with client.run(*["q"] * (1 + n % 3)) as events:
                await anext(events)
        with anyio.fail_after(20):
            while len(anyio.get_running_tasks()) > tasks:
                await anyio.lowlevel.checkpoint()
        assert threading.active_count() <= threads


def test_the_command_of_the_readme_starts_it_and_a_signal_ends_it(tmp_path: Path) -> None:
    readme = (FOLDER / "README.md").read_text("utf-8")
    (command,) = re.findall(r"^\.venv/bin/(python -m uvicorn .*)$", readme, re.MULTILINE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = command.replace("8000", port).split()[1:]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=FOLDER.parents[1],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "running on" in line:
                break
        url = f"http://127.0.0.1:{port}/runs"
        (data,) = re.findall(r"-d '(\[.*\])'", readme)
        headers = {"content-type": "application/json"}
        response = httpx2.post(url, content=data, headers=headers, timeout=30)
        shown = re.sub(r"0\.\d+", "0.01", response.text.replace("\r\n", "\n"))
        assert all(f"{part}\n" in readme for part in shown.strip().split("\n\n"))
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=30)[1]
        assert "Traceback" not in told
        assert process.returncode in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.communicate()
