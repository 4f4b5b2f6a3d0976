"""No text makes the loader do anything but return plain values or say where it is wrong."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from engine import PipelineError
from engine.loader import load, loads, scalar

PLAIN = (str, int, float, bool, type(None))


CHARACTERS = "ab:-[]{}&*!#|>'\"\n\t ,?%@`$\ud800\x00é"


@given(st.one_of(st.binary(max_size=60), st.text(CHARACTERS, max_size=40)))
@example(b"\xff\xfea\x00")
@example("a: \ud800")
@example("? [x]\n: 1")
@example("a: 'x")
def test_any_text_is_values_or_an_error_with_its_place(data: bytes | str) -> None:
    error = None
    try:
        check(loads(data).value)
    except PipelineError as caught:
        error = caught
    if error is not None:
        assert (error.line >= 1, error.column >= 1, bool(error.message)) == (True, True, True)


def check(value: Any) -> None:
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        for item in value.values():
            check(item)
    elif isinstance(value, list):
        for item in value:
            check(item)
    else:
        assert isinstance(value, PLAIN)


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_yaml_writes_is_read_back(value: Any) -> None:
    written = yaml.safe_dump(value, default_style='"') if isinstance(value, str) else None
    assert loads(written or yaml.safe_dump(quoted(value), default_flow_style=False)).value == value


class Quoted(str):
    """A text that is written in quotes: YAML 1.1 and 1.2 take different words for texts."""


yaml.SafeDumper.add_representer(
    Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)
yaml.SafeDumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]


def quoted(value: Any) -> Any:
    if isinstance(value, str):
        return Quoted(value)
    if isinstance(value, list):
        return [quoted(item) for item in value]
    if isinstance(value, dict):
        return {Quoted(key): quoted(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("NULL", None),
        ("nUll", "nUll"),
        ("True", True),
        ("tRue", "tRue"),
        ("+7", 7),
        ("-0", 0),
        ("007", "007"),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-1.5E-3", -0.0015),
        ("1e", "1e"),
        (".", "."),
        (".inf", ".inf"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("2026-01-01", "2026-01-01"),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("٣", "٣"),
    ],
)
def test_plain_words_are_read_as_yaml_1_2_says(text: str, value: Any) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


BOMBS = {
    "integer": "a: " + "9" * 5_000,
    "depth": "[" * 100_000,
    "block depth": "\n".join(" " * n + f"k{n}:" for n in range(400)),
    "aliases": "a: &a [x]\n" + "\n".join(f"{n}: &{n} [*a, *a]" for n in "bcdefgh"),
    "size": "a: " + "x" * (1 << 20),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_at_once(bomb: str) -> None:
    started = time.process_time()
    with pytest.raises(PipelineError):
        loads(BOMBS[bomb])
    assert time.process_time() - started < 1


def test_places_of_keys_and_values() -> None:
    document = loads("a:\n  b: [1, 2]\n", file="p.yaml")
    assert str(document.at("a", "b", 1).error("no")) == "p.yaml:2:10: no"
    assert str(document.at("a", "b").error("no", key=True)) == "p.yaml:2:3: no"
    assert str(document.at("a", "x", "y").error("no")) == "p.yaml:2:3: no"  # the nearest around it
    assert str(document.at("a", "x").error("no", key=True)) == "p.yaml:1:1: no"


def test_a_byte_order_mark_is_no_character() -> None:
    assert loads("\ufeffa: 1".encode()).value == {"a": 1}


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pink.yaml").write_text("a: 1")
    assert load("pink.yaml").value == {"a": 1}
    for name, message in {
        "pnik.yaml": "pnik.yaml: no such file; did you mean pink.yaml?",
        "gone/x.yaml": "gone/x.yaml: no such file",
        ".": ".: it cannot be read: Is a directory",
        "a\0b": "a\0b: it cannot be read: embedded null byte",
    }.items():
        with pytest.raises(PipelineError) as error:
            load(name)
        assert str(error.value) == message
        assert error.value.exit_code == 2
