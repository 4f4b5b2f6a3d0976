"""The detector: what names a term, what does not, and where."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from engine_pink_elephant.mentions import Mention, find, names
from hypothesis import given
from hypothesis import strategies as st

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "mentions_cases.jsonl").read_text("utf-8").splitlines()
]
BATCHES = sorted({case["batch"] for case in CASES})


@pytest.mark.parametrize("batch", BATCHES)
def test_labelled_cases(batch: str) -> None:
    """Each line: a term, texts that name it, texts that do not; those of a batch were written at once."""
    wrong, told = [], 0
    for case in (case for case in CASES if case["batch"] == batch):
        aliases, exact = case.get("aliases", ()), case.get("case_sensitive", False)
        for text, expected in [(t, True) for t in case["yes"]] + [(t, False) for t in case["no"]]:
            told += 1
            if names(text, case["term"], aliases, case_sensitive=exact) != expected:
                wrong.append((case["term"], text, expected))
            found = find(text, case["term"], aliases, case_sensitive=exact)
            assert bool(found) == names(text, case["term"], aliases, case_sensitive=exact)
            assert all(text[m.start : m.stop] == m.form for m in found)
    assert told >= 100
    assert len(wrong) <= 0.01 * told, wrong


@pytest.mark.parametrize(
    ("text", "term", "aliases", "forms"),
    [
        ("I like Coca\u200b Cola\u2019s taste, and \u201cC\u043eke\u201d.", "Coca-Cola", ["Coke"], ["Coca\u200b Cola\u2019s", "C\u043eke"]),
        ("A Coca-Cola Zero and a Coca-Cola.", "Coca-Cola", ["Coca-Cola Zero"], ["Coca-Cola Zero", "Coca-Cola"]),
        ("No <b>Pep</b>si, no P3psi, no **Pep**si!", "Pepsi", [], ["Pep</b>si", "P3psi", "Pep**si"]),
        ("AT&amp;T; Nestl&eacute;", "AT&T", ["Nestl\u00e9"], ["AT&amp;T", "Nestl&eacute;"]),
        ("skis, skied, skiers", "skiing", [], ["skis", "skied", "skiers"]),
        ("\uff2e\uff49\uff4b\uff45: \U0001d40d\U0001d422\U0001d424\U0001d41e cafe\u0301s", "Nike", ["caf\u00e9"], ["\uff2e\uff49\uff4b\uff45", "\U0001d40d\U0001d422\U0001d424\U0001d41e", "cafe\u0301s"]),
        ("C++17, C# and C", "C", [], ["C"]),
        ("a soft ele-\nphant", "elephant", [], ["ele-\nphant"]),
        ("apple.com sells Apple, not apples", "Apple", [], ["apple", "Apple", "apples"]),
    ],
)  # fmt: skip
def test_places_are_those_of_the_text(
    text: str, term: str, aliases: list[str], forms: list[str]
) -> None:
    found = find(text, term, aliases)
    assert [m.form for m in found] == forms
    assert [text[m.start : m.stop] for m in found] == forms


@pytest.mark.parametrize("term", ["", " ", "!!!", "\u200b", ".", "+", "[](", "(?:a+)+$", "\\"])
def test_a_term_of_signs_alone_is_named_by_nothing(term: str) -> None:
    assert not names("anything! [x](y) \\ . + aaa", term)
    assert find("", term) == []


@given(st.text())
def test_any_text_can_be_searched(text: str) -> None:
    terms = ("Coca-Cola", ("golf", "skiing", "C++", "R&D", "\u30b3\u30fc\u30d2\u30fc"))
    found = find(text, *terms)
    assert bool(found) == names(text, *terms)
    assert all(
        0 <= m.start < m.stop <= len(text) and m.form == text[m.start : m.stop] for m in found
    )
    assert all(a.stop <= b.start for a, b in pairwise(found))


@given(st.text(max_size=20), st.lists(st.text(max_size=8), max_size=3), st.booleans())
def test_any_term_can_be_searched_for(term: str, aliases: list[str], case_sensitive: bool) -> None:
    find("The quick brown fox, \u00e9t\u00e9 & c++.", term, aliases, case_sensitive=case_sensitive)


WORDS = st.from_regex(
    re.compile("[bdfgkmpvwz][aeiou][bdfgkmpvwz][aeiou][bdfgkmpvwz]{1,2}", re.A), fullmatch=True
)


@given(WORDS, st.data())
def test_a_term_cannot_hide(term: str, data: st.DataObject) -> None:
    hidden = "".join(
        data.draw(
            st.sampled_from((c, c + "\u0301", "\u200d" + c, chr(ord(c) + 0xFEE0), f"&#{ord(c)};"))
        )
        for c in term
    )
    text = f"well, {hidden}!"
    assert [m.form for m in find(text, term)] == [hidden.lstrip("\u200d")]


@given(WORDS, WORDS, st.sampled_from((" ", "-", "_", "\u2013", "\u00a0", "-\n", "")))
def test_parts_may_be_joined_otherwise(one: str, two: str, joint: str) -> None:
    assert names(f"a {one}{joint}{two}.", f"{one}-{two}")
    assert not names(f"a {one} or {two}.", f"{one}-{two}")


@given(WORDS, st.text("abcdefghij", min_size=1, max_size=4))
def test_letters_of_another_word_are_no_mention(term: str, more: str) -> None:
    assert not names(f"the {more}{term}", term)


@pytest.mark.parametrize(
    "text",
    ["g " * 150_000, "g o l " * 50_000, "<b" * 150_000, "**a" * 100_000, "coca " * 60_000,
     "a1" * 150_000, "&" * 300_000, "golf-" * 60_000, "\u0435\u0301" * 100_000, "g*" * 150_000],
    ids=lambda text: repr(text[:6]),
)  # fmt: skip
def test_the_time_grows_with_the_text_alone(text: str) -> None:
    assert not names(text + "x", "golfs of war", ["Coca-Cola", "skiing"])


def test_a_mention_says_where() -> None:
    assert find("a Pepsi", "Pepsi") == [Mention(2, 7, "Pepsi")]


def test_markup_that_only_points_to_a_name_is_no_part_of_it() -> None:
    text = "<img src='pepsi.png'> a <a href=\"https://pepsi.com\">drink</a>"
    assert [m.form for m in find(text, "Pepsi")] == ["pepsi", "pepsi"]
