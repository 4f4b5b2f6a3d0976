"""JSON in a reply, its strings keeping their place in the reply."""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any

from engine.text.errors import Misplaced, TextError
from engine.text.nodes import Aligned, Select
from engine.text.strings import Text, make

MAX_DEPTH = 200

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None}
_WORD = re.compile("true|false|null")
_DECODE = json.JSONDecoder().raw_decode


class _TooDeep(Misplaced):
    """Nesting beyond MAX_DEPTH; no other place to begin would help."""


def parse_json(text: str) -> Any:
    """The JSON value in `text`, each string value a Text with its spans in `text`.

    Object keys are plain str. Raises TextError, with line and column, for anything that is not
    strict JSON, for numbers beyond a float's range, for a key that is given twice, and for
    nesting deeper than MAX_DEPTH.
    """
    source = Text(text)
    reader = _Reader(source)
    try:
        value, end = reader.value(reader.space(0), "", 0)
        end = reader.space(end)
        if end < len(source):
            raise Misplaced(end, "more text after the value")
    except Misplaced as wrong:
        raise TextError(f"not JSON: {wrong.place(source)}") from None
    return value


def find_json(text: str) -> Text:
    """The first JSON object or array in a reply with other words around it, as a select node.

    Raises TextError if there is none.
    """
    source = Text(text)
    reader = _Reader(source, make_texts=False)
    for opener in re.finditer(r"[\[{]", reader.text):
        try:
            _, end = reader.value(opener.start(), "", 0)
        except _TooDeep as wrong:
            raise TextError(f"not JSON: {wrong.place(source)}") from None
        except Misplaced:
            continue
        return make(
            reader.text[opener.start() : end], Select(source, opener.start(), ("find_json",), None)
        )
    raise TextError(f"no JSON object or array in a text of {len(source)} characters: ask for one")


class _Reader:
    def __init__(self, source: Text, *, make_texts: bool = True) -> None:
        self.source = source
        self.text = str(source)
        self.make_texts = make_texts

    def space(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        assert match is not None
        return match.end()

    def value(self, at: int, path: str, depth: int) -> tuple[Any, int]:
        """The value at an offset and the offset after it; `path` is its JSON pointer."""
        if depth > MAX_DEPTH:
            raise _TooDeep(at, f"nested deeper than {MAX_DEPTH}")
        char = self.text[at : at + 1]
        if char == '"':
            return self.string_value(at, path)
        if char == "{":
            return self.object(at, path, depth)
        if char == "[":
            return self.array(at, path, depth)
        if word := _WORD.match(self.text, at):
            return _WORDS[word[0]], word.end()
        return self.number(at)

    def number(self, at: int) -> tuple[int | float, int]:
        match = _NUMBER.match(self.text, at)
        if match is None:
            found = repr(self.text[at : at + 10]) if at < len(self.text) else "the end"
            raise Misplaced(at, f"a value was expected, not {found}")
        try:
            value = float(match[0]) if match[1] or match[2] else int(match[0])
        except ValueError as error:
            raise Misplaced(at, str(error)) from None
        if isinstance(value, float) and not isfinite(value):
            raise Misplaced(at, "a number beyond a float's range")
        return value, match.end()

    def string(self, at: int) -> tuple[str, int]:
        try:
            string, end = _DECODE(self.text, at)
        except json.JSONDecodeError as error:
            raise Misplaced(error.pos, error.msg) from None
        return str(string), end

    def string_value(self, at: int, path: str) -> tuple[str, int]:
        string, end = self.string(at)
        start, stop = at + 1, end - 1
        if not self.make_texts:
            return string, end
        if len(string) == stop - start:  # an escape is always longer than what it stands for
            return make(string, Select(self.source, start, ("parse_json",), path)), end
        return make(string, Aligned(("json", start, stop, path), (self.source,))), end

    def array(self, at: int, path: str, depth: int) -> tuple[list[Any], int]:
        values: list[Any] = []
        at = self.space(at + 1)
        if self.text.startswith("]", at):
            return values, at + 1
        while True:
            value, at = self.value(at, f"{path}/{len(values)}", depth + 1)
            values.append(value)
            at, more = self.next(at, "]")
            if not more:
                return values, at

    def object(self, at: int, path: str, depth: int) -> tuple[dict[str, Any], int]:
        values: dict[str, Any] = {}
        at = self.space(at + 1)
        if self.text.startswith("}", at):
            return values, at + 1
        while True:
            if not self.text.startswith('"', at):
                raise Misplaced(at, "a key in double quotes was expected")
            key_at = at
            key, at = self.string(at)
            if key in values:
                raise Misplaced(key_at, f"the key {key!r} is given twice")
            at = self.space(at)
            if not self.text.startswith(":", at):
                raise Misplaced(at, "a colon was expected")
            pointer = key.replace("~", "~0").replace("/", "~1")
            values[key], at = self.value(self.space(at + 1), f"{path}/{pointer}", depth + 1)
            at, more = self.next(at, "}")
            if not more:
                return values, at

    def next(self, at: int, closer: str) -> tuple[int, bool]:
        """After a comma (True: one more is to come) or after the closer (False)."""
        at = self.space(at)
        if self.text.startswith(closer, at):
            return at + 1, False
        if not self.text.startswith(",", at):
            raise Misplaced(at, f"a comma or {closer} was expected")
        return self.space(at + 1), True
