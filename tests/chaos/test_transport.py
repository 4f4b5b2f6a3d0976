"""Faults of the transport change no row, and are paid twice only where the server billed and broke."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from faults import PASSING
from harness import Server, Site
from ledger import paid_twice

import engine
from engine import ResourceError
from engine.chat.openai_chat import OpenAIChat
from engine.runs import Summary

pytestmark = pytest.mark.anyio
Sites = Callable[..., Site]
FEW = ["stages.numbers.with.count=3"]
WRITTEN: dict[str, Mapping[str, bytes]] = {}


async def ran(site: Site, timeout: float = 20.0) -> Summary:
    """Run a pipeline here, patient but without pauses of its own making."""
    assert site.server is not None
    chat = OpenAIChat(model="chaos", base_url=site.server.url, server="vllm", timeout=timeout)
    chat.limiter.longest = 0
    resources: Any = {"writer": chat}
    few = FEW if site.pipeline == "kinds" else ["stages.topics.with.reviewed_topics=1"]
    async with chat, engine.open(site.file, resources=resources, set=few) as run:
        return await run.finish()


@pytest.fixture
async def whole(site: Sites, server: Server) -> Mapping[str, bytes]:
    """Return what a run without faults writes."""
    if "kinds" not in WRITTEN:
        undisturbed = site("kinds")
        assert (await ran(undisturbed)).exit_code == 0
        assert paid_twice(server.ledger()) == 0
        WRITTEN["kinds"] = undisturbed.written()
    return WRITTEN["kinds"]


@pytest.mark.parametrize("fault", PASSING)
async def test_a_fault_changes_no_row(
    fault: str, site: Sites, server: Server, whole: Mapping[str, bytes]
) -> None:
    often = fault not in ("hang", "limited_date")  # each costs a second
    server.reset(faults=[fault], rate=1.0 if often else 0.1, most=2, latency=0.001)
    disturbed = site("kinds")
    summary = await ran(disturbed, timeout=1.0 if fault == "hang" else 20.0)
    assert (summary.exit_code, summary.dead) == (0, 0)
    assert disturbed.written() == whole
    calls = server.ledger()
    assert any(call.fault == fault for call in calls)
    broken = sum(call.broken for call in calls)
    assert bool(broken) == (PASSING[fault].billed and fault != "drip")
    assert paid_twice(calls) == broken
    assert paid_twice(calls, broken=False) == 0


async def test_all_faults_together_change_no_row(
    site: Sites, server: Server, whole: Mapping[str, bytes]
) -> None:
    server.reset(faults=list(PASSING), rate=0.5, most=2, latency=0.001)
    disturbed = site("kinds")
    summary = await ran(disturbed, timeout=1.0)
    assert (summary.exit_code, summary.dead) == (0, 0)
    assert disturbed.written() == whole
    calls = server.ledger()
    assert len({call.fault for call in calls}) > len(PASSING) / 2
    assert paid_twice(calls, broken=False) == 0
    asked = len(calls)
    assert (await ran(disturbed)).exit_code == 0
    assert server.arrived() == asked  # all is in the store


async def test_the_shipped_pipeline_under_all_faults(site: Sites, server: Server) -> None:
    written = []
    for faults in ([], list(PASSING)):
        server.reset(faults=faults, rate=0.3, most=1, latency=0.001)
        pink = site("pink")
        assert (await ran(pink, timeout=1.0)).exit_code == 0
        assert paid_twice(server.ledger(), broken=False) == 0
        written.append(pink.written())
    assert written[0] == written[1]
    rows = {"pink.jsonl", "pink.parquet", "pink-sft.jsonl", "pink-kto.jsonl"}
    assert written[0].keys() == rows | {"pink.html", "pink.md"}
    assert written[0]["pink.jsonl"]


async def test_a_used_up_quota_ends_the_run_and_the_next_pays_only_the_rest(
    site: Sites, server: Server, whole: Mapping[str, bytes]
) -> None:
    undisturbed = site("kinds")
    await ran(undisturbed)
    needed = server.arrived()
    server.reset(credit=needed // 2, latency=0.001)
    disturbed = site("kinds")
    with pytest.raises(ResourceError, match="insufficient_quota|quota.*credit left"):
        await ran(disturbed)
    server.credit(None)
    summary = await ran(disturbed)
    assert summary.exit_code == 0
    assert disturbed.written() == whole
    assert sum(call.billed for call in server.ledger()) == needed
