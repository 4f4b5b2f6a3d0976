"""Dumps and records: format version 1, damage, tampering, other processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.text
from engine.text import (
    Template,
    Text,
    TextError,
    dumps,
    from_records,
    loads,
    parse_json,
    to_records,
)
from engine.text.wire import FORMAT, MAGIC, digest, encode

GOLDEN = Path(__file__).with_name("format-1.dump")
ROOT = Path(engine.text.__file__).parents[2]


def every_kind() -> Text:
    """One graph with each kind of node, a lone surrogate, and parameters of every JSON type."""
    source = Text.leaf("über \ud800 red, green", "source:a.txt", params={"line": 3})
    prompt = Template("Say {what}: {{ok}}", id="say", version="2").fill(what=source[5:])
    reply = Text.leaf(
        '["bl\\u00fce", "x"] and a tail that is longer than a literal may be, inline in a record',
        "call",
        inputs=[prompt],
        params={
            "model": "m",
            "seed": 7,
            "t": 0.5,
            "stop": ["\n", None],
            "raw": {"b": 1, "a": True},
        },
    )
    parts = parse_json(reply.partition(" and")[0])
    colours = Text("; ").join([*source.split(", "), *parts]).upper()
    return colours.replace("X", Text.leaf("new", "user")) + "!" + reply[3:60:7]


def test_golden_dump_of_format_1() -> None:
    """Written by an earlier release: it must go on loading, with equal dids, for ever."""
    (golden,) = loads(GOLDEN.read_bytes())
    fresh = every_kind()
    assert golden == fresh
    assert golden.did == fresh.did
    assert golden.did.hex() == "3bb43c9a3a8d531aa5322b6ab31fc81e"
    assert dumps(fresh) == GOLDEN.read_bytes()
    kinds = {node.kind for node in golden.graph().nodes}
    assert kinds == {"leaf", "cat", "fill", "select", "aligned"}


@pytest.mark.parametrize("seed", ["0", "1"])
def test_other_processes_read_and_make_the_same(seed: str, tmp_path: Path) -> None:
    text = every_kind()
    (tmp_path / "pickle").write_bytes(pickle.dumps(text))
    program = """
import pickle, sys
from pathlib import Path
from engine.text import dumps, loads
assert "pydantic" not in sys.modules and "yaml" not in sys.modules, "import must be cheap"
folder = Path(sys.argv[1])
text = pickle.loads((folder / "pickle").read_bytes())
sys.stdout.buffer.write(loads(dumps(text))[0].did + dumps(text))
"""
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, str(tmp_path)]
    ran = subprocess.run(command, env=env, capture_output=True, check=True)
    assert ran.stdout == text.did + dumps(text)


def test_copies_are_the_text_itself() -> None:
    text = every_kind()
    assert copy(text) is text
    assert deepcopy([text])[0] is text


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_dumps_are_refused(data: st.DataObject) -> None:
    whole = dumps(every_kind())
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from([whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]])
        | st.binary(max_size=60)
    )
    with pytest.raises(TextError):
        loads(damaged)


def _sealed(table: object) -> bytes:
    body = encode(table)
    return b"%s%d %s\n%s" % (MAGIC, FORMAT, digest(body).hex().encode(), body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5) | st.sampled_from(["a", "leaf", "slice"]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
rows = st.tuples(
    st.sampled_from(["leaf", "cat", "fill", "select", "aligned", "other"]),
    json_values,
    json_values,
    json_values,
    json_values,
).map(list)


@given(st.lists(rows | json_values, max_size=4), st.lists(st.integers(-3, 3), max_size=2))
@settings(max_examples=300, deadline=None)
def test_wrong_tables_with_a_right_hash_are_refused_or_sound(
    nodes: list[object], roots: list[int]
) -> None:
    try:
        texts = loads(_sealed({"strings": ["", "abc", "{a}"], "nodes": nodes, "roots": roots}))
    except TextError:
        return
    for text in texts:
        assert "".join(s.leaf[s.leaf_start : s.leaf_stop] for s in text.spans()) == text
        assert loads(dumps(text))[0].did == text.did


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"strings": [], "nodes": [["knot", 1]], "roots": []}, "unknown"),
        ({"strings": ["a"], "nodes": [["cat", [0]]], "roots": [0]}, "not well formed"),
        ({"strings": ["a"], "nodes": [["select", -1, 0, 2, ["slice"], None]], "roots": []}, "well"),
        ({"strings": ["ab"], "nodes": [["cat", [~0] * 2]] * 1, "roots": [3]}, "not well formed"),
        (
            {
                "strings": ["ab" * 512],
                "nodes": [["cat", [~0, ~0]], *(["cat", [i, i]] for i in range(60))],
                "roots": [60],
            },
            "more than",
        ),
        ({"nodes": []}, "not well formed"),
        ([], "not well formed"),
    ],
)
def test_what_a_table_must_be(table: object, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.text.loading.MAX_CHARS", 1 << 20)
    with pytest.raises(TextError, match=message):
        loads(_sealed(table))


def test_other_versions_are_refused() -> None:
    with pytest.raises(TextError, match="format"):
        loads(dumps(Text("a")).replace(b"dump 1 ", b"dump 2 "))


def test_literals_and_nothing() -> None:
    assert loads(dumps()) == ()
    a, b = loads(dumps(Text("a" * 100), Text("")))
    assert (a, b) == ("a" * 100, "")
    assert a.did == Text("a" * 100).did


def test_records_stop_at_what_is_known() -> None:
    text = every_kind()
    store = dict(to_records(text, lambda did: False))
    assert list(to_records(text, store.__contains__)) == []
    more = (text + " more")[2:]
    assert len(list(to_records(more, store.__contains__))) == 2
    assert len(store) < len(text.graph().nodes), "short literals need no record"
    twins = [Text.leaf("a" * 99, "source", params={"n": 1}) for _ in range(2)]
    dids = [did for did, _ in to_records(twins[0] + twins[1], store.__contains__)]
    assert len(dids) == len(set(dids)) == 2
    (only,) = to_records(Text("lit"), store.__contains__)
    assert from_records(only[0], dict([only]).__getitem__, {}) == "lit"


@pytest.mark.parametrize(
    "make", [lambda t, s: t + s, lambda t, s: s + t, lambda t, s: t.join([s, s])]
)
def test_a_long_plain_string_has_a_record_of_its_own(make: Any) -> None:
    leaf = Text.leaf("x", "draw")
    text = make(leaf, "long " * 50)
    store = dict(to_records(text, lambda did: False))
    assert from_records(text.did, store.__getitem__, {}) == text
    assert list(to_records(text, store.__contains__)) == []
    again = dict(to_records(make(leaf + "y", "long " * 50), store.__contains__))
    assert len(again) < len(store), "the literal is stored once"


def test_tampering_is_found_and_named() -> None:
    text = every_kind()
    store = dict(to_records(text, lambda did: False))
    for did, record in store.items():
        for at in range(len(record)):
            changed = record[:at] + bytes([record[at] ^ 4]) + record[at + 1 :]
            with pytest.raises(TextError, match=did.hex()):
                from_records(text.did, {**store, did: changed}.__getitem__, {})
        with pytest.raises(TextError, match=did.hex()):
            from_records(text.did, {k: v for k, v in store.items() if k != did}.__getitem__, {})


def test_a_record_that_is_not_canonical_is_refused() -> None:
    data = b'["cat", ["a","b"]]'
    with pytest.raises(TextError, match="canonical"):
        from_records(digest(data), {digest(data): data}.__getitem__, {})


def test_did_depends_on_everything_but_identity() -> None:
    def leaf(text: str = "a", op: str = "o", of: str = "i", **params: object) -> Text:
        return Text.leaf(text, op, inputs=[Text(of)], params=params)

    variants = [leaf(), leaf("b"), leaf(op="p"), leaf(of="j"), leaf(x=1), leaf(x=2), leaf(x="1")]
    variants += [
        leaf() + "x",
        "x" + leaf(),
        leaf()[0:],
        leaf()[:1],
        leaf().strip(),
        leaf().upper(),
    ]
    assert len({v.did for v in variants}) == len(variants)
    assert leaf(x=1, y=2).did == leaf(y=2, x=1).did
    assert (Text("a") + "b").did == ("a" + Text("b")).did
    assert len(leaf().did) == 16
    # two lone surrogates are not the character that their pair would encode
    assert Text("\ud83d\ude00").did != Text("\U0001f600").did
    assert loads(dumps(Text("\ud83d\ude00")))[0] == "\ud83d\ude00"


def test_parameters_are_copied_and_must_be_json() -> None:
    stop = ["a"]
    text = Text.leaf("x", "call", params={"stop": stop, "a": 1})
    did = text.did
    stop.append("b")
    assert text.origin is not None
    assert list(text.origin.params.items()) == [("a", 1), ("stop", ["a"])]
    assert loads(dumps(text))[0].did == did
    for wrong in (float("nan"), object(), {1, 2}, b"x"):
        with pytest.raises(TextError, match="'bad'"):
            Text.leaf("x", "call", params={"bad": wrong})


def test_spans_do_not_depend_on_which_object_a_leaf_is() -> None:
    literal = Text("ab cd")
    text = literal[:2] + literal[2:]
    assert [(s.start, s.stop) for s in text.spans()] == [(0, 5)]
    (again,) = loads(dumps(text))
    assert [(s.start, s.stop) for s in again.spans()] == [(0, 5)]
