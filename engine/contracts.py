"""The contract of a stage or resource, as a page: what it takes and gives, and how to write it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from engine.docstrings import attribute_docs, parameter_docs, reflowed
from engine.errors import short_path, where
from engine.resources import ResourceSpec
from engine.rows import row_fields
from engine.schema import shown_default
from engine.stages import StageSpec, declared_fields
from engine.typecheck import show

__all__ = ["LAWS", "Entry", "Page", "contract", "kind_of"]

_EMPTY = inspect.Parameter.empty

LAWS = {
    "source": "out + rejected",
    "map": "in = out + rejected + dead",
    "expand": "in = expanded + rejected + dead",
    "batch": "in = out + rejected + dead",
    "stream": "in = kept + rejected + consumed + dead",
}
"""Kind -> how its counts close."""


class Entry(NamedTuple):
    """A field, resource or parameter."""

    name: str
    type: str
    default: str
    """As JSON, or `required`; "" where there is no question of it."""
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A contract: what to print, in order."""

    name: str
    doc: str
    facts: Mapping[str, str]
    sections: Mapping[str, Sequence[Entry]]
    """Title -> entries; none is empty."""
    example: str
    """A line of YAML."""

    def markdown(self) -> str:
        """Return the page as Markdown."""
        parts = [f"# `{self.name}`", self.doc] if self.doc else [f"# `{self.name}`"]
        parts.append("\n".join(f"- {name}: {value}" for name, value in self.facts.items()))
        for title, entries in self.sections.items():
            columns = [c for c in Entry._fields if any(getattr(entry, c) for entry in entries)]
            lines = [columns, ["---"] * len(columns)]
            lines += [[_cell(c, getattr(entry, c)) for c in columns] for entry in entries]
            parts.append(f"## {title}")
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        parts.append(f"## In a pipeline\n\n```yaml\n{self.example}\n```")
        return "\n\n".join(parts) + "\n"


def _cell(column: str, words: str) -> str:
    words = words.replace("|", "\\|").replace("\n", " ")
    return words if column == "meaning" or words in ("", "required") else f"`{words}`"


def contract(spec: StageSpec | ResourceSpec, use: str = "") -> Page:
    """Return the page of a stage or resource; `use` is how a pipeline names it, if not by name."""
    docs = parameter_docs(spec)
    sections: dict[str, Sequence[Entry]] = {}
    facts = (
        {"kind": "resource", "defined as": where(spec.cls)}
        if isinstance(spec, ResourceSpec)
        else {}
    )
    if isinstance(spec, StageSpec):
        facts = _facts(spec)
        sections["Reads"] = list(_reads(spec))
        sections["Adds" if spec.yields == "added" else "Makes"] = list(_adds(spec))
        sections["Resources"] = list(_resources(spec, docs))
    sections["Configuration"] = [
        Entry(name, show(hint), _default(hint, default), docs[name])
        for name, (hint, default) in spec.config.items()
    ]
    filled = {title: entries for title, entries in sections.items() if entries}
    return Page(spec.name, _doc(spec, docs), facts, filled, _example(spec, use))


def _doc(spec: StageSpec | ResourceSpec, names: Iterable[str]) -> str:
    """Return the docstring without the items of a list that stand with the parameters."""
    items = tuple(f"- `{name}`: " for name in names)
    lines = reflowed(spec.doc).splitlines()
    return "\n".join(line for line in lines if not line.startswith(items)).strip()


def kind_of(spec: StageSpec) -> str:
    """Return the kind of a stage; of a stream, whether it is a sink or a join."""
    return "sink" if spec.is_sink else "join" if spec.is_join else spec.kind


def _facts(spec: StageSpec) -> dict[str, str]:
    facts = {
        "kind": kind_of(spec),
        "counts": LAWS[spec.kind],
        "defined in": f"{short_path(spec.file)}:{spec.line}",
        "version": spec.version or "the digest of its sources",
    }
    if spec.context:
        facts["context"] = f"taken, as `{spec.context}`"
    return facts


def _reads(spec: StageSpec) -> Iterator[Entry]:
    if spec.is_join:
        for name, cls in spec.row_parameters.items():
            for read in row_fields(cls):
                default = _default(read.type, _EMPTY if read.required else read.default)
                yield Entry(f"{name}.{read.name}", show(read.type), default)
        return
    for read in spec.reads:
        default = _default(read.type, _EMPTY if read.required else read.default)
        yield Entry(read.name, show(read.type), default)
    if spec.reads_all:
        yield Entry("*", "every field of the row", "")


def _adds(spec: StageSpec) -> Iterator[Entry]:
    docs = attribute_docs(spec.adds) if spec.adds else {}
    for field in row_fields(spec.adds) if spec.adds else ():
        yield Entry(field.name, show(field.type), "", docs.get(field.name, ""))
    dynamic = spec.kind in ("source", "stream") and not spec.is_sink
    if dynamic and declared_fields(spec.func) is not None:
        yield Entry("*", "as its input and configuration say", "")


def _resources(spec: StageSpec, docs: Mapping[str, str]) -> Iterator[Entry]:
    for name, need in spec.resources.items():
        needs = f"It needs: {', '.join(need.features)}." if need.features else ""
        kind, default = need.cls.__name__, "required"
        if need.optional:
            kind, default = f"{kind} | None", "null"
        yield Entry(name, kind, default, f"{docs[name]} {needs}".strip())


def _default(hint: Any, default: Any) -> str:
    if default is _EMPTY:
        return "required"
    return json.dumps(shown_default(hint, default)[0], ensure_ascii=False)


def _example(spec: StageSpec | ResourceSpec, use: str) -> str:
    """Return the line that a pipeline needs at least; what is to be filled in is in capitals."""
    parts = [f"use: {use or spec.name}"]
    if isinstance(spec, StageSpec) and spec.is_join:
        streams = ", ".join(f"{name}: STAGE" for name in spec.row_parameters)
        parts.append(f"from: {{{streams}}}")
    given = []
    if isinstance(spec, StageSpec):
        given = [f"{name}: RESOURCE" for name, need in spec.resources.items() if not need.optional]
    required = [n for n, (_, d) in spec.config.items() if d is _EMPTY]
    given += [f"{name}: {name.upper()}" for name in required]
    if given:
        parts.append(f"with: {{{', '.join(given)}}}")
    return f"{spec.name.rpartition('.')[2]}: {{{', '.join(parts)}}}"
