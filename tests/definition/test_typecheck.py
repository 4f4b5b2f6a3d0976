"""The laws of `fits`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, Protocol, TypedDict, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from engine import Artifact, Text
from engine.rows import Message
from engine.typecheck import fits, show


class Base(BaseModel):
    a: int


class Derived(Base):
    b: int


class Record(TypedDict):
    a: int


class Other(Protocol):
    a: int


Score = NewType("Score", float)
T = TypeVar("T")

SIMPLE = [bool, int, float, str, Text, bytes, type(None), Base, Derived, Message, Artifact]
LITERALS = [Literal[1], Literal["a"], Literal[1, "a"], Literal[True]]


def hints() -> st.SearchStrategy[Any]:
    return st.recursive(
        st.sampled_from([*SIMPLE, *LITERALS]),
        lambda inner: st.one_of(
            inner.map(lambda x: list[x]),  # type: ignore[valid-type]
            inner.map(lambda x: tuple[x, ...]),  # type: ignore[valid-type]
            st.tuples(inner, inner).map(lambda x: tuple[x]),
            inner.map(lambda x: dict[str, x]),  # type: ignore[valid-type]
            inner.map(lambda x: Sequence[x]),  # type: ignore[valid-type]
            st.tuples(inner, inner).map(lambda x: x[0] | x[1] if x[0] is not x[1] else x[0]),
        ),
        max_leaves=6,
    )


@given(hints())
def test_a_type_fits_itself_anything_and_any(hint: Any) -> None:
    assert fits(hint, hint)
    assert fits(hint, Any)
    assert fits(hint, object)
    assert fits(Any, hint)
    assert fits(hint, T)


@given(hints(), hints())
def test_annotations_change_nothing(made: Any, wanted: Any) -> None:
    assert fits(Annotated[made, "x"], wanted) == fits(made, wanted)
    assert fits(made, Annotated[Annotated[wanted, "x"], "y"]) == fits(made, wanted)


@given(hints(), hints(), hints())
def test_each_member_of_a_union_must_fit(a: Any, b: Any, wanted: Any) -> None:
    assert fits(a | b, wanted) == (fits(a, wanted) and fits(b, wanted))
    assert fits(a, a | b)
    assert fits(b, a | b)


@given(hints(), hints())
def test_containers_are_covariant(made: Any, wanted: Any) -> None:
    fit = fits(made, wanted)
    assert fits(list[made], list[wanted]) == fit
    assert fits(list[made], Sequence[wanted]) == fit
    assert fits(tuple[made, ...], tuple[wanted, ...]) == fit
    assert fits(tuple[made, made], Sequence[wanted]) == fit
    assert fits(tuple[int, made], tuple[int, wanted]) == fit
    assert fits(dict[str, made], Mapping[str, wanted]) == fit


@given(hints(), hints(), hints())
def test_what_fits_a_thing_fits_what_that_fits(a: Any, b: Any, c: Any) -> None:
    if fits(a, b) and fits(b, c):
        assert fits(a, c)


@pytest.mark.parametrize("wanted", [hint for hint in SIMPLE if hint is not bool])
def test_bool_is_only_bool(wanted: Any) -> None:
    assert not fits(bool, wanted)
    assert not fits(wanted, bool)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (int, float),
        (str, Text),
        (Text, str),
        (Derived, Base),
        (Literal["a"], Literal["a", "b"]),
        (Literal["a", "b"], str),
        (Literal["a"], Text),
        (Literal[1], float),
        (Literal["a", None], str | None),
        (Literal[True], bool),
        (None, int | None),
        (int, float | str),
        (list[int], list[float]),
        (list, list[int]),
        (list[int], list),
        (tuple[int, int], tuple[float, ...]),
        (tuple[()], tuple[int, ...]),
        (tuple[Derived, ...], Sequence[Base]),
        (dict[str, int], Mapping[str, float]),
        (Score, float),
        (float, Score),
        (Record, Record),
    ],
    ids=str,
)
def test_fits(made: Any, wanted: Any) -> None:
    assert fits(made, wanted)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (float, int),
        (bool, int),
        (bool, float),
        (int, bool),
        (Literal[True], int),
        (Literal[True], Literal[1]),
        (Literal[1], Literal[True]),
        (str, Literal["a"]),
        (Literal["a", "b"], Literal["a"]),
        (str | None, str),
        (Base, Derived),
        (str, Sequence[str]),
        (Text, Sequence[Text]),
        (bytes, Sequence[int]),
        (str, Sequence),
        (list[int], tuple[int, ...]),
        (tuple[int, ...], tuple[int, int]),
        (tuple[int], tuple[int, int]),
        (tuple[int, ...], tuple[()]),
        (tuple[int, str], tuple[int, ...]),
        (list[str], list[int]),
        (dict[int, str], Mapping[str, str]),
        (Artifact, Text),
        (dict, Record),
        (Base, Other),
    ],
    ids=str,
)
def test_does_not_fit(made: Any, wanted: Any) -> None:
    assert not fits(made, wanted)


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        (int, "int"),
        (None, "None"),
        (str | None, "str | None"),
        (Annotated[int, "x"], "int"),
        (Literal["a", 1], "'a' | 1"),
        (tuple[Text, ...], "tuple[Text, ...]"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (Any, "Any"),
        (Sequence[int], "Sequence[int]"),
    ],
)
def test_types_are_shown_as_a_person_writes_them(hint: Any, shown: str) -> None:
    assert show(hint) == shown
