"""Which characters of an operation's result are copies out of its inputs.

Every function here yields runs `(at, input, start, length)`: result[at : at + length] is
inputs[input][start : start + length]. `pack` checks each of them against the characters, so a
mistake here can lose an attribution but never invent one.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

Run: TypeAlias = tuple[int, int, int, int]


def pack(text: str, inputs: Sequence[str], runs: Iterable[Run]) -> array[int]:
    """Drop what is empty, out of order or not a copy; join neighbours; flatten."""
    packed = array("I")
    done = 0
    for at, source, start, length in runs:
        if length <= 0 or at < done or start < 0:
            continue
        if not _same(text, at, inputs[source], start, length):
            continue
        done = at + length
        if packed and _continues(packed, at, source, start):
            packed[-1] += length
        else:
            packed.extend((at, source, start, length))
    return packed


def _same(text: str, at: int, source: str, start: int, length: int) -> bool:
    copy = str.__getitem__(source, slice(start, start + length))
    return len(copy) == length and str.startswith(text, copy, at)


def _continues(packed: array[int], at: int, source: int, start: int) -> bool:
    last_at, last_source, last_start, length = packed[-4:]
    return (last_at + length, last_source, last_start + length) == (at, source, start)


def aligned_runs(text: str, inputs: Sequence[str], recipe: tuple[Any, ...]) -> array[int]:
    """The packed runs of a recipe whose alignment follows from its arguments."""
    align = _ALIGN.get(recipe[0])
    runs = align(str(text), [str(i) for i in inputs], *recipe[1:]) if align else ()
    return pack(text, inputs, runs)


def _case(text: str, inputs: Sequence[str]) -> Iterator[Run]:
    """Upper, lower, title, ...: a character maps to one or more, and some to themselves."""
    parent, at = inputs[0], 0
    grown = len(parent) != len(text)
    for i, char in enumerate(parent):
        if text.startswith(char, at):
            yield at, 0, i, 1
            at += 1
        elif grown:  # ß -> SS: find the longest image of this character that stands here
            images = (char.upper(), char.lower(), char.title(), char.casefold())
            at += max((len(m) for m in images if text.startswith(m, at)), default=1)
        else:
            at += 1


def _replace(text: str, inputs: Sequence[str], old: str, new: str, count: int) -> Iterator[Run]:
    parent = inputs[0]
    at = start = 0
    while count and start <= len(parent):
        found = parent.find(old, start) if old else start
        if found < 0:
            break
        yield at, 0, start, found - start
        at += found - start
        if len(inputs) > 1:
            yield at, 1, 0, len(new)
        at += len(new)
        start = found + len(old)
        count -= 1
        if not old:  # an empty pattern stands before every character and at the end
            yield at, 0, start, 1
            at, start = at + 1, start + 1
    yield at, 0, start, len(parent) - start


def _expandtabs(text: str, inputs: Sequence[str], tabsize: int) -> Iterator[Run]:
    at = start = column = 0
    for part in inputs[0].split("\t"):
        yield at, 0, start, len(part)
        at, start = at + len(part), start + len(part) + 1
        line_end = max(part.rfind("\n"), part.rfind("\r"))
        column = column + len(part) if line_end < 0 else len(part) - line_end - 1
        if tabsize > 0:
            at += tabsize - column % tabsize
            column = 0


def _stepped(
    text: str, inputs: Sequence[str], start: int | None, stop: int | None, step: int
) -> Iterator[Run]:
    for at, i in enumerate(range(*slice(start, stop, step).indices(len(inputs[0])))):
        yield at, 0, i, 1


def _ljust(text: str, inputs: Sequence[str], *_: object) -> Iterator[Run]:
    yield 0, 0, 0, len(inputs[0])


def _rjust(text: str, inputs: Sequence[str], *_: object) -> Iterator[Run]:
    yield len(text) - len(inputs[0]), 0, 0, len(inputs[0])


def _center(text: str, inputs: Sequence[str], width: int, *_: object) -> Iterator[Run]:
    pad = len(text) - len(inputs[0])
    yield pad // 2 + (pad & width & 1), 0, 0, len(inputs[0])  # CPython's rounding


def _zfill(text: str, inputs: Sequence[str], *_: object) -> Iterator[Run]:
    sign = int(inputs[0].startswith(("+", "-")))
    yield 0, 0, 0, sign
    yield len(text) - len(inputs[0]) + sign, 0, sign, len(inputs[0]) - sign


_ESCAPE = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.")


def _json(text: str, inputs: Sequence[str], start: int, stop: int, path: str) -> Iterator[Run]:
    """A JSON string with escapes, decoded; start and stop are inside the quotes."""
    at = 0
    for escape in _ESCAPE.finditer(inputs[0], start, stop):
        yield at, 0, start, escape.start() - start
        at, start = at + escape.start() - start + 1, escape.end()
    yield at, 0, start, stop - start


def _format(text: str, inputs: Sequence[str], spec: str) -> Iterator[Run]:
    yield from placed(0, 0, inputs[0], text, spec)


_SPEC = re.compile(r"(?:.?(?P<align>[<>^]))?0?(?P<width>\d*)(?:\.(?P<cut>\d+))?s?", re.DOTALL)


def placed(at: int, source: int, value: str, shown: str, spec: str) -> Iterator[Run]:
    """Where `value` stands in `shown`, which is format(value, spec) and starts at `at`."""
    if parts := _SPEC.fullmatch(spec):
        kept = min(len(value), int(parts["cut"])) if parts["cut"] else len(value)
        pad = len(shown) - kept
        left = {">": pad, "^": pad // 2}.get(parts["align"], 0)
        yield at + left, source, 0, kept


_ALIGN: dict[str, Callable[..., Iterator[Run]]] = {
    **dict.fromkeys(("upper", "lower", "casefold", "title", "capitalize", "swapcase"), _case),
    "replace": _replace,
    "expandtabs": _expandtabs,
    "stepped": _stepped,
    "ljust": _ljust,
    "rjust": _rjust,
    "center": _center,
    "zfill": _zfill,
    "json": _json,
    "__format__": _format,
}
