"""Graphs as bytes: a node's record, its did, and whole graphs in one table.

A node is written as a JSON row; `_row` is the only place that knows the form of each kind. In a
record (for a content-addressed store) references are dids; in a dump they are numbers of a table.
The did is the hash of the record, so a store can be checked byte by byte. A record of a fill, a
cat or a select holds no characters of its own: the text follows from its inputs, and with it the
did depends on operation, parameters, inputs and text.

The JSON is the standard library's, in UTF-8 with 'surrogatepass': orjson refuses lone surrogates,
and the form of its numbers has changed between versions, which a hash cannot bear.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.text.errors import TextError
from engine.text.nodes import (
    Aligned,
    Cat,
    Fill,
    Leaf,
    Select,
    inputs_of,
    is_text,
    runs_of,
    segments,
)

if TYPE_CHECKING:
    from engine.text.nodes import Piece
    from engine.text.strings import Text

Row: TypeAlias = list[Any]

FORMAT = 1
MAGIC = b"engine.text dump "
_SCALARS = frozenset((str, int, bool, type(None)))
INLINE = 64  # a literal of up to this many characters stands in its user's record, not in its own

_json = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
).encode


def encode(value: object) -> bytes:
    """Canonical JSON: equal values give equal bytes, whatever the process or the hash seed."""
    return _json(value).encode("utf-8", "surrogatepass")


def digest(data: bytes) -> bytes:
    """16 bytes of BLAKE2b, in a domain of its own per format version."""
    return blake2b(data, digest_size=16, person=b"engine.text.%d" % FORMAT).digest()


def frozen(params: Mapping[str, Any]) -> tuple[Any, ...]:
    """A leaf's parameters as the node keeps them: copied, flat and sorted by key.

    Raises TextError for what JSON cannot say.
    """
    flat: list[Any] = []
    for key, value in sorted(params.items()):
        scalar = isfinite(value) if type(value) is float else type(value) in _SCALARS
        if not scalar or type(key) is not str:
            value = _json_copy(key, value)
        flat += (key, value)
    return tuple(flat)


def _json_copy(key: object, value: object) -> object:
    try:
        if not isinstance(key, str):
            raise TypeError("its name is not a str")
        return json.loads(encode(value).decode("utf-8", "surrogatepass"))
    except (TypeError, ValueError, RecursionError) as error:
        raise TextError(f"parameter {key!r} of a leaf must be a JSON value: {error}") from error


def _row(text: Text, ref: Callable[[Piece], object], chars: Callable[[str], object]) -> Row:
    node = text._node
    match node:
        case None:
            return ["leaf", chars(text), "literal", [], {}]
        case Leaf():
            refs = [ref(i) for i in node.inputs]
            return ["leaf", chars(text), node.op, refs, node.named_params()]
        case Cat():
            return ["cat", [ref(piece) for piece in node.pieces]]
        case Fill(form=form):
            return ["fill", ref(form.leaf), form.lo, form.hi, [ref(arg) for arg in node.args]]
        case Select(start=start):
            stop = start + len(text)
            return ["select", ref(node.parent), start, stop, node.recipe, node.part]
        case Aligned():
            # Only the characters that are copied from nowhere: runs cannot contradict them.
            own = "".join(
                [str.__getitem__(p, slice(a, b)) for p, a, b in segments(text) if p is text]
            )
            refs = [ref(i) for i in node.inputs]
            return ["aligned", chars(own), node.recipe, refs, runs_of(text, node).tolist()]


def is_inline(piece: Piece) -> bool:
    """Whether a reference to this piece is its characters and not a did."""
    return len(piece) <= INLINE and (not is_text(piece) or piece._node is None)


def record(text: Text) -> bytes:
    """The node's bytes in a store. The dids of its inputs must have been computed."""
    return encode(_row(text, _ref, str.__str__))


def _ref(piece: Piece) -> object:
    if is_inline(piece):
        return str(piece)
    return [cached_did(piece).hex()]


def _literal(piece: Piece) -> bytes:
    return encode(["leaf", str(piece), "literal", [], {}])


def cached_did(piece: Piece) -> bytes:
    """The did of a piece whose own is cached or who needs no other: a literal."""
    node = piece._node if is_text(piece) else None
    if node is None:
        return digest(_literal(piece))
    if node.did is None:
        raise AssertionError("the did of an input must be computed before that of its user")
    return node.did


def did_of(text: Text) -> bytes:
    """The Merkle hash of a Text, computed for whatever lies upstream and has none yet."""
    for node_text in topological((text,), skip=_has_did):
        if node_text._node is not None:
            node_text._node.did = digest(record(node_text))
    return cached_did(text)


def _has_did(text: Text) -> bool:
    return text._node is None or text._node.did is not None


def topological(roots: Sequence[Text], skip: Callable[[Text], bool] | None = None) -> list[Text]:
    """Every Text upstream of the roots, once each, inputs before users; literal `str` left out.

    `skip(text)` leaves a Text out together with what only it leads to.
    """
    order: list[Text] = []
    seen: set[int] = set()  # by identity: equal texts may have come to be in different ways
    for root in roots:
        stack = [(root, False)]
        while stack:
            text, inputs_done = stack.pop()
            if inputs_done:
                order.append(text)
            elif id(text) not in seen:
                seen.add(id(text))
                if skip is not None and skip(text):
                    continue
                stack.append((text, True))
                stack.extend((i, False) for i in reversed(inputs_of(text)) if is_text(i))
    return order


def to_records(text: Text, known: Callable[[bytes], bool]) -> Iterator[tuple[bytes, bytes]]:
    """Yield (did, record) for each node that is not in the store yet, inputs before users.

    `known(did)` says whether a node is stored, and then all that is upstream of it is taken to be
    stored too. Short literals stand in their user's record and have none of their own.
    """
    did_of(text)
    asked: set[bytes] = set()

    def skip(node_text: Text) -> bool:
        did = cached_did(node_text)
        if did in asked or (is_inline(node_text) and node_text is not text):
            return True
        asked.add(did)
        return known(did)

    for node_text in topological((text,), skip):
        for piece in inputs_of(node_text):
            if not (is_text(piece) or is_inline(piece)):  # a long literal that is a plain `str`
                data = _literal(piece)
                did = digest(data)
                if did not in asked and not known(did):
                    yield did, data
                asked.add(did)
        yield cached_did(node_text), record(node_text)


def dumps(*texts: Text) -> bytes:
    """The texts and their whole graphs as bytes; `loads` gives them back.

    Strings are stored once. A header line holds the format version and a hash of the rest.
    """
    strings: dict[str, int] = {}
    numbers: dict[int, int] = {}
    nodes: list[Row] = []

    def chars(string: str) -> int:
        return strings.setdefault(string, len(strings))

    def ref(piece: Piece) -> int:
        number = numbers.get(id(piece))
        return ~chars(piece) if number is None else number  # literals by their characters: < 0

    for text in topological(texts):
        if text._node is not None:
            row = _row(text, ref, chars)
            numbers[id(text)] = len(nodes)
            nodes.append(row)
    roots = [ref(text) for text in texts]
    body = encode({"nodes": nodes, "roots": roots, "strings": list(strings)})
    return b"%s%d %s\n%s" % (MAGIC, FORMAT, digest(body).hex().encode(), body)
