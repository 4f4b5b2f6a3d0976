"""A pilot measures each stage on a sample, and the run that follows pays for none of it again."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from engine import CostError, Summary
from engine.errors import InputError
from engine.past import open_past
from engine.planning.sampling import evenly

pytestmark = pytest.mark.anyio


def spent(summary: Summary, name: str) -> float:
    return float(sum(getattr(c.spent, name) for c in summary.stages.values()))


async def test_it_foretells_the_run_which_pays_for_nothing_twice(folder: Any, new: Any) -> None:
    writer, other = folder.new_writer(), folder.new_writer()
    made = await folder.pilot(writer)
    assert not folder.written.exists(), "no sink writes"
    assert writer.sent == made.paid_calls < 200, (
        "2 of each of 10 topics, 50 of the rest and retries"
    )
    assert made.paid == pytest.approx(sum(s.cost for s in made.stages.values()), rel=0.95)

    plain = new()
    whole = await plain.run(other)
    for name in ("calls", "new", "cached", "out", "cost"):
        assert made.total(name) == pytest.approx(spent(whole, name), rel=0.15), name
    assert made.rows == pytest.approx(whole.stages["score"].out, rel=0.15)
    assert made.counted_at == "score"
    assert abs(made.rows / whole.stages["score"].out - 1) < made.error < 0.25

    await folder.run(writer)
    assert writer.sent == other.sent, "all that the pilot paid is reused"
    assert folder.written.read_bytes() == plain.written.read_bytes()


async def test_a_second_pilot_says_the_same_for_nothing(folder: Any) -> None:
    writer = folder.new_writer()
    first = (await folder.pilot(writer)).as_dict()
    sent = writer.sent
    second = (await folder.pilot(writer)).as_dict()
    assert writer.sent == sent
    assert first.pop("paid")["calls"] == sent
    assert second.pop("paid")["calls"] == 0
    times = ("hours", "slowest")
    for told in (first, second):
        for stage in [told, *told["stages"].values()]:
            for name in times:
                stage.pop(name, None)
    assert second == first


async def test_a_pilot_at_the_scale_that_is_asked_for(folder: Any) -> None:
    writer = folder.new_writer()
    one = await folder.pilot(writer)
    ten = await folder.pilot(writer, wanted=round(10 * one.rows))
    assert ten.rows == pytest.approx(10 * one.rows, abs=1)
    assert ten.total("cost") == pytest.approx(10 * one.total("cost"), rel=0.01)
    assert ten.off("cost") > one.off("cost"), "how many rows it takes is not sure, either"
    with pytest.raises(InputError, match="try a larger --pilot"):
        await folder.pilot(writer, "stages.topics.with.count=0", wanted=10)


async def test_what_is_kept_of_what_is_paid(folder: Any) -> None:
    """Half of what `mend` writes is in the file, and nothing of what other stages write."""
    made = await folder.pilot(folder.new_writer())
    mend = made.stages["mend"]
    # A tenth is refused, another tenth dropped, half of the rest cut off.
    assert mend.kept / mend.out == pytest.approx(0.9 * 0.9 / 2, rel=0.1)
    assert made.kept == pytest.approx(mend.kept / made.total("out"))
    assert [key for key, stage in made.stages.items() if stage.kept] == ["mend"]


async def test_a_small_pipeline_is_run_whole_and_is_sure(folder: Any) -> None:
    writer = folder.new_writer()
    made = await folder.pilot(writer, "stages.topics.with.count=8", "stages.plans.with.each=5")
    assert (made.error, made.off("cost")) == (0, 0)
    assert made.total("calls") == writer.sent
    assert made.total("cost") == pytest.approx(made.paid)


async def test_a_source_that_calls_is_stopped_and_its_plan_believed(folder: Any) -> None:
    folder.change("t.topics, with: {count: 30}", "t.invented, with: {llm: llm, count: 5000}")
    writer = folder.new_writer()
    made = await folder.pilot(writer, rows=5)
    topics = made.stages["topics"]
    assert (topics.measured, topics.rows) == (100, 5000)
    assert topics.calls == pytest.approx(5000, rel=0.02)
    assert writer.sent < 150


async def test_what_is_too_rare_for_a_pilot_is_told_as_the_plan_says(folder: Any) -> None:
    folder.change("  mark:", "  audit: {use: t.audit, with: {llm: llm, share: 0.0001}}\n  mark:")
    made = await folder.pilot(folder.new_writer(), rows=10, kept=False)
    audit = made.stages["audit"]
    assert audit.calls == pytest.approx(audit.rows_in * 0.0001, abs=1e-4)
    assert audit.out == pytest.approx(40 * audit.calls)
    assert "as its author assumes" in audit.note


async def test_runs_say_that_it_was_a_pilot(folder: Any) -> None:
    writer = folder.new_writer()
    await folder.pilot(writer)
    with open_store(folder) as past:
        assert [record.status for record in past.store.runs()] == ["pilot"]
        assert past.run.id == 1, "there is no other"
    await folder.run(writer)
    await folder.pilot(writer, rows=60)
    with open_store(folder) as past:
        assert [record.status for record in past.store.runs()] == ["pilot", "done", "pilot"]
        assert past.run.id == 2, "a pilot does not take the place of a run"


@contextlib.contextmanager
def open_store(folder: Any) -> Iterator[Any]:
    with open_past(str(folder.file)) as past:
        yield past


async def test_it_never_costs_more_than_allowed(folder: Any) -> None:
    folder.change("seed: 3", "seed: 3\nmax_cost: 0.001")
    writer = folder.new_writer()
    with pytest.raises(CostError):
        await folder.pilot(writer)
    paid = writer.sent
    folder.change("\nmax_cost: 0.001", "")
    made = await folder.pilot(writer)
    assert made.paid_calls == writer.sent - paid, "what it had paid is not paid again"


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})])  # fmt: skip
@pytest.mark.parametrize(
    ("writer", "overrides", "slowest"),
    [
        ({}, (), "say, at concurrency 8"),
        ({}, ("stages.say.concurrency=64", "stages.mend.concurrency=16"), "mend, at concurrency"),
        ({"rpm": 30.0}, (), "llm, at rpm 30"),
        ({"output_tpm": 900.0}, (), "llm, at output_tpm 900"),
    ],
)
async def test_how_long_it_takes(
    folder: Any,
    new: Any,
    monkeypatch: pytest.MonkeyPatch,
    writer: dict[str, float],
    overrides: tuple[str, ...],
    slowest: str,
) -> None:
    """Under virtual time, in which the store takes none."""

    async def at_once(func: Any, *arguments: Any, **_: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return func(*arguments)

    monkeypatch.setattr(anyio.to_thread, "run_sync", at_once)
    made = await folder.pilot(folder.new_writer(20.0, **writer), *overrides, kept=False)
    assert made.slowest.startswith(slowest)
    whole = await new().run(folder.new_writer(20.0, **writer), *overrides, kept=False)
    assert made.hours * 3600 == pytest.approx(whole.seconds, rel=0.15)


@given(st.integers(0, 500), st.integers(1, 60), st.integers(1, 40))
def test_a_sample_is_even_and_of_whole_blocks(total: int, most: int, block: int) -> None:
    chosen = evenly(total, most, block)
    assert chosen <= set(range(total))
    assert len(chosen) <= max(block, most + block / 2)
    if total:
        assert chosen
        blocks = sorted({at // block for at in chosen})
        assert len(chosen) == sum(min(total, (b + 1) * block) - b * block for b in blocks)
        gaps = [b - a for a, b in itertools.pairwise(blocks)]
        assert not gaps or max(gaps) - min(gaps) <= 1


async def test_it_is_told_as_plain_json(folder: Any) -> None:
    made = await folder.pilot(folder.new_writer(), rows=5)
    assert json.loads(json.dumps(made.as_dict()))["stages"]["say"]["measured"] == 5
