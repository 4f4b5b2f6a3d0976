"""YAML to plain values, safely, with the line and column of every key and value.

Safe loading only; YAML 1.2's core types (`no` and `12:30` are strings); duplicate keys, anchors,
aliases, tags, depths over 50 and files over 1 MB are errors. PyYAML's C parser makes the nodes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engine.errors import PipelineError, nearest, short_path

__all__ = ["Document", "load", "loads", "override", "scalar"]

Path_ = tuple[str | int, ...]
MAX_BYTES, MAX_DEPTH = 1 << 20, 50
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}
_ENVIRONMENT = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)\Z")
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Document:
    """A loaded file: its value, and where each part of it stands."""

    file: str
    folder: Path
    value: Any
    marks: dict[Path_, tuple[int, int]] = field(default_factory=dict)
    """Path -> (line, column), from 1, of the value."""
    key_marks: dict[Path_, tuple[int, int]] = field(default_factory=dict)
    """Path -> (line, column), from 1, of the key that leads to the value."""
    overridden: set[Path_] = field(default_factory=set)
    """Paths that `--set` gave: relative paths there are relative to where one stands."""

    def error(self, path: Path_, message: str, *, key: bool = False) -> PipelineError:
        """Return a PipelineError at the deepest part of `path` that stands in the file."""
        for length in range(len(path), -1, -1):
            part = path[:length]
            marks = self.key_marks if key and part in self.key_marks else self.marks
            if part in self.overridden:
                return PipelineError(message, file=f"--set {'.'.join(map(str, part))}")
            if part in marks:
                line, column = marks[part]
                return PipelineError(message, file=self.file, line=line, column=column)
        return PipelineError(message, file=self.file)


def load(path: str | os.PathLike[str]) -> Document:
    """Load a YAML file. Raises PipelineError with file, line and column."""
    file = Path(path)
    shown = short_path(str(file))
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        near = nearest(file.name, _siblings(file.parent), say="; did you mean {}?")
        raise PipelineError(f"no such file{near}", file=shown) from None
    except OSError as error:
        raise PipelineError(f"it cannot be read: {error.strerror}", file=shown) from None
    return loads(data, file=shown, folder=file.parent.absolute())


def _siblings(folder: Path) -> list[str]:
    return [p.name for p in folder.glob("*.y*ml")] if folder.is_dir() else []


def loads(data: bytes | str, *, file: str = "<pipeline>", folder: Path | None = None) -> Document:
    """Load YAML text. Raises PipelineError with line and column."""
    if len(data) > MAX_BYTES:
        raise PipelineError(
            f"it has {len(data)} bytes; a pipeline has at most {MAX_BYTES}", file=file
        )
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1  # type: ignore[arg-type]
        raise PipelineError(
            "it is not UTF-8: save it as UTF-8", file=file, line=line, column=1
        ) from None
    document = Document(file, folder or Path.cwd(), None)
    _check_events(text, document)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _yaml_error(error, document) from None
    finally:
        loader.dispose()
    document.value = _build(node, (), document) if node is not None else None
    return document


def _check_events(text: str, document: Document) -> None:
    """Refuse what expands, nests too deep or carries types, before anything is built."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            mark = event.start_mark

            def refuse(message: str, mark: Any = mark) -> PipelineError:
                return PipelineError(
                    message, file=document.file, line=mark.line + 1, column=mark.column + 1
                )

            if isinstance(event, yaml.AliasEvent):
                raise refuse("aliases (*name) are not allowed: write the value out")
            if getattr(event, "anchor", None):
                raise refuse("anchors (&name) are not allowed: write the value out")
            if getattr(event, "tag", None):
                raise refuse(f"tags such as {event.tag!r} are not allowed: write a plain value")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise refuse(f"nested more than {MAX_DEPTH} deep")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.MarkedYAMLError as error:
        raise _yaml_error(error, document) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise PipelineError(
            f"the character U+{ord(error.character):04X} cannot stand in YAML"
            if isinstance(error.character, str)
            else str(error.reason),
            file=document.file,
            line=line,
            column=1,
        ) from None


def _yaml_error(error: yaml.MarkedYAMLError, document: Document) -> PipelineError:
    mark = error.problem_mark or error.context_mark
    message = " ".join(part for part in (error.problem, error.context) if part)
    return PipelineError(
        f"not YAML: {message}",
        file=document.file,
        line=mark.line + 1 if mark else 0,
        column=mark.column + 1 if mark else 0,
    )


def _build(node: yaml.Node, path: Path_, document: Document) -> Any:
    here = (node.start_mark.line + 1, node.start_mark.column + 1)
    document.marks[path] = here
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            at = {"file": document.file, "line": mark[0], "column": mark[1]}
            if not isinstance(key_node, yaml.ScalarNode):
                raise PipelineError("a key must be a plain word", **at)  # type: ignore[arg-type]
            key = key_node.value
            if key in result:
                first = document.key_marks[(*path, key)][0]
                raise PipelineError(
                    f"the key {key!r} stands here twice (first on line {first}): remove one",
                    **at,  # type: ignore[arg-type]
                )
            document.key_marks[(*path, key)] = mark
            result[key] = _build(value_node, (*path, key), document)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*path, i), document) for i, child in enumerate(node.value)]
    if node.style is not None:  # quoted or block: always a string
        return node.value
    try:
        value = scalar(node.value)
    except ValueError as error:
        raise document.error(path, str(error)) from None
    return _from_environment(value, path, document)


def scalar(text: str) -> Any:
    """Return a plain YAML 1.2 core scalar. Raises ValueError for a number that nothing can hold."""
    if text.lower() in _CONSTANTS and text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text in {"true", "True", "TRUE", "false", "False", "FALSE"}:
        return _CONSTANTS[text.lower()]
    if _INT.match(text):
        if len(text) > 20:
            raise ValueError(f"an integer of {len(text)} digits: at most 64 bits fit")
        return int(text)
    if _FLOAT.match(text):
        value = float(text)
        if math.isinf(value):
            raise ValueError(f"{text} is too large for a float")
        return value
    return text


def _from_environment(value: Any, path: Path_, document: Document) -> Any:
    """Replace `$NAME`, as a whole value, by the environment's NAME."""
    match = _ENVIRONMENT.match(value) if isinstance(value, str) else None
    if match is None:
        return value
    name = match.group(1)
    if name not in os.environ:
        raise document.error(path, f"the environment variable {name} is not set: export {name}=...")
    return os.environ[name]


def override(document: Document, assignment: str) -> None:
    """Apply one `--set a.b.c=value` to a document; the value is read as YAML.

    Raises PipelineError for a malformed assignment or a path through something that is no mapping.
    """
    dotted, equals, text = assignment.partition("=")
    path = tuple(dotted.split("."))
    if not equals or not all(path):
        raise PipelineError(
            f"{assignment!r} is no assignment: write stages.KEY.with.NAME=VALUE", file="--set"
        )
    value = loads(text, file=f"--set {dotted}").value
    target = document.value
    for depth, part in enumerate(path[:-1]):
        if isinstance(target, dict) and part not in target and depth >= 2:
            target[part] = {}  # `with:` may be absent; stages and resources may not
        if not isinstance(target, Mapping) or part not in target:
            known = target if isinstance(target, Mapping) else ()
            raise PipelineError(
                f"there is no {'.'.join(path[: depth + 1])!r} in {document.file}"
                + nearest(part, known, say="; did you mean {!r}?"),
                file=f"--set {dotted}",
            )
        target = target[part]
    if not isinstance(target, dict):
        raise PipelineError(f"{'.'.join(path[:-1])!r} is not a mapping", file=f"--set {dotted}")
    target[path[-1]] = value
    document.overridden.add(path)
