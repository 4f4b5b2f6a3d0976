"""Near-duplicates: what counts as one, what is told of it, and how much is held."""

import random
from typing import Any

import pytest
from engine_pink_elephant.dedup import SKETCH, Index, dedup
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.testing import run_stage

pytestmark = pytest.mark.anyio

WORDS = [f"w{i}" for i in range(400)]


def words(seed: int, count: int = 120) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def edited(said: list[str], count: int, seed: int = 0) -> list[str]:
    changed = list(said)
    for at in random.Random(seed).sample(range(len(said)), count):
        changed[at] = f"new{at}"
    return changed


def row(said: list[str], desired: str = "tea", pink: str = "coffee") -> dict[str, Any]:
    half = len(said) // 2
    turns = (" ".join(said[:half]), " ".join(said[half:]))
    roles = ("user", "assistant")
    dialogue = [{"role": r, "content": t} for r, t in zip(roles, turns, strict=True)]
    return {"dialogue": dialogue, "desired": desired, "pink": pink, "aliases_pink": [pink + " pot"]}


def naming(said: list[str], desired: str, pink: str) -> list[str]:
    return ["I", "like", desired, *said, "but", "what", "of", f"{pink}s?"]


async def test_the_first_of_what_is_nearly_the_same_is_kept() -> None:
    a, b = words(1), words(2)
    rows = [row(a), row(b), row(edited(a, 3)), row(edited(a, 30)), row(b)]
    found = await run_stage(dedup, rows)
    assert [r["dialogue"] for r in found] == [
        r["dialogue"] for r in await run_stage(dedup, [rows[i] for i in (0, 1, 3)])
    ]
    assert found.rejected == {"near_duplicate": 1, "duplicate": 1}
    assert found.counters.examples == {
        "near_duplicate": [found[0].row_id],
        "duplicate": [found[1].row_id],
    }


@pytest.mark.parametrize(("mask", "kept"), [(True, 1), (False, 2)])
async def test_a_script_with_other_names_is_the_same_script(mask: bool, kept: int) -> None:
    said = words(1, 9)
    rows = [
        row(naming(said, "green tea", "coffee"), "green tea", "coffee"),
        row(naming(said, "Canoe", "KAYAK"), "canoe", "kayak"),
    ]
    found = await run_stage(dedup, rows, mask_terms=mask)
    assert len(found) == kept
    assert found.rejected == ({"near_duplicate": 1} if mask else {})


@pytest.mark.parametrize(("threshold", "kept"), [(0.95, 2), (0.5, 1)])
async def test_the_threshold_is_a_share_of_runs(threshold: float, kept: int) -> None:
    a = words(3)
    assert len(await run_stage(dedup, [row(a), row(edited(a, 4))], threshold=threshold)) == kept


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 900), st.integers(0, 30), st.integers(0, 9), st.integers(1, 4))
def test_what_is_alike_is_what_shares_its_runs(count: int, edits: int, seed: int, run: int) -> None:
    a = words(seed, count)
    b = edited(a, min(edits, count), seed)
    index = Index(0.7, run)
    assert index.add("", " ".join(a), " ".join(a)) is None

    def runs(said: list[str]) -> set[tuple[str, ...]]:
        size = min(run, len(said))
        return set(zip(*(said[i:] for i in range(size)), strict=False))

    share = len(runs(a) & runs(b)) / len(runs(a) | runs(b))
    found = index.add("", " ".join(b), " ".join(b))
    if share < 0.7 and len(runs(a)) <= SKETCH >= len(runs(b)):  # exact, and never a false one
        assert found is None
    if share < 0.6:
        assert found is None
    if share > 0.85:
        assert found is not None
        assert found.reason == ("duplicate" if a == b else "near_duplicate")


@given(st.lists(st.text(max_size=20), max_size=20))
def test_any_text_is_kept_once(texts: list[str]) -> None:
    index = Index(1.0)
    kept = sum(index.add("", text, text) is None for text in texts)
    assert len(index) == kept <= len(set(texts))
    assert all(index.add("", text, text) is not None for text in texts)


def test_it_finds_a_row_among_thousands_that_are_half_alike_and_stays_small() -> None:
    """Templates share bands; a row is compared with a few, and is found all the same."""
    index = Index()
    common = words(0, 60)
    kept = 0
    for seed in range(1500):
        said = " ".join([*common, *words(seed + 1, 40)])
        kept += index.add(f"{seed:032x}", said, said) is None
    assert kept == 1500
    again = " ".join([*common, *words(701, 40)])
    found = index.add("", again, again)
    assert found is not None
    assert found == ("duplicate", f"{700:032x}")
