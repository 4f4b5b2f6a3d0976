"""The shipped pipeline through the openai SDK, against a server on the loopback."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine

Writer = Callable[..., str]
SAMPLING = {"temperature": 0.7, "top_p": 0.95}


def asks(server: Any) -> Counter[str]:
    """What the requests were about, by the first words of the last user message."""
    last = (
        next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
        for _, body in server.asked
    )
    return Counter(text.partition(" ")[0] for text in last)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["vllm", "openai"])
async def test_all_rows_are_accepted_and_running_again_asks_nothing(
    shipped: Path, server: Any, writer: Writer
) -> None:
    setting = writer(sampling=SAMPLING, prices=[1.0, 0.5, 10.0])
    summaries = []
    for _ in range(2):
        async with engine.open(shipped, set=[setting]) as run:
            summaries.append(await run.finish())
    first, second = summaries
    assert (first.exit_code, first.dead) == (0, 0)
    crossing = first.stages["split"].reasons["crossing_pair"]
    assert first.rejected == crossing, "no reply is turned down"
    written = (shipped.parents[1] / "out/pink.jsonl").read_text("utf-8").splitlines()
    # 5 reviewed topics of 2 reviewed pairs, 2 new ones; a new pair for each topic
    assert len(written) == 5 * 2 + 5 + 2 - crossing
    assert first.finished == second.finished == 5 * len(written), "in five branches"
    counters = first.stages.values()
    assert sum(c.calls for c in counters) == server.paid == len(server.asked)
    assert sum(c.calls for c in second.stages.values()) == 0
    assert sum(c.spent.cached for c in counters) == 64 * server.paid
    cost = server.paid * (36 * 1.0 + 64 * 0.5 + 10 * 10.0) / 1e6
    assert sum(c.cost for c in counters) == pytest.approx(cost)
    rows = [json.loads(line) for line in written]
    assert {row["origin"] for row in rows} == {"model"}
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert (shipped.parents[1] / "out/pink.parquet").exists()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["vllm", "openai"])
async def test_what_a_server_reads(shipped: Path, server: Any, writer: Writer, kind: str) -> None:
    async with engine.open(
        shipped, set=[writer(sampling=SAMPLING)], store=":memory:", limit=1
    ) as run:
        summary = await run.finish()
    assert summary.stages["dedup"].out == 3
    bodies = [body for _, body in server.asked]
    for body in bodies:
        assert {name: body[name] for name in SAMPLING} == SAMPLING
        assert body["model"] == "known"
    assert len({body["seed"] for body in bodies}) == len(bodies)
    by_words = {b["messages"][-1]["content"].partition(" ")[0]: b for b in bodies}
    if kind == "openai":
        script = by_words["Turns:"]
        assert script["response_format"]["json_schema"]["name"] == "Script"
        assert script["max_completion_tokens"] == 4 * (64 + 20)
    else:
        continued = [b["messages"][-1] for b in bodies if "continue_final_message" in b]
        assert {message["role"] for message in continued} == {"assistant"}
        turns = [b for b in bodies if b["messages"][-1] in continued and b["max_tokens"] == 64]
        assert len(turns) == 4 * 3
        assert all(b["stop"] == ["\n"] for b in turns)
        banned = [b["bad_words"] for b in turns if "bad_words" in b]
        assert len(banned) == 2 * 3  # before the user asks for the pink term
        assert {"coffee", "Coffee"} <= set(banned[0]) | set(banned[1]) | set(banned[2])
        grammars = [b for b in bodies if "structured_outputs" in b]
        assert grammars
        assert all(b["structured_outputs"]["grammar"].startswith("root ::=") for b in grammars)


def test_the_command_line(shipped: Path, server: Any, writer: Writer) -> None:
    command = [
        sys.executable,
        "-m",
        "engine",
        "run",
        str(shipped),
        "--limit",
        "1",
        "--set",
        writer(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "15 finished, 0 rejected, 0 dead" in done.stderr, "3 rows in 5 branches"
    assert asks(server)["Turns:"] == 12
