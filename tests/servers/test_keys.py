"""Keys: missed before anything runs, and never written down. Features: missed before, too."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KEY = "k3y-0f-n0b0dy-4711"
STAGES = """
from collections.abc import AsyncIterator
from typing import Annotated

from engine import Row, Text, stage
from engine.chat import Chat
from engine.resources import Needs

class Word(Row):
    word: Text

@stage("my.words")
async def words(*, llm: Annotated[Chat, Needs("grammar", "prefix")]) -> AsyncIterator[Word]:
    '''Yield words.'''
    yield Word(word=Text("a"))
"""


def cli(*arguments: object, key: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}
    environment |= {"OPENAI_API_KEY": key, "OPENAI_LOG": "debug"} if key else {}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environment
    )


def made(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_missing_key_is_told_before_anything_runs(command: str, shipped: Path) -> None:
    writer = "resources.writer={use: openai.chat, with: {model: gpt-x}}"
    done = cli(command, shipped, "--set", writer)
    assert done.returncode == 2
    assert done.stdout == ""
    said = done.stderr
    assert "resource writer (openai.chat): openai.chat needs a key for api.openai.com" in said
    assert "set OPENAI_API_KEY in the environment" in said
    assert made(shipped.parents[1]) == {"pipelines", "pink.yaml"}
    assert cli("validate", shipped, "--set", writer, key=KEY).returncode == 0
    near = "resources.writer={use: openai.chat, with: {model: m, base_url: 'http://[::1]:9/v1'}}"
    assert cli("validate", shipped, "--set", near).returncode == 0


@pytest.mark.parametrize("kind", ["openai"])
def test_the_key_is_sent_and_written_nowhere(
    shipped: Path, server: Any, writer: Callable[..., str]
) -> None:
    def fault(number: int, body: dict[str, Any]) -> dict[str, Any] | None:
        if number == 6:
            return {"status": 401, "body": f"No such key: {KEY}".encode()}
        if "Wanted: tea. " in body["messages"][-1]["content"]:
            message = f"{'far ' * 15}too many of them, {KEY}"
            return {"status": 400, "body": json.dumps({"error": {"message": message}}).encode()}
        return {"body": f"<html>{'x' * 60} {KEY}</html>".encode()} if number == 2 else None

    server.fault = fault
    said = ""
    for code in (1, 3):  # ended by the 401; run again, with one row dead
        done = cli("run", shipped, "--limit", 1, "--set", writer(), key=KEY)
        said += done.stdout + done.stderr
        assert done.returncode == code
    said += cli("trace", shipped).stdout
    assert "401: No such key: ***" in said
    assert {headers["authorization"] for headers, _ in server.asked} == {f"Bearer {KEY}"}
    written = b"".join(p.read_bytes() for p in shipped.parents[1].rglob("*") if p.is_file())
    assert b"too many of them, ***" in written  # so it would be found
    for part in (KEY, KEY[:9]):
        assert part not in said
        assert part.encode() not in written


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("openai", "llm: resource 'writer' has no grammar and no prefix (it has: logprobs, "),
        ("other", "llm: resource 'writer' has no grammar and no prefix (it has: logprobs, "),
        ("vllm", "ok: 1 stages"),
        ("llama.cpp", "ok: 1 stages"),
    ],
)
def test_a_feature_that_a_stage_needs_is_missed_before_anything_runs(
    server: str, says: str, pipeline: Callable[..., Path]
) -> None:
    settings = {"model": "m", "base_url": "http://localhost:9/v1", "server": server}
    path = pipeline(
        f"resources: {{writer: {{use: openai.chat, with: {json.dumps(settings)}}}}}\n"
        "stages: {words: {use: ./stages.py:words, with: {llm: writer}}}\n",
        stages=STAGES,
    )
    done = cli("validate", path)
    assert says in done.stdout + done.stderr
    assert done.returncode == (0 if says.startswith("ok") else 2)
