"""Identity: digests do not collide by concatenation, and the same values have the same bytes."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Artifact, Text
from engine.keys import canonical, child_id, digest, memo_key, seeded, source_id
from engine.rows import Message

PARTS = st.lists(st.one_of(st.text(max_size=4), st.binary(max_size=4)), max_size=4)
NAMES = st.tuples(st.text(max_size=3), st.text(max_size=3))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def as_bytes(parts: list[str | bytes]) -> list[bytes]:
    return [p.encode("utf-8", "surrogatepass") if isinstance(p, str) else p for p in parts]


@given(PARTS, PARTS)
def test_digests_are_of_the_list_not_of_its_concatenation(
    a: list[str | bytes], b: list[str | bytes]
) -> None:
    assert (digest(*a) == digest(*b)) == (as_bytes(a) == as_bytes(b))


@given(NAMES, NAMES)
def test_ids_tell_stage_from_key(a: tuple[str, str], b: tuple[str, str]) -> None:
    assert (source_id(*a) == source_id(*b)) == (a == b)
    parent = bytes(16)
    assert (child_id(parent, *a) == child_id(parent, *b)) == (a == b)


def test_ids_are_as_the_house_says() -> None:
    parent = digest("parent")
    assert len(source_id("a", "k")) == len(child_id(parent, "a", 0)) == 16
    assert source_id("a", "k") == source_id("a", b"k")  # a key in UTF-8
    assert source_id("a", "k", 0) != source_id("a", "k", 1)  # equal rows are counted
    assert child_id(parent, "a", 1) != child_id(parent, "a", "1")  # an ordinal is no key
    assert child_id(parent, "a", 1) != child_id(parent, "a", 2)
    assert child_id(parent, "a", 1) != child_id(digest("other"), "a", 1)
    assert source_id("a", "k") != child_id(b"", "a", "k")


def test_ids_stay_what_they_were() -> None:
    """Every store depends on these: they change with a new major version only."""
    assert digest("a", b"b").hex() == "6a93c5780b9861cdd8d2761a748d9591"
    assert source_id("topics", "7").hex() == "1362765719c11a12ad65062a030f32dc"
    assert child_id(bytes(16), "pairs", 2).hex() == "e481462ed0d0564b67ae7aa4c4dde4b6"
    assert (
        memo_key(b"f", bytes(16), {"a": Text("x"), "b": 1}).hex()
        == "63a7e0edb5be74c019bd483b7fbf69c2"
    )


@given(JSON)
def test_canonical_is_json_that_says_the_same(value: Any) -> None:
    read = json.loads(canonical(value))
    assert canonical(read) == canonical(value)
    assert math.isclose(read, value) if isinstance(value, float) else True


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_the_order_of_a_mapping_does_not_count(value: dict[str, Any]) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


@given(st.lists(JSON, max_size=3))
def test_tuples_are_lists(value: list[Any]) -> None:
    assert canonical(tuple(value)) == canonical(value)


@pytest.mark.parametrize("value", ["\ud800", 2**64, -(2**70), {"\udfff": 2**100}, ["é\ud800"]])
def test_canonical_holds_what_orjson_refuses(value: Any) -> None:
    assert json.loads(canonical(value)) == value


def test_texts_count_by_their_characters() -> None:
    made = Text("a {b}").format(b=Text.leaf("c", "x"))
    assert canonical(made) == canonical("a c")
    assert canonical(Message(role="user", content=made)) == canonical(
        {"role": "user", "content": "a c"}
    )


def test_artifacts_and_bytes_count_by_what_they_hold() -> None:
    artifact = Artifact("ab", "text/plain", 2)
    assert canonical(artifact) == canonical(Artifact("ab", "text/plain", 2))
    assert canonical(artifact) != canonical(Artifact("ac", "text/plain", 2))
    assert canonical(b"\x00") != canonical(b"\x01")


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, [object()], {"a": {"b": object()}}])
def test_what_a_row_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=f"a row cannot carry a value of type {kind(value)}"):
        canonical(value)


def kind(value: Any) -> str:
    while isinstance(value, (list, dict)):
        value = value[0] if isinstance(value, list) else next(iter(value.values()))
    return type(value).__name__


def test_randomness_depends_on_seed_and_names_alone() -> None:
    assert seeded(7, "stage", "row").random() == seeded(7, "stage", "row").random()
    draws = {seeded(*a).random() for a in [(7, "a", "b"), (7, "ab", ""), (8, "a", "b"), (7, "a")]}
    assert len(draws) == 4
