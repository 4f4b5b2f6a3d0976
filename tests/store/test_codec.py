"""What a row carries comes back from the store as it was, type for type, or is refused by name."""

import enum
import math
import sys
from collections import OrderedDict, namedtuple
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from engine import Artifact, Message, Text
from engine.errors import StoreError
from engine.store.codec import decode, dump_json, encode, load_json

SURROGATES = st.text(st.characters(), max_size=8) | st.text(
    st.characters(categories=["Cs"]), max_size=3
)
NAMES = SURROGATES | st.sampled_from(["~t", "~d", "~", "~m", "~s", "a"])


class Inner(BaseModel):
    text: Text
    number: int = 3


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    inner: Inner | None = None


TEXTS = st.builds(
    lambda a, b, c: Text.leaf(a, "source:x", inputs=[Text(b)], params={"n": 1}) + c,
    SURROGATES,
    SURROGATES,
    SURROGATES,
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=1 << 62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | SURROGATES
    | st.builds(Text, SURROGATES)
    | TEXTS
    | st.binary(max_size=9)
    | st.builds(Artifact, st.just("ab" * 16), SURROGATES, st.integers(0, 9), st.booleans())
    | st.builds(lambda t: Message(role="user", content=t), TEXTS)
    | st.builds(lambda t, x: Open(inner=Inner(text=t), x=x), TEXTS, st.integers())
    | st.builds(lambda: Open())
)
VALUES = st.recursive(
    LEAVES,
    lambda v: (
        st.lists(v, max_size=3)
        | st.lists(v, max_size=3).map(tuple)
        | st.dictionaries(NAMES, v, max_size=3)
    ),
    max_leaves=8,
)


def shape(value: Any) -> Any:
    """The value with its types: equality alone takes 1 for True, and a Text for a str."""
    if isinstance(value, Text):
        return Text, str(value), value.did
    if isinstance(value, (list, tuple)):
        return type(value), [shape(item) for item in value]
    if isinstance(value, dict):
        return [(name, type(name), shape(item)) for name, item in value.items()]
    if isinstance(value, BaseModel):
        held = value.__dict__ | (value.model_extra or {})
        return type(value), shape(held), value.model_fields_set
    return type(value), str(value) if isinstance(value, float) else value


def there_and_back(fields: dict[str, Any]) -> dict[str, Any]:
    texts: list[Text] = []
    data = encode(fields, texts)
    by_did = {text.did: text for text in texts}
    return decode(data, by_did.__getitem__)


@given(st.dictionaries(NAMES, VALUES, max_size=3))
def test_what_comes_back_is_what_went_in(fields: dict[str, Any]) -> None:
    assert shape(there_and_back(fields)) == shape(fields)


class Colour(enum.StrEnum):
    red = "r"


class Level(enum.IntEnum):
    low = 1


Point = namedtuple("Point", "x y")


class Plain(str):
    pass


def local_model() -> BaseModel:
    class Local(BaseModel):
        x: int = 1

    return Local()


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        object(),
        {1, 2},
        1j,
        Colour.red,
        Level.low,
        Point(1, 2),
        Plain("x"),
        OrderedDict(a=1),
        {1: 2},
        {Text("a"): 1},
        bytearray(b"x"),
        local_model(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [{"deep": (v,)}]], ids=["bare", "deep"])
def test_what_could_not_come_back_is_refused_by_name(value: Any, wrap: Any) -> None:
    with pytest.raises(TypeError, match=r"^field 'score': "):
        encode({"good": 1, "score": wrap(value)}, [])


@pytest.mark.parametrize("depth", [300, 100_000])
def test_too_deep_is_refused_by_name(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    with pytest.raises(TypeError, match="field 'tree': it is nested too deeply"):
        encode({"good": 1, "tree": value}, [])


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"3", b'{"x":{"~i":"zz"}}', b'{"x":{"~a":[1]}}', b'{"x":{"~t":5}}']
)
def test_damage_is_a_store_error(data: bytes) -> None:
    with pytest.raises(StoreError, match="a record in the store is damaged"):
        decode(data, lambda did: Text("x"))


def module(monkeypatch: pytest.MonkeyPatch, name: str) -> type[BaseModel]:
    """A module with a model, as an import of a file makes it."""
    made = ModuleType(name)
    exec("from pydantic import BaseModel\nclass Held(BaseModel):\n    x: int", made.__dict__)
    monkeypatch.setitem(sys.modules, name, made)
    return made.Held


def test_a_models_class_must_still_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    held = module(monkeypatch, "engine_test_of_models")
    data = encode({"x": held(x=1)}, [])
    monkeypatch.delitem(sys.modules, "engine_test_of_models")
    with pytest.raises(StoreError, match=r"holds a engine_test_of_models\.Held"):
        decode(data, lambda did: Text("x"))
    assert decode(data, lambda did: Text("x"), strict=False) == {"x": {"x": 1}}


def test_a_comment_in_a_stage_file_does_not_lose_its_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The module of a local stage is named by its file's digest; its fingerprint ignores comments."""
    before = module(monkeypatch, "engine_local_mine_00aa11bb22cc")
    data = encode({"x": before(x=1)}, [])
    monkeypatch.delitem(sys.modules, "engine_local_mine_00aa11bb22cc")
    after = module(monkeypatch, "engine_local_mine_33dd44ee55ff")
    module(monkeypatch, "engine_local_other_33dd44ee55ff")
    assert type(decode(data, lambda did: Text("x"))["x"]) is after


@given(st.dictionaries(SURROGATES, SURROGATES | st.lists(SURROGATES) | st.integers(0, 99)))
def test_notes_and_summaries_may_hold_any_string(note: dict[str, Any]) -> None:
    assert load_json(dump_json(note)) == note
    with pytest.raises(StoreError, match="damaged"):
        load_json(b"{")
