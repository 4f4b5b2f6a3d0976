"""Text: a string that remembers how it came to be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, SupportsIndex, final

from engine.text.nodes import Aligned, Cat, Leaf, Node, Origin, Piece, Recipe, Select, sliced
from engine.text.tracing import Span, tile
from engine.text.walks import Graph, graph_of
from engine.text.weaving import substituted, woven_format, woven_printf, woven_translate
from engine.text.wire import did_of, frozen

if TYPE_CHECKING:
    from array import array

    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

FLAT = 64  # a sum keeps up to this many pieces in one node, then nests: `s += x` stays linear

_new = str.__new__


@final
class Text(str):
    """An immutable `str` that records its computation graph.

    Equality and hash are the text's; `did` identifies the derivation. Every `str` method gives
    the text that `str` gives, with its origin; `LOSSES` lists the idioms Python hides from us.
    `str(t)` is the explicit way out. `Text("abc")` is a literal; raises TypeError for non-strings.
    """

    __slots__ = ("_node",)
    _node: Node | None  # None: a literal

    def __new__(cls, value: str = "", /) -> Text:  # noqa: D102 - described by the class
        if type(value) is Text:
            return value
        if not isinstance(value, str):
            raise TypeError(f"Text() takes a str, not {type(value).__name__}; say str(value) first")
        return make(_piece(value), None)

    @classmethod
    def leaf(
        cls,
        text: str,
        op: str,
        *,
        inputs: Sequence[str] = (),
        params: Mapping[str, Any] | None = None,
    ) -> Text:
        """A leaf: characters that `op` made, having seen `inputs` under `params`.

        `op` is a word such as "source:FILE", "call", "stage:KEY". `params` holds JSON values and
        is copied. Raises TextError if it holds anything else.
        """
        if op == "literal" and not inputs and not params:
            return make(_piece(text), None)
        return make(
            _piece(text),
            Leaf(op, tuple([cls(i) for i in inputs]), frozen(params) if params else ()),
        )

    @property
    def origin(self) -> Origin | None:
        """How a leaf came to be; None for a Text that operations made out of others."""
        node = self._node
        if node is None:
            return Origin("literal", (), MappingProxyType({}))
        if not isinstance(node, Leaf):
            return None
        return Origin(node.op, node.inputs, MappingProxyType(node.named_params()))

    @property
    def did(self) -> bytes:
        """Derivation identity: a 16-byte hash over operation, parameters, inputs' dids and text."""
        return did_of(self)

    def spans(self, lo: int = 0, hi: int | None = None) -> list[Span]:
        """Which characters of self[lo:hi] come from which leaf; offsets are code points.

        The spans tile the stretch exactly. `lo` and `hi` are read as a slice reads them.
        """
        start, stop, _ = slice(lo, hi).indices(len(self))
        return tile(self, start, stop)

    def graph(self) -> Graph:
        """The whole computation graph, inputs before users."""
        return graph_of(self)

    def _repr_html_(self) -> str:
        from engine.text.painting import text_html  # for notebooks alone

        return text_html(self)

    def sub(
        self,
        pattern: str | re.Pattern[str],
        repl: str | Callable[[re.Match[str]], str],
        count: int = 0,
    ) -> Text:
        r"""`re.sub(pattern, repl, self, count)`, with the origin of every character kept.

        Characters between the matches, groups named in a `repl` string (`\1`, `\g<name>`), and a
        Text returned by a `repl` function keep their origin. Raises what `re.sub` raises.
        """
        return _woven(*substituted(self, pattern, repl, count))

    # The operations of str. Each asks str for the result (and its exceptions), then says where
    # the characters stand in the input.

    def __add__(self, other: str) -> Text:
        if not isinstance(other, str):
            return NotImplemented
        piece = _piece(other)
        if piece.__class__ is str and not piece:
            return self
        return _cat(_concat(self, piece), self, piece)

    def __radd__(self, other: str) -> Text:
        if not isinstance(other, str):
            return NotImplemented
        piece = _piece(other)
        if piece.__class__ is str and not piece:
            return self
        return _cat(_concat(piece, self), piece, self)

    def __mul__(self, count: SupportsIndex) -> Text:
        return make(str.__mul__(self, count), Cat((self,) * max(count.__index__(), 0)))

    __rmul__ = __mul__

    def __getitem__(self, key: SupportsIndex | slice) -> Text:
        text = str.__getitem__(self, key)
        if not isinstance(key, slice):
            at = key.__index__()
            return make(text, Select(self, at + len(self) * (at < 0), ("item", at), None))
        start, _, step = key.indices(len(self))
        if step != 1:
            return make(
                text, Aligned(("stepped", _index(key.start), _index(key.stop), step), (self,))
            )
        if key.start is None and key.stop is None:
            return self
        return make(text, sliced(self, start, len(text), _index(key.start), _index(key.stop)))

    def __iter__(self) -> Iterator[Text]:
        recipe = ("iter",)
        for i, char in enumerate(str.__iter__(self)):
            yield make(char, Select(self, i, recipe, i))

    def __mod__(self, value: Any) -> Text:
        return _woven(*woven_printf(self, value))

    def __rmod__(self, template: str) -> Text:
        if not isinstance(template, str):
            return NotImplemented
        return _woven(*woven_printf(template, self))

    def __format__(self, spec: str) -> str:
        text = str.__format__(self, spec)
        return make(text, Aligned(("__format__", str(spec)), (self,))) if spec else self

    def format(self, *args: object, **kwargs: object) -> Text:
        """As `str.format`; literals and Text arguments keep their origin."""
        return _woven(*woven_format(self, str.format(self, *args, **kwargs), args, kwargs))

    def format_map(self, mapping: Any, /) -> Text:
        """As `str.format_map`; literals and Text values keep their origin."""
        text = str.format_map(self, mapping)
        return _woven(*woven_format(self, text, (), mapping))

    def join(self, iterable: Iterable[str], /) -> Text:
        """As `str.join`: the items keep their origin, and so does each separator."""
        items = [_piece(i) if isinstance(i, str) else i for i in iterable]
        text = str.join(self, items)
        if not self:
            return make(text, Cat(tuple(items)))
        pieces: list[Piece] = [self] * (2 * len(items) - 1)
        pieces[::2] = items
        return make(text, Cat(tuple(pieces)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Text]:  # type: ignore[override]
        """As `str.split`."""
        parts = str.split(self, sep, maxsplit)
        return self._parts(parts, sep, ("split", _plain(sep), maxsplit.__index__()))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Text]:  # type: ignore[override]
        """As `str.rsplit`."""
        parts = str.rsplit(self, sep, maxsplit)
        return self._parts(parts, sep, ("rsplit", _plain(sep), maxsplit.__index__()))

    def _parts(self, parts: list[str], sep: str | None, recipe: Recipe) -> list[Text]:
        texts = []
        at = 0
        for i, part in enumerate(parts):
            if sep is None:
                at = str.find(self, part, at)  # only white space stands between
            texts.append(make(part, Select(self, at, recipe, i)))
            at += len(part) + (len(sep) if sep is not None else 0)
        return texts

    def splitlines(self, keepends: bool = False) -> list[Text]:  # type: ignore[override]
        """As `str.splitlines`."""
        recipe = ("splitlines", bool(keepends))
        texts = []
        at = 0
        lines = str.splitlines(self, keepends)
        for i, (line, whole) in enumerate(zip(lines, str.splitlines(self, True), strict=True)):
            texts.append(make(line, Select(self, at, recipe, i)))
            at += len(whole)
        return texts

    def partition(self, sep: str, /) -> tuple[Text, Text, Text]:
        """As `str.partition`."""
        return self._three(str.partition(self, sep), ("partition", _plain(sep)))

    def rpartition(self, sep: str, /) -> tuple[Text, Text, Text]:
        """As `str.rpartition`."""
        return self._three(str.rpartition(self, sep), ("rpartition", _plain(sep)))

    def _three(self, parts: tuple[str, str, str], recipe: Recipe) -> tuple[Text, Text, Text]:
        before, sep, after = parts
        return (
            make(before, Select(self, 0, recipe, 0)),
            make(sep, Select(self, len(before), recipe, 1)),
            make(after, Select(self, len(before) + len(sep), recipe, 2)),
        )

    def strip(self, chars: str | None = None, /) -> Text:
        """As `str.strip`."""
        start = len(self) - len(str.lstrip(self, chars))
        return self._at(str.strip(self, chars), start, ("strip", _plain(chars)))

    def lstrip(self, chars: str | None = None, /) -> Text:
        """As `str.lstrip`."""
        text = str.lstrip(self, chars)
        return self._at(text, len(self) - len(text), ("lstrip", _plain(chars)))

    def rstrip(self, chars: str | None = None, /) -> Text:
        """As `str.rstrip`."""
        return self._at(str.rstrip(self, chars), 0, ("rstrip", _plain(chars)))

    def removeprefix(self, prefix: str, /) -> Text:
        """As `str.removeprefix`."""
        text = str.removeprefix(self, prefix)
        return self._at(text, len(self) - len(text), ("removeprefix", _plain(prefix)))

    def removesuffix(self, suffix: str, /) -> Text:
        """As `str.removesuffix`."""
        return self._at(str.removesuffix(self, suffix), 0, ("removesuffix", _plain(suffix)))

    def _at(self, text: str, start: int, recipe: Recipe) -> Text:
        return make(text, Select(self, start, recipe, None))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> Text:
        """As `str.replace`; what stays keeps its origin, and so does a `new` that is a Text."""
        text = str.replace(self, old, new, count)
        recipe = ("replace", _plain(old), _plain(new), count.__index__())
        return make(text, Aligned(recipe, (self, new) if isinstance(new, Text) else (self,)))

    def upper(self) -> Text:
        """As `str.upper`; unchanged characters keep their origin."""
        return make(str.upper(self), Aligned(("upper",), (self,)))

    def lower(self) -> Text:
        """As `str.lower`; unchanged characters keep their origin."""
        return make(str.lower(self), Aligned(("lower",), (self,)))

    def casefold(self) -> Text:
        """As `str.casefold`; unchanged characters keep their origin."""
        return make(str.casefold(self), Aligned(("casefold",), (self,)))

    def title(self) -> Text:
        """As `str.title`; unchanged characters keep their origin."""
        return make(str.title(self), Aligned(("title",), (self,)))

    def capitalize(self) -> Text:
        """As `str.capitalize`; unchanged characters keep their origin."""
        return make(str.capitalize(self), Aligned(("capitalize",), (self,)))

    def swapcase(self) -> Text:
        """As `str.swapcase`; unchanged characters keep their origin."""
        return make(str.swapcase(self), Aligned(("swapcase",), (self,)))

    def expandtabs(self, tabsize: SupportsIndex = 8) -> Text:
        """As `str.expandtabs`."""
        text = str.expandtabs(self, tabsize)
        return make(text, Aligned(("expandtabs", tabsize.__index__()), (self,)))

    def center(self, width: SupportsIndex, fillchar: str = " ", /) -> Text:
        """As `str.center`."""
        text = str.center(self, width, fillchar)
        return make(text, Aligned(("center", width.__index__(), _plain(fillchar)), (self,)))

    def ljust(self, width: SupportsIndex, fillchar: str = " ", /) -> Text:
        """As `str.ljust`."""
        text = str.ljust(self, width, fillchar)
        return make(text, Aligned(("ljust", width.__index__(), _plain(fillchar)), (self,)))

    def rjust(self, width: SupportsIndex, fillchar: str = " ", /) -> Text:
        """As `str.rjust`."""
        text = str.rjust(self, width, fillchar)
        return make(text, Aligned(("rjust", width.__index__(), _plain(fillchar)), (self,)))

    def zfill(self, width: SupportsIndex, /) -> Text:
        """As `str.zfill`."""
        return make(str.zfill(self, width), Aligned(("zfill", width.__index__()), (self,)))

    def translate(self, table: Any, /) -> Text:
        """As `str.translate`; unmapped characters keep their origin."""
        return _woven(*woven_translate(self, str.translate(self, table), table))

    def __copy__(self) -> Text:
        return self

    def __deepcopy__(self, memo: object) -> Text:
        return self

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema as core  # only where pydantic is in use anyway

        from_str = core.no_info_after_validator_function(cls, core.str_schema())
        return core.json_or_python_schema(
            json_schema=from_str,
            python_schema=core.union_schema(
                [core.is_instance_schema(cls), from_str], mode="left_to_right"
            ),
            serialization=core.plain_serializer_function_ser_schema(
                str, return_schema=core.str_schema()
            ),
        )


_concat = str.__add__


def make(text: str, node: Node | None) -> Text:
    """A Text with these characters and this node: the only place where one is made."""
    made = _new(Text, text)
    made._node = node
    return made


def _piece(value: str) -> Piece:
    """A Text, or exactly a `str`: other subclasses (enums, say) leave only their characters."""
    return value if type(value) is Text or type(value) is str else str.__str__(value)


def _plain(value: str | None) -> str | None:
    """An argument as a recipe keeps it: without a graph of its own."""
    return None if value is None else str.__str__(value)


def _cat(text: str, left: Piece, right: Piece) -> Text:
    pieces = (*_flat(left), *_flat(right))
    return make(text, Cat(pieces if len(pieces) <= FLAT else (left, right)))


def _flat(piece: Piece) -> tuple[Piece, ...]:
    node = piece._node if isinstance(piece, Text) else None
    return node.pieces if isinstance(node, Cat) else (piece,)


def _index(bound: SupportsIndex | None) -> int | None:
    return None if bound is None else bound.__index__()


def _woven(text: str, recipe: Recipe, inputs: tuple[Piece, ...], runs: array[int]) -> Text:
    return make(text, Aligned(recipe, inputs, runs))
