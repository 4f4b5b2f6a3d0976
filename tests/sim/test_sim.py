"""Simulated pipelines keep every promise; planted bugs are found; a seed is always the same run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.__main__ import WITHIN, first_to_find
from tests.sim.bugs import BUGS
from tests.sim.lives import simulate

ROOT = Path(__file__).parents[2]
FIRST, LAST = map(int, os.environ.get("SIM", "0:100").split(":"))


@pytest.mark.parametrize("first", range(FIRST, LAST, 10))
def test_nothing_is_lost_or_paid_for_twice(first: int) -> None:
    for seed in range(first, min(first + 10, LAST)):
        try:
            simulate(seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    seed, _ = first_to_find(name)
    assert seed is not None, f"{name} is not found within {WITHIN} seeds"


def test_a_seed_gives_the_same_trace_in_every_process() -> None:
    seeds = range(20, 25)
    traces = [simulate(seed).trace for seed in seeds]
    assert sum(map(len, traces)) > 500
    assert len({str(trace) for trace in traces}) == len(seeds)
    assert [simulate(seed).trace for seed in seeds] == traces
    code = f"from tests.sim.lives import simulate; print([simulate(s).trace for s in {seeds}])"
    for hash_seed in ("0", "4711"):
        printed = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout.strip() == str(traces)
