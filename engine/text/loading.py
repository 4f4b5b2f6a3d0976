"""Graphs back from bytes: what `wire` wrote, checked."""

from __future__ import annotations

import copyreg
import json
from collections.abc import Callable, MutableMapping
from typing import Any

from engine.text.align import pack
from engine.text.errors import TextError
from engine.text.forms import Form
from engine.text.nodes import SLICE, TAIL, Aligned, Cat, Fill, Piece, Select
from engine.text.strings import Text, make
from engine.text.wire import FORMAT, MAGIC, digest, dumps, record

MAX_CHARS = 1 << 30  # of all nodes in one dump: small bytes must not grow without bound

# What a wrong row makes the builder raise; each becomes a TextError.
_WRONG = (ValueError, TypeError, LookupError, OverflowError, RecursionError, AttributeError)


def loads(data: bytes) -> tuple[Text, ...]:
    """The texts that `dumps` was given, with their graphs.

    Raises TextError for damaged bytes, another format version or an unknown kind of node.
    """
    header, _, body = bytes(data).partition(b"\n")
    if not header.startswith(MAGIC):
        raise TextError("not a dump of engine.text: use bytes that dumps() made")
    version, _, checksum = header[len(MAGIC) :].partition(b" ")
    if version != b"%d" % FORMAT:
        raise TextError(f"dump of format {version[:20]!r}, this reads {FORMAT}: upgrade the engine")
    if checksum != digest(body).hex().encode():
        raise TextError("this dump is damaged: its hash differs from its header's; restore a copy")
    try:
        return _table(json.loads(body.decode("utf-8", "surrogatepass")))
    except TextError:
        raise
    except _WRONG as error:
        raise TextError(f"this dump is not well formed: {error!r}") from error


def _table(table: dict[str, list[Any]]) -> tuple[Text, ...]:
    strings, nodes, size = table["strings"], list[Text](), 0

    def chars(i: int) -> str:
        return str.__str__(strings[_natural(i)])

    def deref(i: int) -> Piece:
        return chars(~i) if i < 0 else nodes[i]

    for row in table["nodes"]:
        text = _built(row, deref, chars, MAX_CHARS - size)
        size += len(text)
        nodes.append(text)
    return tuple([Text(deref(i)) for i in table["roots"]])


def from_records(
    did: bytes, get: Callable[[bytes], bytes], cache: MutableMapping[bytes, Text]
) -> Text:
    """The Text with this did, rebuilt from the records that `get(did)` finds.

    `cache` holds what has been rebuilt before and is added to. Raises TextError, naming the did,
    if a record is missing or is not the one that was stored.
    """
    rows: dict[bytes, list[Any]] = {}
    stack = [did]
    while stack:
        top = stack[-1]
        if top in cache:
            stack.pop()
            continue
        if top not in rows:
            rows[top] = _checked_row(top, get)
            stack += [ref for ref in _refs(rows[top]) if ref not in cache]
            continue
        stack.pop()
        cache[top] = _rebuilt(top, rows.pop(top), cache)
    return cache[did]


def references(did: bytes, data: bytes) -> list[bytes]:
    """The dids that the record of a Text refers to. Raises TextError if it is not that one's."""
    return _refs(_checked_row(did, lambda _: data))


def _checked_row(did: bytes, get: Callable[[bytes], bytes]) -> list[Any]:
    try:
        data = bytes(get(did))
    except KeyError as error:
        raise TextError(f"node {did.hex()} is not in the store") from error
    if digest(data) != did:
        raise TextError(f"node {did.hex()} has been changed in the store: its hash differs")
    try:
        row: list[Any] = json.loads(data.decode("utf-8", "surrogatepass"))
        _refs(row)
    except _WRONG as error:
        raise TextError(f"node {did.hex()} is not well formed: {error!r}") from error
    return row


def _refs(row: list[Any]) -> list[bytes]:
    """The dids that a record refers to."""
    match row:
        case ["leaf" | "aligned", _, _, refs, _] | ["cat", refs]:
            pass
        case ["fill", leaf, _, _, args]:
            refs = [leaf, *args]
        case ["select", parent, *_]:
            refs = [parent]
        case _:
            refs = []
    return [bytes.fromhex(ref[0]) for ref in refs if isinstance(ref, list)]


def _rebuilt(did: bytes, row: list[Any], cache: MutableMapping[bytes, Text]) -> Text:
    def deref(ref: Any) -> Piece:
        return cache[bytes.fromhex(ref[0])] if isinstance(ref, list) else str.__str__(ref)

    try:
        text = _built(row, deref, str.__str__, MAX_CHARS)
        if digest(record(text)) != did:
            raise ValueError("it is not the canonical record of its node")
    except _WRONG as error:
        raise TextError(f"node {did.hex()} cannot be rebuilt: {error}") from error
    if text._node is not None:
        text._node.did = did
    return text


def _built(
    row: list[Any], deref: Callable[[Any], Piece], chars: Callable[[Any], str], limit: int
) -> Text:
    """The Text of one row. Raises TextError for an unknown kind, one of _WRONG for a wrong row."""
    match row:
        case ["leaf", own, str(op), list(refs), dict(params)]:
            return Text.leaf(chars(own), op, inputs=[deref(r) for r in refs], params=params)
        case ["cat", list(refs)]:
            pieces = tuple([deref(r) for r in refs])
            _bounded(sum(map(len, pieces)), limit)
            return make("".join(pieces), Cat(pieces))
        case ["fill", ref, int(lo), int(hi), list(refs)]:
            form = Form(Text(deref(ref)), lo, hi)
            args = tuple([deref(r) for r in refs])
            if len(args) != len(form.fields):
                raise ValueError("as many arguments as fields were expected")
            size = sum(len(args[i]) for i in form.order) + hi - lo
            _bounded(size, limit)
            return make(form.weave(args), Fill(form, args))
        case [
            "select",
            ref,
            int(start),
            int(stop),
            [str(), *_] as recipe,
            None | int() | str() as part,
        ]:
            parent = Text(deref(ref))
            if not 0 <= start <= stop <= len(parent):
                raise ValueError("a stretch outside its parent")
            _bounded(stop - start, limit)
            text = str.__getitem__(parent, slice(start, stop))
            shared = {"slice": SLICE, "tail": TAIL}.get(recipe[0]) if len(recipe) == 1 else None
            return make(text, Select(parent, start, shared or tuple(recipe), part))
        case ["aligned", own, [str(), *_] as recipe, list(refs), list(runs)]:
            return _aligned(chars(own), tuple(recipe), tuple([deref(r) for r in refs]), runs, limit)
        case [str(kind), *_]:
            raise TextError(f"unknown or malformed node of kind {kind[:20]!r}: upgrade the engine")
    raise TypeError("a node must be a list that begins with its kind")


def _aligned(
    own: str, recipe: tuple[Any, ...], inputs: tuple[Piece, ...], runs: list[int], limit: int
) -> Text:
    out: list[str] = []
    done = used = 0
    quads = [runs[i : i + 4] for i in range(0, len(runs), 4)]
    for at, source, start, length in quads:
        copied = str.__getitem__(inputs[_natural(source)], slice(_natural(start), start + length))
        if at < done or length <= 0 or len(copied) != length:
            raise ValueError("a run out of order or outside its input")
        out += (own[used : used + at - done], copied)
        used, done = used + at - done, at + length
        _bounded(done, limit)
    out.append(own[used:])
    text = "".join(out)
    packed = pack(text, inputs, quads)  # type: ignore[arg-type]
    if packed.tolist() != runs:
        raise ValueError("runs that do not fit the characters")
    return make(text, Aligned(recipe, inputs, packed))


def _bounded(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"more than {MAX_CHARS} characters")


def _natural(i: int) -> int:
    if i < 0:
        raise IndexError("a negative number")
    return i


def _unpickled(data: bytes) -> Text:
    return loads(data)[0]


def _reduce(text: Text) -> tuple[Callable[[bytes], Text], tuple[bytes]]:
    return _unpickled, (dumps(text),)


# Pickling carries the graph, flat. Registered here, as strings cannot import its own loader.
copyreg.pickle(Text, _reduce)
