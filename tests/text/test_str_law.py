"""Every method of `str` gives on a Text what it gives on a str, exceptions included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text import LOSSES, Text


def _words(text: str) -> set[str]:
    return set(text.split())


# Methods whose result is no text; whatever else `str` has must give Text (or be tested below).
NO_TEXT = _words(
    """count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower
    isnumeric isprintable isspace istitle isupper rfind rindex startswith maketrans encode
    __contains__ __eq__ __ge__ __gt__ __hash__ __le__ __len__ __lt__ __ne__ __repr__"""
)
TEXT = _words(
    """capitalize casefold center expandtabs format format_map join ljust lower lstrip partition
    removeprefix removesuffix replace rjust rpartition rsplit rstrip split splitlines strip
    swapcase title translate upper zfill __add__ __mul__ __rmul__ __mod__ __rmod__ __getitem__
    __iter__ __format__"""
)
# Of object, or of pickling and construction; they hold no text of the result's.
PLUMBING = _words(
    """__class__ __delattr__ __dir__ __doc__ __getattribute__ __getnewargs__ __getstate__ __init__
    __init_subclass__ __new__ __reduce__ __reduce_ex__ __setattr__ __sizeof__ __str__
    __subclasshook__"""
)

chars = st.sampled_from(list("aAbß İŉΣς\t\n\r\v\x1c\x85\u2028,.-+0Ⅷ{}%\\'\"\ud800😀ﬁ"))
strings = st.text(chars, max_size=12) | st.text(max_size=8)
short = st.text(chars, max_size=3)
number = st.integers(-15, 20)
odd = st.sampled_from([None, 3, 1.5, b"x", [], ("a",)])

ARGS: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    **dict.fromkeys(["split", "rsplit"], st.tuples() | st.tuples(st.none() | short, number)),
    **dict.fromkeys(["partition", "rpartition", "removeprefix", "removesuffix"], st.tuples(short)),
    **dict.fromkeys(["strip", "lstrip", "rstrip"], st.tuples() | st.tuples(st.none() | short)),
    **dict.fromkeys(["center", "ljust", "rjust"], st.tuples(number) | st.tuples(number, short)),
    **dict.fromkeys(["count", "endswith", "find", "index"], st.tuples(short, number)),
    **dict.fromkeys(["rfind", "rindex", "startswith"], st.tuples(short, number)),
    **dict.fromkeys(["__contains__", "__eq__", "__ne__", "__add__"], st.tuples(strings)),
    **dict.fromkeys(["__lt__", "__le__", "__gt__", "__ge__"], st.tuples(strings)),
    **dict.fromkeys(["__mul__", "__rmul__"], st.tuples(st.integers(-1, 4))),
    "expandtabs": st.tuples() | st.tuples(st.integers(-2, 9)),
    "splitlines": st.tuples() | st.tuples(st.booleans()),
    "replace": st.tuples(short, short) | st.tuples(short, short, number),
    "zfill": st.tuples(number),
    "join": st.tuples(st.lists(strings, max_size=4) | strings),
    "translate": st.tuples(st.dictionaries(chars.map(ord), st.none() | short | st.just(99))),
    "maketrans": st.tuples(st.dictionaries(chars, short)),
    "encode": st.tuples() | st.tuples(st.sampled_from(["utf-8", "ascii"]), st.just("replace")),
    "format": st.lists(strings | number, max_size=3).map(tuple),
    "format_map": st.tuples(st.dictionaries(st.sampled_from(["a", "b"]), strings)),
    "__mod__": st.tuples(strings | number | st.tuples(strings, number) | st.just({"a": "x"})),
    "__rmod__": st.tuples(st.sampled_from(["%s", "a%s%%b", "%d", "%5.2s", "%r %s", "", "%(a)s"])),
    "__format__": st.tuples(st.sampled_from(["", "s", ">9", "*^7.2", ".1", "d", "05", "<"])),
    "__getitem__": st.tuples(
        number
        | st.slices(12)
        | st.builds(slice, st.none() | number, st.none() | number, st.integers(-3, 3))
    ),
}
FORMATS = st.sampled_from(
    ["{}", "{{{}}}", "{0}{1}", "{a}{b!r}", "{:>8}{}", "{a", "}", "{0[0]}", "{:{}}", "%s",
     "%(a)s-%%",     "%5s|%-3s", "%.*s", "%", "%d%s", "{!s:.2}", "{}{0}", "{0.real}", "{a:}"]
)  # fmt: skip


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        result = call()
    except Exception as error:
        return type(error)
    return list(result) if isinstance(result, Iterator) else result


def _parts(result: Any) -> list[Any]:
    return list(result) if isinstance(result, list | tuple) else [result]


def test_no_method_of_str_is_forgotten() -> None:
    assert set(dir(str)) <= NO_TEXT | TEXT | PLUMBING
    assert set(vars(Text)) >= TEXT, "inherited: it would give a plain str"
    assert set(dir(Text)) - set(dir(str)) >= {"did", "spans", "graph", "origin", "leaf", "sub"}


@pytest.mark.parametrize("name", sorted(NO_TEXT | TEXT))
def test_law(name: str) -> None:
    subject = strings
    if name in ("format", "format_map", "__mod__"):
        subject = FORMATS | strings

    @given(subject, ARGS.get(name, st.tuples()))
    @settings(max_examples=120, deadline=None, database=None)
    def law(string: str, args: tuple[Any, ...]) -> None:
        # BaseException aside, both sides fail alike or agree
        want = _outcome(lambda: getattr(string, name)(*args))
        got = _outcome(lambda: getattr(Text(string), name)(*args))
        assert got == want
        if name in TEXT and not isinstance(want, type) and want is not NotImplemented:
            assert type(got) is type(want) or type(want) is str
            assert all(type(part) is Text for part in _parts(got))
            for part in _parts(got):
                assert "".join(s.leaf[s.leaf_start : s.leaf_stop] for s in part.spans()) == part

    law()


@pytest.mark.parametrize("name", sorted((NO_TEXT | TEXT) - {"__hash__", "__add__", "__mod__"}))
@given(args=st.lists(odd | short, max_size=4))
@settings(max_examples=25, deadline=None, database=None)
def test_wrong_arguments_fail_alike(name: str, args: list[Any]) -> None:
    def same(result: Any) -> Any:
        return result if not isinstance(result, str) else str(result)

    want = same(_outcome(lambda: getattr("a b", name)(*args)))
    assert same(_outcome(lambda: getattr(Text("a b"), name)(*args))) == want


@given(strings, strings)
def test_operators_from_either_side(a: str, b: str) -> None:
    for result in (Text(a) + b, a + Text(b), Text(a) + Text(b)):
        assert result == a + b
        assert type(result) is Text
    assert [*reversed(Text(a))] == [*reversed(a)]
    assert hash(Text(a)) == hash(a)
    assert {a: 1}[Text(a)] == 1
    assert type(str(Text(a))) is str
    assert type(f"{Text(a)}") is Text


@pytest.mark.parametrize("other", [1, None, b"", ["a"]])
def test_operators_refuse_what_str_refuses(other: Any) -> None:
    with pytest.raises(TypeError):
        Text("a") + other
    with pytest.raises(TypeError):
        other + Text("a")
    with pytest.raises(TypeError):
        Text(other)


def test_keywords_work_as_on_str() -> None:
    assert Text("a,b,c").split(sep=",", maxsplit=1) == ["a", "b,c"]
    assert Text("a b c").rsplit(maxsplit=1) == ["a b", "c"]
    assert Text("a\nb").splitlines(keepends=True) == ["a\n", "b"]
    assert Text("\ta").expandtabs(tabsize=2) == "  a"
    assert Text("{a.x}").format(a=type("O", (), {"x": 5})) == "5"


def test_format_evaluates_its_arguments_once() -> None:
    class Counter:
        calls = 0

        def __str__(self) -> str:
            self.calls += 1
            return f"call {self.calls}"

        def __format__(self, spec: str) -> str:
            return str(self)

    assert Text("<{}>").format(Counter()) == "<call 1>"
    assert Text("<%s>") % Counter() == "<call 1>"


def test_the_losses_are_losses() -> None:
    t, u = Text("ab"), Text("c")
    lost = {
        "str(t)": str(t),
        'f"a {t} b"': f"a {t} b",
        '"a {}".format(t)': "a {}".format(t),  # noqa: UP032 - the idiom under test
        '", ".join([t, u])': ", ".join([t, u]),
        '"%s %s" % (t, u)': "%s %s" % (t, u),  # noqa: UP031
    }
    assert set(lost) < set(LOSSES)
    assert {type(value) for value in lost.values()} == {str}
