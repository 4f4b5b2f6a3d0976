"""A pipeline as a drawing: stages, what flows between them, and the resources that they take.

One description (`described`), which is also the JSON, and two languages to draw it in.
"""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engine.pipeline import Pipeline
from engine.typecheck import show
from engine.wiring import Source, WiredStage

__all__ = ["FORMATS", "described"]

Drawing = dict[str, Any]

WIDTH = 40  # characters of a line in a box


def described(pipeline: Pipeline) -> Drawing:
    """Return the pipeline as plain data: its stages in the file's order, its resources.

    Of a stage: `key`, `use`, `kind` (`sink` for a stream that passes nothing on), `from` (`form` is
    one, concat, all or join; the `stages`; a join's parameter `names`), `reads` (parameter ->
    field), `adds` (field -> type), `resources` (parameter -> key).
    """
    resources = [{"key": k, "use": model.use} for k, model in pipeline.model.resources.items()]
    stages = [_stage(wired) for wired in pipeline.stages.values()]
    return {"name": pipeline.name, "stages": stages, "resources": resources}


def _stage(wired: WiredStage) -> Drawing:
    spec = wired.spec
    added = [name for name, writer in wired.writers.items() if writer == wired.key]
    return {
        "key": wired.key,
        "use": wired.model.use,
        "kind": "sink" if spec.is_sink else wired.kind,
        "from": _from(wired.source),
        "reads": {read.name: wired.taken(read.name) for read in spec.reads},
        "adds": {name: show(wired.fields[name]) for name in added},
        "resources": dict(wired.resources),
    }


def _from(source: Source | None) -> Drawing | None:
    if source is None:
        return None
    return {"form": source.form, "stages": [*source.stages], "names": [*source.names]}


def as_json(pipeline: Pipeline) -> str:
    """Return the description as JSON."""
    return json.dumps(described(pipeline), indent=1, ensure_ascii=False) + "\n"


# --- what both languages draw -------------------------------------------------------------------


def _lines(stage: Drawing) -> list[str]:
    """Return what stands in a stage's box: its key, what it is, what it adds."""
    adds = textwrap.wrap("+ " + ", ".join(stage["adds"]), WIDTH) if stage["adds"] else []
    return [stage["key"], f"{stage['use']} ({stage['kind']})", *adds]


def _edges(drawing: Drawing) -> Iterator[tuple[str, str, str]]:
    """Yield (from, to, label): nodes are `s0` (a stage), `m0` (where branches meet), `r0`.

    Stages that read the same list or the same union share the node in which it comes together.
    """
    names = {stage["key"]: f"s{i}" for i, stage in enumerate(drawing["stages"])}
    meetings = _meetings(drawing)
    for (form, stages), meeting in meetings.items():
        for i, key in enumerate(stages, 1):
            yield names[key], meeting, str(i) if form == "concat" else ""
    for stage in drawing["stages"]:
        match stage["from"]:
            case {"form": "one" | "join", "stages": stages, "names": parameters}:
                for i, key in enumerate(stages):
                    yield names[key], names[stage["key"]], parameters[i] if parameters else ""
            case {"form": form, "stages": stages}:
                yield meetings[form, tuple(stages)], names[stage["key"]], ""


def _meetings(drawing: Drawing) -> dict[tuple[str, tuple[str, ...]], str]:
    """Return the lists and unions: (form, stages) -> node."""
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    for stage in drawing["stages"]:
        if stage["from"] and stage["from"]["form"] in ("concat", "all"):
            found.setdefault(
                (stage["from"]["form"], tuple(stage["from"]["stages"])), f"m{len(found)}"
            )
    return found


def _uses(drawing: Drawing) -> Iterator[tuple[str, str, str]]:
    """Yield (resource, stage, parameter)."""
    names = {resource["key"]: f"r{i}" for i, resource in enumerate(drawing["resources"])}
    for i, stage in enumerate(drawing["stages"]):
        for parameter, key in stage["resources"].items():
            yield names[key], f"s{i}", parameter


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


# --- Mermaid ------------------------------------------------------------------------------------

_MERMAID = {
    "source": ("([", "])"),
    "map": ("[", "]"),
    "expand": ("[/", "\\]"),
    "batch": ("[[", "]]"),
    "stream": ("{{", "}}"),
    "sink": ("[(", ")]"),
}


def as_mermaid(pipeline: Pipeline) -> str:
    """Return a Mermaid flowchart, as GitHub and many editors draw it."""
    drawing = described(pipeline)
    lines = ["flowchart TD"]
    for i, stage in enumerate(drawing["stages"]):
        left, right = _MERMAID[stage["kind"]]
        label = "<br/>".join(_quoted(line) for line in _lines(stage))
        lines.append(f'  s{i}{left}"{label}"{right}')
    for (form, _), node in _meetings(drawing).items():
        lines.append(f'  {node}(("list"))' if form == "concat" else f'  {node}{{"all"}}')
    for i, resource in enumerate(drawing["resources"]):
        label = "<br/>".join(map(_quoted, [resource["key"], resource["use"]]))
        lines.append(f'  r{i}>"{label}"]')
    for start, end, label in _edges(drawing):
        lines.append(
            f'  {start} -->|"{_quoted(label)}"| {end}' if label else f"  {start} --> {end}"
        )
    for start, end, label in _uses(drawing):
        lines.append(f'  {start} -.->|"{_quoted(label)}"| {end}')
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Escape what means something to Mermaid or to HTML."""
    return "".join(
        c if c.isalnum() or c in " _.,:()+-/" else f"#{ord(c)};" for c in _printable(text)
    )


# --- DOT ----------------------------------------------------------------------------------------

_DOT = {
    "source": "shape=box style=rounded",
    "map": "shape=box",
    "expand": "shape=box3d",
    "batch": "shape=box peripheries=2",
    "stream": 'shape=hexagon margin="0,0.05"',
    "sink": "shape=cylinder",
}


def as_dot(pipeline: Pipeline) -> str:
    """Return a graph for Graphviz's `dot`."""
    drawing = described(pipeline)
    lines = [
        "digraph pipeline {",
        '  node [fontname="Helvetica" fontsize=11 margin="0.15,0.08"]',
        '  edge [fontname="Helvetica" fontsize=9 arrowsize=0.7]',
    ]
    for i, stage in enumerate(drawing["stages"]):
        lines.append(f"  s{i} [{_DOT[stage['kind']]} label={_label(*_lines(stage))}]")
    for (form, _), node in _meetings(drawing).items():
        shape = "circle" if form == "concat" else "diamond"
        word = "list" if form == "concat" else "all"
        lines.append(f'  {node} [shape={shape} fontsize=9 margin=0 label="{word}"]')
    for i, resource in enumerate(drawing["resources"]):
        lines.append(
            f"  r{i} [shape=note style=dashed label={_label(resource['key'], resource['use'])}]"
        )
    for start, end, label in _edges(drawing):
        lines.append(f"  {start} -> {end}{f' [label=<{_markup(label)}>]' if label else ''}")
    for start, end, label in _uses(drawing):
        lines.append(
            f"  {start} -> {end} [style=dashed color=gray50 fontcolor=gray40 constraint=false "
            f"label=<{_markup(label)}>]"
        )
    return "\n".join([*lines, "}"]) + "\n"


def _label(key: str, *more: str) -> str:
    small = [f'<font point-size="9">{_markup(line)}</font>' for line in more]
    return f"<{'<br/>'.join([f'<b>{_markup(key)}</b>', *small])}>"


def _markup(text: str) -> str:
    return html.escape(_printable(text))


FORMATS: Mapping[str, Callable[[Pipeline], str]] = {
    "mermaid": as_mermaid,
    "dot": as_dot,
    "json": as_json,
}
"""Name -> how to draw in it."""
