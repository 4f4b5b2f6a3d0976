"""Properties of random programs over every operation: tiling, truth, round trips.

Each source is made of characters that occur nowhere else, so that a character of any result says
by itself which leaf it must have come from, and from where in it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text import Template, Text, dumps, from_records, group, loads, parse_json, to_records

CANARIES = 0xE000  # private use: no case, no white space, no digits
WIDTH = 16

SOURCES = [
    Text.leaf("".join(chr(CANARIES + WIDTH * i + j) + filler for j in range(3)), f"source:{i}")
    for i, filler in enumerate((" ", "\n", "a", "ß", "\t", "{", "%", "\ud800", ",", "\U0001f600"))
]
TEMPLATE = Template("<{a}|{{{b}}}|{a}>", id="t", version="1")

small = st.integers(-7, 9)
bound = st.none() | small
step = st.sampled_from([None, 1, 1, 2, -1, -3])
word = st.sampled_from([" ", "a", "\n", ",", "", "xy", "\ud800", "ß", "ab c", "%", "{"])
index = st.integers(0, 10**6)


def _pick(pool: list[Text], i: int) -> Text:
    return pool[i % len(pool)]


def _cut(text: Text, i: int) -> Text:
    return text[i % len(text)] if text else text


def _json(text: Text) -> Text:
    quoted = Text('["')
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\u0009", "\r": "\\r"}
    safe = text.translate({ord(c): " " for c in map(chr, range(32)) if c not in escapes})
    parsed = parse_json(quoted + safe.translate(str.maketrans(escapes)) + '"]')
    assert parsed == [str(safe)]
    value: Text = parsed[0]
    return value


def _group(text: Text, key: int) -> list[Text]:
    import re

    match = re.search(r"(\S*)\s*(\S)?", text)
    assert match is not None
    found = group(match, key)
    return [] if found is None else [found]


Step = Callable[[list[Text]], list[Text]]

STEPS: dict[str, st.SearchStrategy[Step]] = {
    "add": st.builds(lambda i, j: lambda p: [_pick(p, i) + _pick(p, j)], index, index),
    "add str": st.builds(lambda i, w: lambda p: [_pick(p, i) + w, w + _pick(p, i)], index, word),
    "mul": st.builds(lambda i, n: lambda p: [_pick(p, i) * n], index, st.integers(-1, 3)),
    "slice": st.builds(
        lambda i, a, b, s: lambda p: [_pick(p, i)[a:b:s]], index, bound, bound, step
    ),
    "item": st.builds(lambda i, n: lambda p: [_cut(_pick(p, i), n)], index, index),
    "iter": st.builds(lambda i: lambda p: list(_pick(p, i))[:4], index),
    "split": st.builds(
        lambda i, w, n: lambda p: _pick(p, i).split(w or None, n)[:4], index, word, small
    ),
    "rsplit": st.builds(
        lambda i, w, n: lambda p: _pick(p, i).rsplit(w or None, n)[-4:], index, word, small
    ),
    "splitlines": st.builds(
        lambda i, k: lambda p: _pick(p, i).splitlines(k)[:4], index, st.booleans()
    ),
    "partition": st.builds(lambda i, w: lambda p: [*_pick(p, i).partition(w or "x")], index, word),
    "rpartition": st.builds(
        lambda i, w: lambda p: [*_pick(p, i).rpartition(w or "x")], index, word
    ),
    "strip": st.builds(
        lambda i, w: (
            lambda p: [
                _pick(p, i).strip(w),
                _pick(p, i).lstrip(w),
                _pick(p, i).rstrip(w),
            ]
        ),
        index,
        st.none() | word,
    ),
    "affix": st.builds(
        lambda i, w: lambda p: [_pick(p, i).removeprefix(w), _pick(p, i).removesuffix(w)],
        index,
        word,
    ),
    "join": st.builds(
        lambda i, w, n: lambda p: [_pick(p, i).join([*p[:n], w]), Text(w).join(p[:n])],
        index,
        word,
        st.integers(0, 4),
    ),
    "replace": st.builds(
        lambda i, a, b, j, n: (
            lambda p: [
                _pick(p, i).replace(a, b, n),
                _pick(p, i).replace(a, _pick(p, j)[:5], n),
            ]
        ),
        index,
        word,
        word,
        index,
        small,
    ),
    "case": st.builds(
        lambda i: (
            lambda p: [
                getattr(_pick(p, i), m)()
                for m in ("upper", "lower", "casefold", "title", "capitalize", "swapcase")
            ]
        ),
        index,
    ),
    "pad": st.builds(
        lambda i, n: (
            lambda p: [
                _pick(p, i).center(n, "*"),
                _pick(p, i).ljust(n),
                _pick(p, i).rjust(n),
                _pick(p, i).zfill(n),
            ]
        ),
        index,
        st.integers(0, 40),
    ),
    "expandtabs": st.builds(lambda i, n: lambda p: [_pick(p, i).expandtabs(n)], index, small),
    "translate": st.builds(
        lambda i, t: lambda p: [_pick(p, i).translate(t)],
        index,
        st.sampled_from([{97: "bcd", 32: None}, {10: 32}, str.maketrans("a ", "bc")]),
    ),
    "format": st.builds(
        lambda i, w, s: (
            lambda p: [
                Text(w.replace("{", "{{") + "{}-{x" + s + "}{{").format(_pick(p, i), x=p[-1]),
                (SOURCES[0] + "{!s}" + SOURCES[7] + "}}{x" + s + "}" + SOURCES[3]).format(
                    w, x=p[-1]
                ),
                Text("{1}{0!r:.3}{1:>{2}}").format(w, _pick(p, i), 30),
                Text("{a}").format_map({"a": _pick(p, i)}),
                Text(format(_pick(p, i), s[1:])),
            ]
        ),
        index,
        word,
        st.sampled_from(["", ":", ":>9", ":*^30.7", ":.2s"]),
    ),
    "percent": st.builds(
        lambda i, w, s: (
            lambda p: [
                Text(w.replace("%", "%%") + s + "|%r %d").__mod__((_pick(p, i), w, 3)),
                (SOURCES[0] + "%%" + SOURCES[7] + s + SOURCES[3]) % p[-1],
                "<%s>" % _pick(p, i),  # noqa: UP031 - the idiom under test
                Text("%(a)s%%").__mod__({"a": p[-1]}),
                Text("%-*s").__mod__((9, p[-1])),
            ]
        ),
        index,
        word,
        st.sampled_from(["%s", "%9s", "%-30.5s", "%.2s"]),
    ),
    "sub": st.builds(
        lambda i, n: (
            lambda p: [
                _pick(p, i).sub(r"(\s)(\S)?", r"\2[\g<1>\\]\1", n),
                _pick(p, i).sub(r"\s|$", lambda m: p[-1][:3], n),
            ]
        ),
        index,
        st.integers(0, 3),
    ),
    "group": st.builds(lambda i, k: lambda p: _group(_pick(p, i), k), index, st.integers(0, 2)),
    "fill": st.builds(
        lambda i, w: lambda p: [TEMPLATE.fill(a=_pick(p, i), b=w), TEMPLATE.fill(a=w, b=p[-1])],
        index,
        word,
    ),
    "json": st.builds(lambda i: lambda p: [_json(_pick(p, i))], index),
}

steps = st.lists(st.sampled_from(sorted(STEPS)).flatmap(STEPS.__getitem__), min_size=1, max_size=8)


@st.composite
def programs(draw: st.DrawFn) -> list[Text]:
    """What the steps of a random program made, the sources left out."""
    chosen = draw(st.lists(st.sampled_from(SOURCES), min_size=1, max_size=4))
    pool = [*chosen, Text("lit \t\n x")]
    made: list[Text] = []
    for step_ in draw(steps):
        new = [text[:300] if len(text) > 300 else text for text in step_(pool)]
        assert all(type(text) is Text for text in new)
        made += new
        pool += new
    return made


def test_every_step_runs() -> None:
    pool = [*SOURCES, Text("lit \t\n x")]
    for strategy in STEPS.values():

        @given(strategy)
        @settings(max_examples=3, deadline=None, database=None)
        def run(step_: Step) -> None:
            step_(pool)

        run()


@given(programs(), st.integers(-9, 40), bound)
@settings(max_examples=400, deadline=None)
def test_tiling_and_truth(made: list[Text], lo: int, hi: int | None) -> None:
    for text in made:
        spans = text.spans()
        assert [s.start for s in spans] == [0, *[s.stop for s in spans]][: len(spans)]
        assert sum(s.stop - s.start for s in spans) == len(text)
        for span in spans:
            assert span.start < span.stop
            copied = str(span.leaf)[span.leaf_start : span.leaf_stop]
            assert copied == str(text)[span.start : span.stop]
            assert span.leaf.origin is not None or span.leaf.graph().nodes[-1].kind == "aligned"
            _assert_true(copied, span.leaf, span.leaf_start)
        start, stop, _ = slice(lo, hi).indices(len(text))
        clipped = [
            (
                max(s.start, start),
                min(s.stop, stop),
                s.leaf.did,
                s.leaf_start + max(start - s.start, 0),
            )
            for s in spans
            if max(s.start, start) < min(s.stop, stop)
        ]
        assert [(s.start, s.stop, s.leaf.did, s.leaf_start) for s in text.spans(lo, hi)] == clipped


def _assert_true(copied: str, leaf: Text, leaf_start: int) -> None:
    for offset, char in enumerate(copied, leaf_start):
        if 0 <= (ord(char) - CANARIES) < WIDTH * len(SOURCES):
            source, place = divmod(ord(char) - CANARIES, WIDTH)
            assert leaf.did == SOURCES[source].did
            assert offset == 2 * place


@given(programs())
@settings(max_examples=150, deadline=None)
def test_round_trips(made: list[Text]) -> None:
    store: dict[bytes, bytes] = {}
    for text in made:
        store.update(to_records(text, store.__contains__))
    cache: dict[bytes, Text] = {}
    from_store = [from_records(t.did, store.__getitem__, cache) for t in made]
    again = loads(dumps(*made))
    for text, *copies in zip(
        made, again, from_store, pickle.loads(pickle.dumps(made)), strict=True
    ):
        for copy in copies:
            assert copy == text
            assert copy.did == text.did
            assert _shown(copy) == _shown(text)
            nodes = [(n.did, n.kind, n.op, n.inputs, str(n.text)) for n in text.graph().nodes]
            assert [
                (n.did, n.kind, n.op, n.inputs, str(n.text)) for n in copy.graph().nodes
            ] == nodes
    assert dumps(*again) == dumps(*made)


def _shown(text: Text) -> list[tuple[int, int, bytes, int]]:
    return [(s.start, s.stop, s.leaf.did, s.leaf_start) for s in text.spans()]


@given(programs(), index, index, index)
@settings(max_examples=60, deadline=None)
def test_addition_is_associative(made: list[Text], i: int, j: int, k: int) -> None:
    a, b, c = (_pick(made or SOURCES, n) for n in (i, j, k))
    assert _shown((a + b) + c) == _shown(a + (b + c))


@given(programs(), st.sampled_from([",", "a", "ab", " "]))
@settings(max_examples=60, deadline=None)
def test_split_and_join_keep_the_origin(made: list[Text], sep: str) -> None:
    for text in made[:5]:
        parts = text.split(sep)
        back = Text(sep).join(parts)
        assert back == text
        at = 0
        for part in parts:  # separators aside, the spans are those of the whole
            here = [(s.leaf.did, s.leaf_start, s.leaf_stop) for s in part.spans()]
            for whole in (back, text):
                spans = whole.spans(at, at + len(part))
                assert [(s.leaf.did, s.leaf_start, s.leaf_stop) for s in spans] == here
            at += len(part) + len(sep)


@given(
    programs(), st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(0, 12)), max_size=5)
)
@settings(max_examples=60, deadline=None)
def test_slices_compose(made: list[Text], bounds: list[tuple[int, int | None]]) -> None:
    for text in made[:5]:
        cut, plain = text, str(text)
        for lo, hi in bounds:
            cut, plain = cut[lo:hi], plain[lo:hi]
        assert cut == plain
        graph = cut.graph()
        assert len(graph.nodes) <= len(text.graph().nodes) + 1
        if len(graph.nodes) == len(text.graph().nodes):
            continue  # nothing was cut, or the text is itself a slice
        node, other, want = graph.nodes[-1], "0123456789" * 3, "0123456789" * 3
        for lo, hi in bounds:
            want = want[lo:hi]
        start, stop = node.params["start"], node.params["stop"]
        recipes = {"slice": node.params["args"] or [start, stop], "tail": [start, None]}
        assert other[slice(*recipes[node.op])] == want, "the recipe must work on a changed parent"
