"""A plan tells the truth: what the next run does is what it said."""

from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.pipeline import read_pipeline
from engine.planning import Plan, make_plan
from engine.runs import Summary
from engine.store import find_runs

STAGES = """
  numbers: {use: ./stages.py:numbers, with: {keyed: true, count: 12}}
  cheap: {use: ./stages.py:cheap, memo: true}
  word: {use: ./stages.py:word}
  ask: {use: ./stages.py:ask, with: {llm: llm}, retry: 2}
  gate: {use: ./stages.py:gate}
  parts: {use: ./stages.py:parts, from: gate}
  score: {use: ./stages.py:score, batch: 4, give: {score: points}}
  place: {use: ./stages.py:place}
  out: {use: dataset.write, with: {path: out.jsonl}}
"""
EDITS = {
    "stages.numbers.with.count": [12, 13, 9],
    "stages.numbers.with.other": [0, 1],
    "stages.cheap.with.plus": [0, 1, 9],
    "stages.word.with.suffix": ["y", "x"],
    "stages.ask.with.least": [3, 20],
    "stages.gate.with.modulo": [5, 6],
    "seed": [0, 1],
}
RENEWED = ["ask", "parts", "score", "place"]


def check(plan: Plan, summary: Summary) -> None:
    """Compare what was said with what was done."""
    for key, said in plan.stages.items():
        done, known = summary.stages[key], said.counters
        if said.more is None or said.kind == "source":
            continue
        assert known.received <= done.received <= known.received + said.more, key
        if said.more or said.waiting:
            continue
        assert done.received == known.received, key
        if said.kind != "stream":  # sinks are streams, and reuse nothing
            assert done.reused == known.reused, key
        if not said.work:
            assert done.calls == 0, f"{key} was to pay nothing"
            assert (done.out, done.rejected, done.dead) == (
                known.out,
                known.rejected,
                known.dead,
            ), key
    if not any(stage.work or stage.waiting or stage.open for stage in plan.stages.values()):
        assert plan.finished == summary.finished
    assert plan.finished <= summary.finished


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_law_of_plans(
    tmp_path_factory: pytest.TempPathFactory, lab_class: Any, backend: str
) -> None:
    edit = st.sampled_from(sorted(EDITS)).flatmap(
        lambda path: st.sampled_from(EDITS[path]).map(lambda value: f"{path}={value}")
    )

    @settings(
        max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(
        st.lists(
            st.tuples(
                st.lists(edit, max_size=2),
                st.sampled_from([*RENEWED, ""]),
                st.sampled_from(["", "", "stop", "cancel"]),
                st.integers(1, 40),
            ),
            min_size=2,
            max_size=4,
        )
    )
    def law(steps: list[tuple[list[str], str, str, int]]) -> None:
        it = lab_class(tmp_path_factory.mktemp("it"), STAGES)

        async def plan(overrides: list[str]) -> Plan:
            pipeline = read_pipeline(it.path, overrides=overrides)
            if not (it.folder / ".engine").exists():
                return await make_plan(pipeline, None)
            store = find_runs(it.folder / ".engine" / "test")
            try:
                return await make_plan(pipeline, store)
            finally:
                store.close()

        async def main() -> None:
            for number, (overrides, renewed, how, at) in enumerate(steps, 2):
                if renewed:
                    text = (it.folder / "stages.py").read_text()
                    head, _, tail = text.partition(f'"t.{renewed}", version="')
                    changed = f'{head}"t.{renewed}", version="{number}"{tail.partition(chr(34))[2]}'
                    (it.folder / "stages.py").write_text(changed)
                said = await plan(overrides)
                assert said.run == (number - 2 or None)
                if how:
                    await it.stop(how, at, *overrides)
                else:
                    check(said, await it.run(*overrides))

        anyio.run(main, backend=backend)

    law()
