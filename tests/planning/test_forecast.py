"""What stages say beforehand of what they will take, put together before anything runs."""

from typing import Any

import pytest

from engine import Estimate, PipelineError, plan_of
from engine.planning import make_plan

pytestmark = pytest.mark.anyio


async def test_plans_are_put_together_from_source_to_sink(folder: Any) -> None:
    pipeline = folder.read(folder.new_writer())
    told = (await make_plan(pipeline, None)).forecast
    assert told["topics"].takes == Estimate(30)
    plans = told["plans"]
    assert (plans.rows_in, plans.rows, plans.takes.calls) == (30, 300, 60)
    assert plans.cost == pytest.approx((100 * 1 + 50 * 0.5 + 200 * 2) * 60 / 1e6)
    # Without a plan a stage passes on what it gets, and nothing is said of its calls.
    assert [(told[key].rows, told[key].takes) for key in ("say", "mark", "score")] == [
        (300, None)
    ] * 3
    fewer = (await make_plan(pipeline, None, limit=10)).forecast
    assert (fewer["plans"].rows_in, fewer["plans"].takes.calls) == (10, 20)


async def test_what_is_not_known_is_not_told(folder: Any) -> None:
    folder.change("plans: {use: t.plans, with: {llm: llm, each: 10}}", "plans: {use: t.some}")
    told = (await make_plan(folder.read(folder.new_writer()), None)).forecast
    assert told["plans"].rows is None
    assert (told["say"].rows_in, told["score"].rows) == (None, None)


async def test_what_cannot_work_is_refused_with_its_place(folder: Any) -> None:
    folder.change("count: 30", "count: 20000")
    with pytest.raises(PipelineError, match=r"p\.yaml:6:\d+: stage topics \(t\.topics\): there are "
                       "not 20000 topics in the world"):  # fmt: skip
        folder.read(folder.new_writer())


async def test_a_plan_that_fails_is_named(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {wired.key: wired for wired in folder.read(folder.new_writer()).stages.values()}
    mark = stages["mark"].spec.func
    for wrong, said in (
        (lambda rows: 1 / 0, "its plan failed: ZeroDivisionError"),
        (lambda rows: 3, "its plan returned int, not an Estimate"),
    ):
        monkeypatch.setattr(mark, "__engine_plan_of__", None, raising=False)
        plan_of(mark)(wrong)
        with pytest.raises(PipelineError, match=f"stage mark .*{said}"):
            folder.read(folder.new_writer())
