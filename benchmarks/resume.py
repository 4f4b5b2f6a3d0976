"""How soon a run that was interrupted makes its first new call, and in how much memory.

250,000 rows through four recorded stages make 1,000,000 finished records; one row in 1,000 is not
done. A new process opens the pipeline: the time from its start to the first call of the chat, and
its peak memory at that moment. Targets: <= 5 s, <= 300 MB. Reported: the same with only the last
row not done, and what a record costs to be found again. Short: 10,000 rows, without that.
The store is built by running the pipeline, without the rows that are to be missing.
Command: `python -m benchmarks.resume [--short]`; one step: `... --folder F --rows N --every K`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import anyio

import engine
from benchmarks.common import HERE, Result, alone, peak_mb, show
from engine import Context, Message, Row, Text, stage
from engine.chat import Chat, Request
from engine.loader import loads
from engine.stages import NotResult
from engine.testing import FakeChat

SECONDS, MB = 5.0, 300.0
STAGES = 4
EVERY = 1_000

PIPELINE = """
name: resume
resources: {llm: {use: llm.given}}
stages:
  source: {use: resume.source, with: {rows: %d, every: %d, skip: %s}}
  topic: {use: resume.topic}
  draft: {use: resume.draft}
  score: {use: resume.score}
  reply: {use: resume.reply, with: {llm: llm}, concurrency: 512}
"""


class Item(Row):
    n: int


class Topic(Row):
    topic: Text


class Draft(Row):
    draft: Text


class Score(Row):
    score: float


class Said(Row):
    reply: Text


@stage("resume.source", version="1")
async def source(
    *, rows: int, every: Annotated[int, NotResult], skip: Annotated[bool, NotResult]
) -> AsyncIterator[Item]:
    """Yield rows, without the last of `every` if they are to be skipped."""
    for n in range(rows):
        if not (skip and n % every == every - 1):
            yield Item(n).keyed(str(n))


@stage("resume.topic", version="1")
async def topic(n: int, *, ctx: Context) -> Topic:
    """Add a text."""
    return Topic(Text.leaf(f"topic {n}", "draw"))


@stage("resume.draft", version="1")
async def draft(topic: Text, *, ctx: Context) -> Draft:
    """Add a longer text made from it."""
    return Draft("Say something about " + topic + ". " * 100)


@stage("resume.score", version="1")
async def score(draft: Text, *, ctx: Context) -> Score:
    """Add a number."""
    return Score(len(draft) / 7)


@stage("resume.reply", version="1")
async def reply(draft: Text, *, llm: Chat) -> Said:
    """Ask the chat."""
    (found,) = await llm.complete([Message(role="user", content=draft)])
    return Said(found.text)


PLUGINS = [source, topic, draft, score, reply]


async def build(folder: Path, rows: int, every: int) -> None:
    """Make the store: all rows are done but the last of `every`."""
    chat = FakeChat(lambda request: request.messages[-1].content[:40] * 5)
    document = loads(PIPELINE % (rows, every, "true"), folder=folder)
    async with engine.open(document, plugins=PLUGINS, resources={"llm": chat}) as run:
        async for _ in run:
            chat.requests.clear()


async def resume(folder: Path, rows: int, every: int, begun: float) -> None:
    """Run again, print what it took to come to the first call, and end as if killed."""

    def first(request: Request) -> str:
        figures = {"seconds": time.monotonic() - begun, "mb": peak_mb(), "cpu": time.process_time()}
        print(json.dumps(figures), flush=True)
        os._exit(0)

    document = loads(PIPELINE % (rows, every, "false"), folder=folder)
    resources = {"llm": FakeChat(first)}
    async with engine.open(document, plugins=PLUGINS, resources=resources) as run:
        async for _ in run:
            pass
    raise RuntimeError("no call was made: nothing was missing")


def first_call(folder: Path, rows: int, every: int) -> dict[str, float]:
    """Make a store in which one row of `every` is missing, and resume it."""
    arguments = ("--folder", folder, "--rows", rows, "--every", every)
    built = alone("benchmarks.resume", *arguments, limit=1800)
    found = alone("benchmarks.resume", *arguments, "--begun", time.monotonic())
    return found | {f"built_{key}": value for key, value in built.items()}


def measure(short: bool) -> list[Result]:
    """Return time and memory to the first new call."""
    rows = 10_000 if short else 250_000
    records = f"{rows * STAGES:,} records"
    with tempfile.TemporaryDirectory(prefix=".resume-", dir=HERE) as folder:
        spread = first_call(Path(folder), rows, EVERY)
        last = None if short else first_call(Path(folder), rows, rows)
    results = [
        Result(
            f"resume ({records}, 1 row in {EVERY:,} missing)",
            f"{spread['seconds']:.2f} s to the first new call",
            f"<= {SECONDS:g} s",
            spread["seconds"] <= SECONDS,
            f"store {spread['built_mb']:,.0f} MB, built in {spread['built_seconds']:.0f} s "
            f"at a peak of {spread['built_peak']:.0f} MB",
        ),
        Result(
            "resume (peak memory at that call)",
            f"{spread['mb']:.0f} MB",
            f"<= {MB:g} MB",
            spread["mb"] <= MB,
        ),
    ]
    if last is not None:
        each = last["seconds"] / (rows * STAGES) * 1e6
        results.append(
            Result(
                f"resume ({records}, the last row missing)",
                f"{last['seconds']:.1f} s, {last['mb']:.0f} MB",
                "-",
                None,
                f"{each:.0f} us a record",
            )
        )
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="a tenth of the rows")
    parser.add_argument("--folder", type=Path, help="build a store here")
    parser.add_argument("--rows", type=int, help="... of so many rows")
    parser.add_argument("--every", type=int, help="... of which one in so many is missing")
    parser.add_argument("--begun", type=float, help="resume it; the monotonic time of the start")
    options = parser.parse_args()
    if options.folder is None:
        sys.exit(show(measure(options.short)))
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.begun is None:
        begun = time.perf_counter()
        anyio.run(build, options.folder, options.rows, options.every)
        size = sum(file.stat().st_size for file in options.folder.rglob("*") if file.is_file())
        figures = {"seconds": time.perf_counter() - begun, "mb": size / 1e6, "peak": peak_mb()}
        print(json.dumps(figures))
    else:
        anyio.run(resume, options.folder, options.rows, options.every, options.begun)
