"""Files of reviewed topics and pairs: YAML, JSON Lines or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from engine import InputFile, Text
from engine.errors import InputError
from engine_pink_elephant import gates, naming
from engine_pink_elephant.rows import Kind, Pair

__all__ = ["FILE", "SHIPPED", "File", "read"]

_DATA = Path(__file__).parent / "data"
SHIPPED = {
    "competitors": _DATA / "pairs.yaml",
    "topics": _DATA / "topics.yaml",
    "unsafe": _DATA / "unsafe.yaml",
}
"""The files that are shipped: one of pairs of each kind."""
FILE = SHIPPED["competitors"]


def _named(value: Any) -> Any:
    return str(SHIPPED.get(value, value)) if isinstance(value, str) else value


File = Annotated[InputFile, BeforeValidator(_named)]
"""A file of topics and pairs, or the name of one that is shipped."""


def _listed(value: Any) -> Any:
    """Return the names in one cell of a CSV file, parted by `;`."""
    if not isinstance(value, str):
        return value
    return [name for name in map(str.strip, value.split(";")) if name]


Name = Annotated[str, Field(min_length=1, max_length=120)]
Aliases = Annotated[tuple[Name, ...], BeforeValidator(_listed)]


class ReviewedPair(BaseModel):
    """A pair as a file has it."""

    model_config = ConfigDict(extra="forbid")

    desired: Name
    pink: Name
    aliases_desired: Aliases = ()
    aliases_pink: Aliases = ()
    case_sensitive: bool = False
    ambiguous: bool = False
    kind: Kind = "competitor"
    why: str = ""


class Line(ReviewedPair):
    """A pair as a line of JSON or CSV has it."""

    topic: Name


class Entry(BaseModel):
    """A topic and its pairs as YAML has them."""

    model_config = ConfigDict(extra="forbid")

    topic: Name
    kind: Kind = "competitor"
    """Of those of its pairs that do not say theirs."""
    pairs: tuple[ReviewedPair, ...] = ()


class _Found(NamedTuple):
    """A topic, or one of its pairs, and the line where it stands."""

    line: int
    topic: str
    pair: ReviewedPair | None


class _Wrong(Exception):
    """What is wrong with a line of a file."""


def read(file: Path) -> Mapping[Text, Sequence[Pair]]:
    """Return the pairs of each topic, in the file's order; by its suffix it is JSON Lines
    (`.jsonl`), CSV (`.csv`) or YAML.

    Raises InputError, naming the file and the line, for a file that is not of this form and for
    a pair that the gates would refuse.
    """
    try:
        return _read(file, file.stat().st_mtime_ns)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error}") from error


@lru_cache(maxsize=4)  # each topic asks for its own pairs
def _read(file: Path, _changed: int) -> Mapping[Text, Sequence[Pair]]:
    readers = {".jsonl": _json_lines, ".csv": _csv_lines}
    found: dict[Text, list[Pair]] = {}
    known: set[tuple[str, ...]] = set()
    try:
        text = file.read_text("utf-8-sig")
        for line, topic, item in readers.get(file.suffix.lower(), _yaml)(text):
            pairs = found.setdefault(_leaf(topic, file), [])
            if item is None:
                continue
            pair = _pair(item, file)
            fault = gates.pair(pair)
            reason = fault.reason if fault else None
            if not reason and naming.pair_key(pair) in known:
                reason = "pair_repeated"
            if reason:
                raise _Wrong(f"line {line}: {item.desired} - {item.pink}: {reason}")
            pairs.append(pair)
            known.add(naming.pair_key(pair))
    except (_Wrong, UnicodeDecodeError) as error:
        raise InputError(f"{file}: no topics and pairs: {error}") from error
    return found


def _yaml(text: str) -> Iterator[_Found]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        entries = loader.construct_document(root) if root else []
    except yaml.YAMLError as error:
        raise _Wrong(" ".join(str(error).split())) from error
    finally:
        loader.dispose()
    if not isinstance(entries, list):
        raise _Wrong("line 1: a list of topics (`- topic: ...`) was expected")
    for entry, node in zip(entries, root.value if root else (), strict=True):
        try:
            made = Entry.model_validate(entry)
        except ValidationError as error:
            where, said = _first(error)
            raise _Wrong(f"line {_line(node, where)}: {said}") from None
        yield _Found(_line(node, ()), made.topic, None)
        for at, pair in enumerate(made.pairs):
            if "kind" not in pair.model_fields_set:
                pair = pair.model_copy(update={"kind": made.kind})
            yield _Found(_line(node, ("pairs", at)), made.topic, pair)


def _json_lines(text: str) -> Iterator[_Found]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise _Wrong(f"line {number}: no JSON: {error}") from None
            yield _of_line(number, value)


def _csv_lines(text: str) -> Iterator[_Found]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise _Wrong(f"line {reader.line_num}: it has not as many cells as the first line")
            yield _of_line(reader.line_num, {name: cell for name, cell in row.items() if cell})
    except csv.Error as error:
        raise _Wrong(f"after line {reader.line_num}: {error}") from None


def _of_line(number: int, value: Any) -> _Found:
    try:
        made = Line.model_validate(value)
    except ValidationError as error:
        raise _Wrong(f"line {number}: {_first(error)[1]}") from None
    return _Found(number, made.topic, made)


def _first(error: ValidationError) -> tuple[tuple[int | str, ...], str]:
    """Return where the first fault is, and what it is."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    given = "" if fault["type"] == "missing" else f", not {fault['input']!r}"
    return fault["loc"], f"{where + ': ' if where else ''}{fault['msg']}{given}"


def _line(node: yaml.Node, where: Sequence[int | str]) -> int:
    """Return the line of a value in a YAML node, or of the innermost that is there."""
    for part in where:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
        elif isinstance(node, yaml.MappingNode):
            inner = [value for key, value in node.value if key.value == part]
            if not inner:
                break
            [node, *_] = inner
    return int(node.start_mark.line) + 1


def _pair(item: ReviewedPair, file: Path) -> Pair:
    return Pair(
        desired=_leaf(item.desired, file),
        pink=_leaf(item.pink, file),
        aliases_desired=tuple(_leaf(alias, file) for alias in item.aliases_desired),
        aliases_pink=tuple(_leaf(alias, file) for alias in item.aliases_pink),
        case_sensitive=item.case_sensitive,
        ambiguous=item.ambiguous,
        kind=item.kind,
        why=_leaf(item.why, file),
        pair_origin="reviewed",
    )


def _leaf(text: str, file: Path) -> Text:
    return Text.leaf(text, f"source:{file.name}")
