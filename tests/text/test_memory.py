"""What graphs cost: bytes a node, no growth over streamed rows, no recursion at any depth."""

from __future__ import annotations

import gc
import os
import tracemalloc

from engine.text import Template, Text, dumps, from_records, loads, to_records

ROWS = int(os.environ.get("ENGINE_TEXT_ROWS", "100000"))  # 1000000 for the full check
DEPTH = int(os.environ.get("ENGINE_TEXT_DEPTH", "200000"))  # 1000000 for the full check

PARAMS = {"model": "m", "temperature": 0.5, "seed": 1, "sample": 0, "call_key": "k"}
TEMPLATE = Template("Question: {q}\nAnswer: {a}\n", id="t")


def _row(i: int) -> list[Text]:
    question = Text.leaf(f"q{i}", "source:f", params=None)
    prompt = TEMPLATE.fill(q=question, a="x")
    reply = Text.leaf(f" yes {i} ", "call", inputs=(prompt,), params=PARAMS)
    answer = reply.strip()
    return [
        question,
        prompt,
        reply,
        answer,
        answer + "!",
        *answer.split(" "),
        reply[300:400],
        reply[2:],
    ]


def _rss() -> int:
    with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - read in a loop, no Path needed
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_streamed_rows_do_not_grow() -> None:
    gc.disable()
    try:
        start = 0
        for i in range(ROWS):
            _row(i)[-1].spans()
            if i == ROWS // 20:
                start = _rss()
        assert _rss() - start < 20e6
    finally:
        gc.enable()


def test_a_node_costs_at_most_250_bytes_beyond_its_text() -> None:
    rows = 10_000
    _row(0)
    tracemalloc.start()
    try:
        kept = [_row(i) for i in range(rows)]
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    nodes = [text for row in kept for text in row]
    assert len(nodes) >= 90_000
    lists = sum(row.__sizeof__() for row in kept)
    assert (used - lists - sum(map(len, nodes))) / len(nodes) <= 250


def test_a_deep_chain_builds_walks_dumps_and_frees() -> None:
    text = Text.leaf("ab", "source")
    for _ in range(DEPTH // 2):
        text = (text + "c")[1:]
    assert [str(span.leaf) for span in text.spans()] == ["c", "c"]
    (again,) = loads(dumps(text))
    assert again.did == text.did
    assert len(again.graph().nodes) == DEPTH + 2
    del text, again  # frees a million objects, one inside the other


def test_adding_in_a_loop_is_linear_in_nodes() -> None:
    text = Text()
    for i in range(20_000):
        text += Text.leaf("ab", "call", params={"i": i})
    spans = text.spans()
    assert len(spans) == 20_000
    assert spans[-1].leaf.origin is not None
    assert spans[-1].leaf.origin.params == {"i": 19_999}
    assert loads(dumps(text))[0].did == text.did
    nodes = text.graph().nodes
    assert len(nodes) < 21_000
    assert max(len(node.inputs) for node in nodes) <= 64
    store = dict(to_records(text, lambda did: False))
    assert from_records(text.did, store.__getitem__, {}) == text


def test_cutting_a_text_to_pieces_keeps_no_intermediate_text_alive() -> None:
    whole = text = Text.leaf("x" * 1000, "source")
    while len(text) > 1:
        text = text[1:]
    assert [node.text for node in text.graph().nodes] == [whole, "x"]
