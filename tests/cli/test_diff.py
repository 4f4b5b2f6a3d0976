"""`engine diff` says what differs between two runs, and why."""

import re
from typing import Any

import pytest


@pytest.fixture
def two(ended: Any) -> Any:
    """A pipeline that ran twice: the second time with another ending and one topic less."""
    ended("run", "toy.yaml", "-q", "--set", "stages.say.with.end=!".replace("!", "so"),
          "--set", "stages.topics.with.count=3", code=3)  # fmt: skip
    return ended


def test_stages_and_rows_that_differ(two: Any) -> None:
    told = two.json("diff", "toy.yaml@1", "toy.yaml@2")
    assert (told["a"]["id"], told["b"]["id"]) == (1, 2)
    assert told["changes"] == {"topics": ["count: 4 -> 3"], "say": ['end: "." -> "so"']}
    rows = told["rows"]
    assert (rows["same"], len(rows["only_a"]), rows["only_b"]) == (0, 2, [])
    assert len(rows["changed"]) == 4
    (name,) = rows["changed"][0]["fields"]
    assert name == "said"
    sides = rows["changed"][0]["fields"]["said"]
    assert sides["b"] == sides["a"].removesuffix(".") + "so"
    assert told["a"]["stages"]["say"]["received"] == 8
    assert told["b"]["stages"]["say"]["received"] == 6


def test_a_run_is_like_itself(two: Any) -> None:
    told = two.json("diff", "toy.yaml@2", "toy.yaml")
    assert told["changes"] == {}
    assert told["rows"] == {"same": 4, "only_a": [], "only_b": [], "changed": []}


def test_people_see_changed_words(two: Any) -> None:
    shown = two("diff", "toy.yaml@1", "toy.yaml@2").stdout
    assert "rows: 0 the same, 4 changed, 2 only in A, 0 only in B" in shown
    assert 'say: end: "." -> "so"' in shown
    assert re.search(r"said: .*\[-\w+\.-\]\{\+\w+so\+\}", shown), "marked, where no colour is"
    few = two("diff", "toy.yaml@1", "toy.yaml@2", "--rows", "1").stdout
    assert "~ 3 more: --rows 4" in few
    assert "- 1 more" in few
    assert few.count("said: ") == 1


def test_two_files_and_hostile_text(two: Any) -> None:
    other = two.folder / "other.yaml"
    other.write_text(two.file.read_text().replace("name: toy", "name: other"))
    two.change("replies.jsonl", '"no \\u001b[31mway [/bold]"', '"yes \\u001b[2J[/bold]"')
    two("run", "other.yaml", "-q", code=3)
    told = two.json("diff", "toy.yaml@1", "other.yaml")
    assert told["changes"]["say"][0].startswith("resource llm: fixture ")
    assert len(told["rows"]["only_b"]) == 1, "what was refused is in B"
    two.change("replies.jsonl", '"yes \\u001b[2J[/bold]"', '"yes \\u001b[3J[/bold]"')
    two("run", "other.yaml", "-q", code=3)
    shown = two("diff", "other.yaml@1", "other.yaml@2").stdout
    assert "[/bold]" in shown
    assert "\x1b" not in shown


def test_wrong_words_are_told(two: Any) -> None:
    assert "has no run 9" in two("diff", "toy.yaml@1", "toy.yaml@9", code=2).stderr
