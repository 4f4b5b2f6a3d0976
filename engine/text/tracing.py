"""Which characters of a Text come from which leaf, and from where in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.text.nodes import segments

if TYPE_CHECKING:
    from engine.text.nodes import Piece
    from engine.text.strings import Text


class Span(NamedTuple):
    """text[start:stop] is leaf[leaf_start:leaf_stop]; offsets are code points.

    `leaf` is a leaf, or an aligned node whose operation made these characters. `exact` says that
    the attribution was recorded by an operation and not found by searching.
    """

    start: int
    stop: int
    leaf: Text
    leaf_start: int
    leaf_stop: int
    exact: bool = True


def tile(text: Text, lo: int, hi: int) -> list[Span]:
    """The spans of text[lo:hi], in order, without gap or overlap."""
    spans: list[Span] = []
    at = lo
    # (piece, lo, hi, whether the characters are the piece's own); the next one is on top.
    stack: list[tuple[Piece, int, int, bool]] = [(text, lo, hi, False)]
    while stack:
        piece, lo, hi, own = stack.pop()
        if not isinstance(piece, type(text)):
            piece, own = type(text)(piece), True  # a literal: its leaf is made on demand
        if own:
            if hi > lo:
                _append(spans, Span(at, at + hi - lo, piece, lo, hi))
                at += hi - lo
            continue
        below: list[tuple[Piece, int, int, bool]] = []
        offset = 0
        for child, start, stop in segments(piece):
            end = offset + stop - start
            if end > lo and offset < hi:
                clip_lo = start + max(lo - offset, 0)
                clip_hi = start + min(hi, end) - offset
                below.append((child, clip_lo, clip_hi, child is piece))
            offset = end
            if offset >= hi:
                break
        stack.extend(reversed(below))
    return spans


def _append(spans: list[Span], new: Span) -> None:
    """Add a span, joined to the last one if it goes on where that stops in the same leaf."""
    if new.leaf_start and spans and _continues(spans[-1], new):
        last = spans[-1]
        new = Span(last.start, new.stop, new.leaf, last.leaf_start, new.leaf_stop)
        spans.pop()
    spans.append(new)


def _continues(last: Span, new: Span) -> bool:
    if last.leaf_stop != new.leaf_start:
        return False
    # By derivation, not identity: a graph must have the same spans after a round trip.
    return last.leaf is new.leaf or (last.leaf == new.leaf and last.leaf.did == new.leaf.did)
