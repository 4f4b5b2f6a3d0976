"""A Text in a notebook: painted by source, told in a legend, and never markup of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.text import Template, Text
from engine.text.origins import describe

Show = Callable[[str], Any]
UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

nasty = st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</div>", "&lt;b&gt;", "&amp",
     "<!--", "]]>", "' onmouseover='x", "\ud800", "\u202e", "\0", "\r\n", "\t", "é", "😀", "`", "{"]
)  # fmt: skip
strings = st.lists(nasty | st.text(max_size=6), max_size=4).map("".join)


def visible(text: str) -> str:
    return UNSEEN.sub(lambda m: f"<U+{ord(m[0]):04X}>", text)


@given(source=strings, op=strings, param=strings, literal=strings)
@example(source="<script>alert(1)</script>", op="</title>", param="</style>", literal="<b>")
@settings(max_examples=300, deadline=None, database=None)
def test_no_text_can_be_markup(show: Show, source: str, op: str, param: str, literal: str) -> None:
    leaf = Text.leaf(source, f"source:{op}", params={f"p{param}": param})
    reply = Text.leaf(source, "call", params={"name": param, "stage": op, "call": param})
    filled = Template("x{a}<i>{b}</i>", id=param).fill(a=reply, b=source)
    text = leaf + literal + reply.upper() + filled + leaf[1:3]
    page = text._repr_html_()
    shown = show(page)
    assert shown.words.startswith(visible(text))
    page.encode("utf-8")
    show(text.graph()._repr_html_())


def test_each_phrase_has_a_colour_a_number_and_a_sentence(show: Show) -> None:
    who = Text.leaf("Ada", "source:people.jsonl", params={"line": 3})
    reply = Text.leaf(
        "Certainly.",
        "call",
        params={"name": "small", "stage": "answer", "sample": 0, "finish": "stop", "call": "9f3a"},
    )
    text = Template("Hello, {who}!", id="hello", version="2").fill(who=who) + " - " + reply
    page = text._repr_html_()
    shown = show(page)
    legend = [
        "[1] prompt template hello version 2",
        "[2] source people.jsonl (line 3)",
        "[3] reply of small in stage answer (sample 0, finish stop, call 9f3a)",
    ]
    assert shown.words == text + "".join(legend)
    assert shown.titles == [
        f"{legend[0]}; characters 0 to 7 of 13",
        f"{legend[1]}; characters 0 to 3 of 3",
        f"{legend[0]}; characters 12 to 13 of 13",
        "written in the code",
        f"{legend[2]}; characters 0 to 10 of 10",
    ]
    assert re.findall(r"<sup[^>]*>\u2060\[(\d)\]</sup>", page) == ["1", "2", "1", "3"]
    colours = re.findall(r"background:(#\w{6})33", page)
    assert len({*colours}) == 3
    assert colours[0] == colours[2]


def test_lines_are_kept_and_a_number_stands_before_the_end_of_its_line() -> None:
    page = (Text.leaf("one\n\n", "a") + Text.leaf("\n", "b") + Text.leaf(" two", "c"))._repr_html_()
    assert "white-space:pre-wrap" in page
    assert "one<sup" in page
    assert "</sup>\n\n</span>" in page
    assert page.count("<sup") == 2, "an empty line needs no number"


def test_a_literal_alone_has_no_legend(show: Show) -> None:
    assert show(Text("just words")._repr_html_()).words == "just words"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (Text.leaf("x" * 10_007, "long"), "… 7 more characters, from [10000:]"),
        (
            Text("").join([Text.leaf("ab", f"{i}") for i in range(305)]),
            "… 10 more characters, from [600:]",
        ),
    ],
)
def test_what_is_left_out_of_a_long_text_is_said(show: Show, text: Text, left: str) -> None:
    assert left in show(text._repr_html_()).words


def test_the_page_is_small() -> None:
    replies = [
        Text.leaf(
            f"Phrase number {i:02} of a text, which is about as long as phrases are. ",
            "call",
            params={"name": "smollm2-135m-instruct", "stage": "revision", "call": f"{i:032x}"},
        )
        for i in range(30)
    ]
    text = Text("").join(replies)
    assert len(text) >= 2000
    assert len(text.spans()) == 30
    assert len(text._repr_html_()) < 18_000
    endless = Text.leaf("x", "source:f", params={"note": "n" * 100_000})
    assert len(endless._repr_html_()) < 2_000


def test_a_graph_is_a_table_of_its_nodes(show: Show) -> None:
    text = Text.leaf("Ada", "source:f") + "\n"
    shown = show(text.graph()._repr_html_())
    assert shown.words == "made byout oftext1leaf source:f'Ada'2leaf literal'\\n'3cat1, 2'Ada\\n'"
    many = Text.leaf("a", "source:f")
    for _ in range(300):
        many = many.upper()
    assert "… 101 nodes before these" in show(many.graph()._repr_html_()).words


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (Text("x"), "written in the code"),
        (Text.leaf("x", "template"), "prompt template (unnamed)"),
        (Text.leaf("x", "stage:answer"), "stage answer"),
        (Text.leaf("x", "call", params={"model": "m, r1"}), "reply of m (sample None"),
        (Text.leaf("x", "s").upper(), "made by the operation 'upper' out of s"),
        ((Text.leaf("x", "s") + Text.leaf("y", "r")).upper(), "made by the operation 'upper'"),
        (Text("x").upper(), "made by the operation 'upper'"),
        (Text.leaf("x", "s") + "y", "made by operations on other texts"),
    ],
)
def test_a_sentence_says_where_characters_were_made(text: Text, sentence: str) -> None:
    leaf = text.spans()[0].leaf if len(text.spans()) == 1 else text
    said = describe(leaf)
    assert said == sentence or said.startswith(sentence + ",")
