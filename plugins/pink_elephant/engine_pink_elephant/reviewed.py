"""The reviewed file of topics and pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from engine import Text
from engine.errors import InputError
from engine_pink_elephant import gates
from engine_pink_elephant.rows import Pair

__all__ = ["FILE", "Entry", "read"]

FILE = Path(__file__).parent / "data" / "pairs.yaml"
"""The file that is shipped."""

Name = Annotated[str, Field(min_length=1, max_length=60)]


class ReviewedPair(BaseModel):
    """A pair as the file has it."""

    model_config = ConfigDict(extra="forbid")

    desired: Name
    pink: Name
    aliases_desired: tuple[Name, ...] = ()
    aliases_pink: tuple[Name, ...] = ()
    case_sensitive: bool = False
    ambiguous: bool = False
    why: str = ""


class Entry(BaseModel):
    """A topic and its pairs as the file has them."""

    model_config = ConfigDict(extra="forbid")

    topic: Name
    pairs: tuple[ReviewedPair, ...] = ()


_ENTRIES = TypeAdapter(list[Entry])


def read(file: Path) -> Mapping[Text, Sequence[Pair]]:
    """Return the pairs of each topic, in the file's order.

    Raises InputError, naming the file and the place, for a file that is not of this form and for
    a pair that the gates would refuse.
    """
    try:
        return _read(file, file.stat().st_mtime_ns)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error}") from error


@lru_cache(maxsize=4)  # each topic asks for its own pairs
def _read(file: Path, _changed: int) -> Mapping[Text, Sequence[Pair]]:
    try:
        entries = _ENTRIES.validate_python(yaml.safe_load(file.read_text("utf-8")))
    except (UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{file}: no list of topics and pairs: {error}") from error
    read: dict[Text, list[Pair]] = {}
    known: set[tuple[str, ...]] = set()
    for entry in entries:
        pairs = read.setdefault(_leaf(entry.topic, file), [])
        for item in entry.pairs:
            pair = _pair(item, file)
            if fault := gates.pair(pair, known):
                raise InputError(f"{file}: {item.desired} - {item.pink}: {fault}")
            pairs.append(pair)
            known.add(gates.pair_key(pair))
    return read


def _pair(item: ReviewedPair, file: Path) -> Pair:
    return Pair(
        desired=_leaf(item.desired, file),
        pink=_leaf(item.pink, file),
        aliases_desired=tuple(_leaf(alias, file) for alias in item.aliases_desired),
        aliases_pink=tuple(_leaf(alias, file) for alias in item.aliases_pink),
        case_sensitive=item.case_sensitive,
        ambiguous=item.ambiguous,
        kind="competitor",
        why=_leaf(item.why, file),
        pair_origin="reviewed",
    )


def _leaf(text: str, file: Path) -> Text:
    return Text.leaf(text, f"source:{file.name}")
