"""The card of a dataset folder: what the Hub shows, and what `load_dataset` is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from engine.datasets.schema import shown
from engine.stages import Context

__all__ = ["card"]


def card(
    ctx: Context, fields: Mapping[str, Any], rows: int, *, license: str | None, tags: Sequence[str]
) -> str:
    """Return the README.md of a dataset: nothing in it differs between two runs of equal rows."""
    front: dict[str, Any] = {"pretty_name": ctx.pipeline or "dataset"}
    if license:
        front["license"] = license
    if tags:
        front["tags"] = list(tags)
    front["size_categories"] = [_size(rows)]
    front["configs"] = [
        {
            "config_name": "default",
            "data_files": [{"split": "train", "path": "data/train-*"}],
        }
    ]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {ctx.pipeline or 'dataset'}",
        f"{_counted(rows)}, written by the stage `{ctx.stage_key}` of the pipeline "
        f"`{ctx.pipeline}` (`st-engine`).",
        "## Columns",
        _table(["column", "type"], [[f"`{name}`", shown(hint)] for name, hint in fields.items()]),
    ]
    if ctx.upstream:
        counts = [
            [f"`{key}`", f"`{stage.name}`", *map(str, _fate(stage.counters))]
            for key, stage in ctx.upstream.items()
        ]
        parts += [
            "## Stages",
            "The stages that lead to these rows, with the rows that each passed on and rejected.",
            _table(["stage", "what", "out", "rejected", "dead"], counts),
        ]
    reasons = [
        [f"`{key}`", reason, str(count)]
        for key, stage in ctx.upstream.items()
        for reason, count in sorted(stage.counters.reasons.items())
        if not reason.startswith("dead: ")  # an exception's words may hold a path or a time
    ]
    if reasons:
        parts += ["## Rejected rows", _table(["stage", "reason", "rows"], reasons)]
    return "\n\n".join(parts) + "\n"


def _fate(counters: Any) -> tuple[int, int, int]:
    return counters.out, counters.rejected + counters.rejected_children, counters.dead


def _counted(rows: int) -> str:
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def _size(rows: int) -> str:
    """Return the Hub's size category."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    at = sum(rows >= 10 ** (3 + i) for i in range(len(bounds)))
    if at == 0:
        return "n<1K"
    return f"{bounds[at - 1]}<n<{bounds[at]}" if at < len(bounds) else "n>1B"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
