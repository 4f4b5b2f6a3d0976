"""What each kind of node keeps behind its Text.

A Text holds its characters and one of these records (None for a bare literal). References point
upstream only, so there are no cycles and reference counts alone free a graph. Pieces may be plain
`str`: a literal costs nothing beyond itself until somebody asks where it came from.

All offsets are code points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

from engine.text.align import aligned_runs

if TYPE_CHECKING:
    from array import array

    from engine.text.forms import Form
    from engine.text.strings import Text

Piece: TypeAlias = "Text | str"
Segment: TypeAlias = "tuple[Piece, int, int]"
Recipe: TypeAlias = "tuple[Any, ...]"  # (operation, *arguments), all JSON values


class Origin(NamedTuple):
    """How a leaf came to be: the operation, the Texts it saw and its parameters (sorted by key)."""

    op: str
    inputs: tuple[Text, ...]
    params: Mapping[str, Any]


class Leaf:
    """Characters that no recorded operation explains: a source, a template, a model's reply.

    `params` is flat (key, value, key, value, ...), sorted by key: half the size of a dict.
    """

    __slots__ = ("did", "inputs", "op", "params")
    kind = "leaf"

    def __init__(self, op: str, inputs: tuple[Text, ...], params: tuple[Any, ...]) -> None:
        self.op = op
        self.inputs = inputs
        self.params = params
        self.did: bytes | None = None

    def named_params(self) -> dict[str, Any]:
        """The parameters by name, in the order of their names."""
        return dict(zip(self.params[::2], self.params[1::2], strict=True))


class Cat:
    """Pieces, one after the other."""

    __slots__ = ("did", "pieces")
    kind = "cat"

    def __init__(self, pieces: tuple[Piece, ...]) -> None:
        self.pieces = pieces
        self.did: bytes | None = None


class Fill:
    """A template's form with its arguments, in the order of `form.fields`."""

    __slots__ = ("args", "did", "form")
    kind = "fill"

    def __init__(self, form: Form, args: tuple[Piece, ...]) -> None:
        self.form = form
        self.args = args
        self.did: bytes | None = None


class Select:
    """A stretch of the parent: `start` replays the bytes, the recipe works on a changed parent.

    A recipe with several results (split, partition, ...) is shared by them; `part` says which.
    """

    __slots__ = ("did", "parent", "part", "recipe", "start")
    kind = "select"

    def __init__(self, parent: Text, start: int, recipe: Recipe, part: int | str | None) -> None:
        self.parent = parent
        self.start = start
        self.recipe = recipe
        self.part = part
        self.did: bytes | None = None


class Aligned:
    """A leaf with a character alignment: some of its characters are copies out of its inputs.

    `runs` is flat, four numbers a run: at, input, start, length. None means that the recipe says
    them, and they are worked out when first asked for.
    """

    __slots__ = ("did", "inputs", "recipe", "runs")
    kind = "aligned"

    def __init__(
        self, recipe: Recipe, inputs: tuple[Piece, ...], runs: array[int] | None = None
    ) -> None:
        self.recipe = recipe
        self.inputs = inputs
        self.runs = runs
        self.did: bytes | None = None


Node: TypeAlias = Leaf | Cat | Fill | Select | Aligned

# Recipes of the two commonest slices; shared, because a node of its own for each would not fit
# the memory budget. SLICE is parent[start : start + len(text)], TAIL is parent[start:].
SLICE: Recipe = ("slice",)
TAIL: Recipe = ("tail",)


def is_text(piece: object) -> TypeGuard[Text]:
    """Whether this is a Text; for the modules below `strings`, which cannot import the class."""
    return hasattr(piece, "_node")


def inputs_of(text: Text) -> tuple[Piece, ...]:
    """The pieces this Text was made from, in order; a literal has none."""
    node = text._node
    match node:
        case None:
            return ()
        case Cat():
            return node.pieces
        case Fill():
            return (node.form.leaf, *node.args)
        case Select():
            return (node.parent,)
        case _:
            return node.inputs


def segments(text: Text) -> Iterator[Segment]:
    """One level down: the (piece, start, stop) whose characters, joined, are the text.

    A segment of the text itself means that the search ends here: these characters are its own.
    """
    node = text._node
    match node:
        case Cat():
            for piece in node.pieces:
                yield piece, 0, len(piece)
        case Fill():
            for part in node.form.parts:
                if isinstance(part, int):
                    yield node.args[part], 0, len(node.args[part])
                else:
                    yield node.form.leaf, *part
        case Select():
            yield node.parent, node.start, node.start + len(text)
        case Aligned():
            runs, done = runs_of(text, node), 0
            for i in range(0, len(runs), 4):
                at, source, start, length = runs[i : i + 4]
                if at > done:
                    yield text, done, at
                yield node.inputs[source], start, start + length
                done = at + length
            if done < len(text):
                yield text, done, len(text)
        case _:
            yield text, 0, len(text)


def runs_of(text: Text, node: Aligned) -> array[int]:
    """The runs of an aligned node, worked out from its recipe if need be, and kept."""
    if node.runs is None:
        node.runs = aligned_runs(text, node.inputs, node.recipe)
    return node.runs


def sliced(parent: Text, start: int, length: int, lo: int | None, hi: int | None) -> Select:
    """The node of parent[lo:hi], which begins at `start` and is `length` long.

    Slices of slices compose, or `s = s[1:]` in a loop would keep every s alive. They can if none
    of the bounds counts from the end: the result is then the same slice of the first parent, of
    whatever length that is.
    """
    lo = lo or 0
    if lo < 0 or (hi is not None and hi < 0):
        return Select(parent, start, ("slice", lo, hi), None)
    outer = parent._node
    if isinstance(outer, Select) and outer.recipe[0] in ("slice", "tail"):
        first, last = _bounds(outer, len(parent))
        if first >= 0 and (last is None or last >= 0):
            lo += first
            hi = last if hi is None else hi + first if last is None else min(hi + first, last)
            parent, start = outer.parent, start + outer.start
    if lo == start and hi is None:
        return Select(parent, start, TAIL, None)
    if lo == start and hi == start + length:
        return Select(parent, start, SLICE, None)
    return Select(parent, start, ("slice", lo, hi), None)


def _bounds(node: Select, length: int) -> tuple[int, int | None]:
    if node.recipe is SLICE:
        return node.start, node.start + length
    if node.recipe is TAIL:
        return node.start, None
    _, lo, hi = node.recipe
    return lo, hi
