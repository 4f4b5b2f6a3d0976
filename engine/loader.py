"""YAML to plain values, safely, with the line and column of every key and value.

Safe loading only; YAML 1.2's core types (`no`, `12:30` and `007` are strings); duplicate keys,
anchors, aliases, tags, depths over 50 and files over 1 MB are errors. PyYAML's C parser makes the
nodes.
"""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import yaml

from engine.errors import EngineError, PipelineError, nearest, short_path

__all__ = ["Document", "Keys", "Place", "load", "loads", "override", "scalar"]

Keys = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""
Mark = tuple[int, int]
"""Line and column, from 1."""

MAX_BYTES, MAX_DEPTH = 1 << 20, 50
_CONSTANTS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False
}  # fmt: skip
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"(?=.*[.eE])[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_ENVIRONMENT = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)\Z")
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # as YAML says
)
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Document:
    """A loaded file: its value, and where each part of it stands."""

    file: str
    folder: Path
    value: Any
    marks: dict[Keys, Mark] = field(default_factory=dict)
    """Where each value stands."""
    key_marks: dict[Keys, Mark] = field(default_factory=dict)
    """Where the key stands that leads to each value."""
    environment: dict[Keys, str] = field(default_factory=dict)
    """Values that came from the environment, and from which variable."""
    overridden: frozenset[Keys] = frozenset()
    """Values that `--set` gave: relative paths there are relative to where one stands."""

    def at(self, *keys: str | int) -> Place:
        """Return a place in the document."""
        return Place(self, keys)


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a document: what an error points at."""

    document: Document
    keys: Keys = ()

    def __truediv__(self, key: str | int) -> Place:
        return Place(self.document, (*self.keys, key))

    def error(self, message: str, *, key: bool = False) -> PipelineError:
        """Return a PipelineError at the value (or its key), or at the nearest part around it."""
        document = self.document
        if (given := self._overridden()) is not None:
            return PipelineError(message, file=f"--set {'.'.join(map(str, given))}")
        for length in range(len(self.keys), -1, -1):
            part = self.keys[:length]
            marks = document.key_marks if key and part in document.key_marks else document.marks
            if part in marks:
                line, column = marks[part]
                return PipelineError(message, file=document.file, line=line, column=column)
        return PipelineError(message, file=document.file)

    @contextmanager
    def blamed(self, *, key: bool = False) -> Iterator[None]:
        """Give this place to the engine's errors that are raised inside and have none."""
        try:
            yield
        except PipelineError:
            raise
        except EngineError as error:
            raise self.error(str(error), key=key) from error

    @property
    def folder(self) -> Path:
        """Where relative paths begin."""
        return self.document.folder if self._overridden() is None else Path.cwd()

    @property
    def from_environment(self) -> bool:
        """Whether the value, or a part of it, came from the environment."""
        size = len(self.keys)
        return any(keys[:size] == self.keys for keys in self.document.environment)

    def found(self, value: object) -> str:
        """Return how an error names a value; what came from the environment may be a secret."""
        if self.keys in self.document.environment:
            return f"what ${self.document.environment[self.keys]} holds"
        match value:
            case None:
                return "nothing"
            case bool():
                return str(value).lower()
            case str() | int() | float():
                shown = repr(value)
                return shown if len(shown) <= 80 else f"{shown[:77]}..."
            case list():
                return "a list"
        return "a mapping"

    def _overridden(self) -> Keys | None:
        prefixes = (self.keys[:length] for length in range(len(self.keys), 0, -1))
        return next((keys for keys in prefixes if keys in self.document.overridden), None)


def load(path: str | os.PathLike[str]) -> Document:
    """Load a YAML file. Raises PipelineError with file, line and column."""
    file = Path(path)
    shown = short_path(str(file))
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = nearest(file.name, _siblings(file.parent), say="; did you mean {}?")
        raise PipelineError(f"no such file{near}", file=shown) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PipelineError(f"it cannot be read: {reason}", file=shown) from None
    return loads(data, file=shown, folder=file.parent.absolute())


def _siblings(folder: Path) -> list[str]:
    return [p.name for p in folder.glob("*.y*ml")] if folder.is_dir() else []


def loads(data: bytes | str, *, file: str = "<pipeline>", folder: Path | None = None) -> Document:
    """Load YAML text. Raises PipelineError with line and column."""
    if len(data) > MAX_BYTES:
        raise PipelineError("it has more than 1 MB: keep data in files of their own", file=file)
    text = data if isinstance(data, str) else _decoded(data, file)
    if bad := _UNPRINTABLE.search(text):
        message = f"the character U+{ord(bad.group()):04X} cannot stand in YAML: remove it"
        raise _at_end_of(text[: bad.start()], file, message)
    document = Document(file, folder or Path.cwd(), None, {(): (1, 1)})
    try:
        _check_events(text, document)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _yaml_error(error, text, file) from None
    document.value = _build(node, (), document) if node is not None else None
    return document


def _decoded(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = data[: error.start].decode("utf-8-sig")
        raise _at_end_of(good, file, "it is not UTF-8: save it as UTF-8") from None


def _at_end_of(text: str, file: str, message: str) -> PipelineError:
    lines = text.split("\n")
    return PipelineError(message, file=file, line=len(lines), column=len(lines[-1]) + 1)


def _check_events(text: str, document: Document) -> None:
    """Refuse what expands, nests too deep or carries types, before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        wrong = ""
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            wrong = f"nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else ""
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.AliasEvent):
            wrong = "aliases (*name) are not allowed: write the value out"
        elif getattr(event, "anchor", None):
            wrong = "anchors (&name) are not allowed: write the value out"
        elif tag := getattr(event, "tag", None):
            wrong = f"tags such as {tag!r} are not allowed: write a plain value"
        if wrong:
            mark = cast(Any, event.start_mark)
            raise PipelineError(
                wrong, file=document.file, line=mark.line + 1, column=mark.column + 1
            )


_ADVICE = {
    "mapping values are not allowed in this context": "a `:` that begins no value here: check the "
    "indentation, or put the text in quotes",
    "but found another document": "a second document begins here: a file holds one pipeline",
}


def _yaml_error(error: yaml.MarkedYAMLError, text: str, file: str) -> PipelineError:
    """Say it in the words of somebody who writes YAML, not of who parses it."""
    mark, began = cast(Any, error.problem_mark), cast(Any, error.context_mark)
    if mark is None:
        return PipelineError(f"not YAML: {error}", file=file)
    message = _ADVICE.get(error.problem or "", "")
    if not message and "cannot start any token" in (error.problem or ""):
        character = (text.splitlines()[mark.line :] or [""])[0][mark.column : mark.column + 1]
        advice = "indent with spaces" if character == "\t" else "put the value in quotes"
        message = f"{character!r} cannot begin a value: {advice}"
    if not message:
        message = f"not YAML: {error.problem}"
        if error.context and began is not None:
            message += f" {error.context} that begins at {began.line + 1}:{began.column + 1}"
    return PipelineError(message, file=file, line=mark.line + 1, column=mark.column + 1)


def _build(node: Any, keys: Keys, document: Document) -> Any:
    document.marks[keys] = _mark(node)
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, keys, document)
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*keys, i), document) for i, child in enumerate(node.value)]
    if node.style:  # quoted or block: always a string
        return node.value
    try:
        value = scalar(node.value)
    except ValueError as error:
        raise document.at(*keys).error(str(error)) from None
    return _from_environment(value, keys, document)


def _build_mapping(node: yaml.MappingNode, keys: Keys, document: Document) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line, column = _mark(key_node)
        wrong = ""
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode):
            wrong = "a key is a word, not a list or a mapping"
        elif key in result:
            first = document.key_marks[(*keys, key)][0]
            wrong = f"the key {key!r} stands here twice (first on line {first}): remove one"
        if wrong:
            raise PipelineError(wrong, file=document.file, line=line, column=column)
        document.key_marks[(*keys, key)] = (line, column)
        result[key] = _build(value_node, (*keys, key), document)
    return result


def _mark(node: yaml.Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1


def scalar(text: str) -> Any:
    """Return a plain YAML 1.2 core scalar. Raises ValueError for a number that nothing can hold."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.match(text):
        if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
            raise ValueError(
                f"an integer of {len(text.lstrip('+-'))} digits: 64 bits hold at most {2**63 - 1}"
            )
        return int(text)
    if _FLOAT.match(text):
        value = float(text)
        if math.isinf(value):
            raise ValueError(f"{text[:40]} is too large for a float, which ends at 1.8e308")
        return value
    return text


def _from_environment(value: Any, keys: Keys, document: Document) -> Any:
    """Replace `$NAME`, as a whole value, by the environment's NAME."""
    match = _ENVIRONMENT.match(value) if isinstance(value, str) else None
    if match is None:
        return value
    name = match.group(1)
    if name not in os.environ:
        raise document.at(*keys).error(
            f"the environment variable {name} is not set: export {name}=..., "
            f"or write '${name}' in quotes if you mean the text"
        )
    document.environment[keys] = name
    return os.environ[name]


def override(document: Document, assignment: str) -> Document:
    """Return the document with one `--set a.b.c=value` applied; the value is read as YAML.

    Raises PipelineError for a malformed assignment or a path through something that is no mapping.
    """
    dotted, equals, text = assignment.partition("=")
    keys: Keys = tuple(dotted.split("."))
    if not equals or not all(keys):
        raise PipelineError(
            f"{assignment!r} is no assignment: write stages.KEY.with.NAME=VALUE", file="--set"
        )
    here = f"--set {dotted}"
    try:
        given = loads(text, file=here)
    except PipelineError as error:
        raise PipelineError(error.message, file=here) from None
    value = copy.deepcopy(document.value)
    target = value
    for depth, key in enumerate(keys[:-1]):
        if isinstance(target, dict) and key not in target and _may_be_absent(keys[: depth + 1]):
            target[key] = {}
        known = target if isinstance(target, dict) else {}
        if key not in known:
            raise PipelineError(
                f"there is no {'.'.join(map(str, keys[: depth + 1]))!r} in {document.file}"
                + nearest(str(key), known, say="; did you mean {!r}?"),
                file=here,
            )
        target = target[key]
    if not isinstance(target, dict):
        what = ".".join(map(str, keys[:-1])) or document.file
        raise PipelineError(f"{what} is not a mapping", file=here)
    target[keys[-1]] = given.value
    kept = {k: name for k, name in document.environment.items() if k[: len(keys)] != keys}
    new = {(*keys, *inner): name for inner, name in given.environment.items()}
    return replace(
        document,
        value=value,
        environment=kept | new,
        overridden=document.overridden | {keys},
    )


def _may_be_absent(keys: Keys) -> bool:
    """Return whether `--set` makes this mapping; stages and resources must be in the file."""
    return keys == ("limits",) or len(keys) > 2
