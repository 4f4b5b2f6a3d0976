"""Operations whose alignment must be found when they run: formatting, translate and re.sub.

Each function returns (result, recipe, inputs, runs) for an aligned node.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isfinite
from string import Formatter
from typing import Any, TypeAlias

from engine.text.align import Run, pack, placed
from engine.text.nodes import is_text

Woven: TypeAlias = tuple[str, tuple[Any, ...], tuple[Any, ...], "array[int]"]

# Formatting these again to see where they stand has no side effects.
_PURE = frozenset((str, int, float, bool, type(None)))


def woven_format(
    template: str, text: str, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> Woven:
    """`text` is template.format(*args, **kwargs), which has been computed by str itself."""
    named = kwargs if type(kwargs) is dict else {}
    values = (*args, *named.values())
    inputs = _inputs(template, values)
    recipe = ("format", [_mention(a) for a in args], {k: _mention(v) for k, v in named.items()})
    if named is not kwargs or not _pure(values):
        return text, recipe, inputs, pack(text, inputs, ())
    return text, recipe, inputs, pack(text, inputs, _format_runs(inputs, args, named))


def _format_runs(
    inputs: tuple[str, ...], args: tuple[object, ...], kwargs: dict[str, object]
) -> Iterator[Run]:
    template, formatter = inputs[0], Formatter()
    at = start = auto = 0
    for literal, name, spec, conversion in formatter.parse(str(template)):
        spec = spec or ""
        yield at, 0, start, len(literal)
        at, start = at + len(literal), start + len(literal)
        if name is None:  # the literal ended with {{ or }}, or with the template
            start += 1
            continue
        start += len(name) + 2 + (2 if conversion else 0)
        if spec or str.startswith(template, ":", start - 1):
            start += 1 + len(spec)
        name, auto = _numbered(name, auto)
        while "{" in spec:
            inner = spec[spec.index("{") + 1 : spec.index("}")]
            number, auto = _numbered(inner, auto)
            spec = spec.replace(
                "{" + inner + "}", str.format("{" + number + "}", *args, **kwargs), 1
            )
        value, _ = formatter.get_field(name, args, kwargs)
        shown = format(formatter.convert_field(value, conversion), spec)
        if isinstance(value, str) and conversion != "r" and conversion != "a":
            yield from placed(at, _index_of(inputs, value), value, shown, spec)
        at += len(shown)


def _numbered(name: str, auto: int) -> tuple[str, int]:
    return (f"{auto}{name}", auto + 1) if name[:1] in ("", ".", "[") else (name, auto)


_PRINTF = re.compile(
    r"%(?:\((?P<key>[^()]*)\))?(?P<flags>[#0\- +]*)(?P<width>\*|\d*)"
    r"(?:\.(?P<cut>\*|\d*))?[hlL]?(?P<kind>.)",
    re.DOTALL,
)


def woven_printf(template: str, value: Any) -> Woven:
    """`template % value`, computed by str itself."""
    text = str.__mod__(template, value)
    args = value if isinstance(value, tuple) else (value,)
    named = value if type(value) is dict else {}
    values = tuple(named.values()) if named else args
    inputs = _inputs(template, values)
    mention = (
        {str(k): _mention(v) for k, v in named.items()} if named else [_mention(a) for a in args]
    )
    recipe = ("%", mention)
    if not _pure(values):
        return text, recipe, inputs, pack(text, inputs, ())
    return text, recipe, inputs, pack(text, inputs, _printf_runs(inputs, args, named))


def _printf_runs(
    inputs: tuple[str, ...], args: tuple[object, ...], named: dict[Any, Any]
) -> Iterator[Run]:
    template = inputs[0]
    at = start = used = 0
    for token in _PRINTF.finditer(template):
        yield at, 0, start, token.start() - start
        at, start = at + token.start() - start, token.end()
        if token[0] == "%%":
            yield at, 0, token.start(), 1
            at += 1
            continue
        if token["key"] is not None:
            consumed: Any = named
            value = named.get(token["key"])
        else:
            stars = (token["width"] == "*") + (token["cut"] == "*")
            consumed = args[used : used + stars + 1]
            value = consumed[-1] if consumed else None
            used += stars + 1
        shown = str.__mod__(token[0], consumed)
        if isinstance(value, str) and token["kind"] == "s":
            kept = len(value) if token["cut"] is None else min(len(value), _cut(token, consumed))
            left = 0 if "-" in token["flags"] or _negative(token, consumed) else len(shown) - kept
            yield at + left, _index_of(inputs, value), 0, kept
        at += len(shown)
    yield at, 0, start, len(template) - start


def _cut(token: re.Match[str], consumed: Any) -> int:
    return max(int(consumed[-2]), 0) if token["cut"] == "*" else int(token["cut"] or 0)


def _negative(token: re.Match[str], consumed: Any) -> bool:
    return token["width"] == "*" and int(consumed[0]) < 0


def woven_translate(parent: str, text: str, table: Any) -> Woven:
    """`text` is parent.translate(table), which has been computed by str itself."""
    images = {char: str.translate(char, table) for char in set(str.__iter__(parent))}

    def runs() -> Iterator[Run]:
        at = 0
        for i, char in enumerate(str.__iter__(parent)):
            if images[char] == char:
                yield at, 0, i, 1
            at += len(images[char])

    recipe = ("translate", {char: image for char, image in images.items() if image != char})
    return text, recipe, (parent,), pack(text, (parent,), runs())


# A group reference in a replacement template; any other escape is left to Match.expand.
_REFERENCE = re.compile(
    r"\\(?:g<(?P<name>\w+)>|[0-7]{3}|0[0-7]?|(?P<number>[1-9]\d?)|.)", re.DOTALL
)


def substituted(
    parent: str,
    pattern: str | re.Pattern[str],
    repl: str | Callable[[re.Match[str]], str],
    count: int,
) -> Woven:
    """`re.sub(pattern, repl, parent, count)`; `repl` is called once for each match."""
    compiled = re.compile(pattern)
    inputs: list[str] = [parent]
    runs: list[Run] = []
    at = start = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal at, start
        runs.append((at, 0, start, match.start() - start))
        at, start = at + match.start() - start, match.end()
        if callable(repl):
            new = repl(match)
            if is_text(new):
                runs.append((at, _index_of(inputs, new, add=True), 0, len(new)))
        else:
            new = match.expand(repl)
            runs.extend(_expanded(match, repl, new, at))
        at += len(new)
        return new

    text = compiled.sub(replace, parent, count)
    runs.append((at, 0, start, len(parent) - start))
    by = {"function": getattr(repl, "__qualname__", "")} if callable(repl) else str.__str__(repl)
    recipe = ("re.sub", str.__str__(compiled.pattern), compiled.flags, by, count)
    return text, recipe, tuple(inputs), pack(text, inputs, runs)


def _expanded(match: re.Match[str], template: str, new: str, at: int) -> Iterable[Run]:
    """Where the groups that a replacement template names stand in its expansion."""
    runs: list[Run] = []
    length = done = 0
    for token in _REFERENCE.finditer(template):
        length += token.start() - done
        done = token.end()
        group = token["name"] or token["number"]
        if group is None:
            length += len(match.expand(token[0]))
            continue
        key = int(group) if group.isdecimal() else group
        span = match.span(key)
        if span[0] >= 0:
            runs.append((at + length, 0, span[0], span[1] - span[0]))
            length += span[1] - span[0]
    return runs if length + len(template) - done == len(new) else []


def _pure(values: Iterable[object]) -> bool:
    return all(type(value) in _PURE or is_text(value) for value in values)


def _inputs(template: str, values: Iterable[object]) -> tuple[str, ...]:
    """The template and every Text among the values, each once."""
    inputs = [template]
    for value in values:
        if is_text(value):
            _index_of(inputs, value, add=True)
    return tuple(inputs)


def _index_of(inputs: list[str] | tuple[str, ...], value: Any, *, add: bool = False) -> int:
    for i, known in enumerate(inputs):
        if known is value:
            return i
    if isinstance(inputs, list) and add:
        inputs.append(value)
        return len(inputs) - 1
    return 0  # a plain str: its characters are the operation's own


def _mention(value: object) -> object:
    """A value as a recipe can hold it: inputs are named by the graph's edges, not repeated."""
    if is_text(value):
        return {"input": True}
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or type(value) in (bool, int) or (type(value) is float and isfinite(value)):
        return value
    return {"type": type(value).__qualname__}
