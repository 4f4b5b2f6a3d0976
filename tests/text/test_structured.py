from __future__ import annotations

import json
import re
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text import Graph, Template, Text, TextError, find_json, group, parse_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def _texts(value: Any) -> list[Text]:
    if isinstance(value, str):
        return [Text(value)]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _texts(item)]


@given(values, st.booleans(), st.sampled_from([None, 1, "\t"]))
@settings(deadline=None)
def test_agrees_with_json_and_keeps_the_spans(value: Any, ascii_only: bool, indent: Any) -> None:
    source = Text.leaf(json.dumps(value, ensure_ascii=ascii_only, indent=indent), "call")
    parsed = parse_json(source)
    assert parsed == json.loads(source)
    for text in _texts(parsed):
        (node, *_) = [n for n in text.graph().nodes if n.text == text and n.kind != "leaf"]
        assert node.kind in ("select", "aligned")
        for span in text.spans():
            copied = str(span.leaf)[span.leaf_start : span.leaf_stop]
            assert copied == text[span.start : span.stop]
            assert span.leaf is source or span.leaf is text


def test_escapes_are_aligned() -> None:
    source = Text.leaf(r'{"k": "ab\n\u00e9cd\ud83d\ude00e"}', "call")
    text = parse_json(source)["k"]
    assert text == "ab\nécd😀e"
    of_source = [
        (s.start, s.leaf_start, s.stop - s.start) for s in text.spans() if s.leaf is source
    ]
    assert of_source == [(0, 7, 2), (4, 17, 2), (7, 31, 1)]


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        ("", "1:1"), ("{", "1:2"), ('{"a":1,}', "1:8"), ("[1,\n2,]", "2:3"), ("[1 2]", "1:4"),
        ("NaN", "1:1"), ("-Infinity", "1:1"), ("1e999", "1:1"), ("01", "1:2"), ("'a'", "1:1"),
        ('{"a":1,\n "a":2}', "2:2"), ("{a:1}", "1:2"), ('"\n"', "1:2"), ('"\\x"', "1:2"),
        ("[1]x", "1:4"),
        ("[" * 300, "1:202"), ("1" * 5000, "1:1"), ("\ufeff1", "1:1"),
        ("tru", "1:1"), ('{"a" 1}', "1:6"),
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused_with_its_place(bad: str, place: str) -> None:
    with pytest.raises(TextError, match=rf"not JSON: {place}: "):
        parse_json(bad)


def test_numbers() -> None:
    assert parse_json("[10000000000000000000000000, 1.5e3, -0]") == [10**25, 1500.0, 0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('Sure: {"a": "}"} done {"b": 1}', '{"a": "}"}'),
        ('```json\n[1, {"x": "```"}]\n```', '[1, {"x": "```"}]'),
        ('[note] he said "{" and {"a": [1]}', '{"a": [1]}'),
        ('[1, {"a": 2} and so on', '{"a": 2}'),
    ],
)
def test_find_json(text: str, found: str) -> None:
    source = Text.leaf(text, "call")
    piece = find_json(source)
    assert piece == found
    assert [span.leaf is source for span in piece.spans()] == [True]
    parse_json(piece)


@pytest.mark.parametrize(
    "text", ["", "none", '{"a": 1', "[" * 100_000, "{" * 50_000, '["' * 20_000]
)
def test_find_json_says_when_there_is_none(text: str) -> None:
    with pytest.raises(TextError):
        find_json(text)


def test_group() -> None:
    source = Text.leaf("score: 7/10", "call")
    match = re.search(r"(?P<n>\d+)/(\d+)(x)?", source)
    assert match is not None
    seven = group(match, "n")
    assert seven == "7"
    assert seven.spans()[0].leaf is source
    assert group(match, 3) is None
    with pytest.raises(IndexError):
        group(match, 4)
    plain = re.search("a", "a")
    assert plain is not None
    with pytest.raises(TextError, match="plain str"):
        group(plain)


def test_pydantic_fields_keep_the_graph() -> None:
    class Row(pydantic.BaseModel):
        text: Text
        more: list[Text] = []

    text = Text.leaf("a", "call") + "b"
    row = Row(text=text, more=["x"])  # type: ignore[list-item]
    assert row.text is text
    assert type(row.more[0]) is Text
    assert type(row.model_dump()["text"]) is str
    assert row.model_dump_json() == '{"text":"ab","more":["x"]}'
    assert Row.model_validate_json(row.model_dump_json()) == row
    assert Row.model_json_schema()["properties"]["text"] == {"title": "Text", "type": "string"}
    assert row.model_copy(deep=True).text is text
    with pytest.raises(pydantic.ValidationError):
        Row(text=3)  # type: ignore[arg-type]


HOSTILE = 'say "hi"\n\\" ]; x --> y {a|b} <b>\t\x00\x1b\ud800 #quot; `end`'


def _drawn() -> Graph:
    return (Template("T {x}", id=HOSTILE).fill(x=Text.leaf(HOSTILE, 'op"\n]')) + HOSTILE).graph()


def test_mermaid() -> None:
    graph = _drawn()
    lines = graph.mermaid().splitlines()
    assert lines[0] == "flowchart TD"
    nodes = [line for line in lines if re.fullmatch(r'  n\d+\["(?:[\w …: ]|#\d+;)*"\]', line)]
    edges = [line for line in lines if re.fullmatch(r"  n\d+ --> n\d+", line)]
    assert len(nodes) == len(graph.nodes)
    assert len(edges) == sum(len(node.inputs) for node in graph.nodes)
    assert len(lines) == 1 + len(nodes) + len(edges)
    graph.mermaid().encode()


def test_dot() -> None:
    graph = _drawn()
    lines = graph.dot().splitlines()
    nodes = [
        line
        for line in lines
        if re.fullmatch(r'  n\d+ \[label="(?:[^"\\\x00-\x1f]|\\["\\])*"\];', line)
    ]
    edges = [line for line in lines if re.fullmatch(r"  n\d+ -> n\d+;", line)]
    assert len(nodes) == len(graph.nodes)
    assert len(edges) == sum(len(node.inputs) for node in graph.nodes)
    assert len(lines) == 3 + len(nodes) + len(edges)
    assert "␊" in graph.dot()
    graph.dot().encode()
