"""`artifact.write`: a sink that puts artifacts, files or folders, where the user wants them."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread

from engine.datasets.places import whole_file, whole_folder
from engine.datasets.schema import shown
from engine.errors import nearest
from engine.hookspecs import hookimpl
from engine.rows import Artifact, Row
from engine.stages import Context, OutputPath, fields_of, stage, strip_annotated

__all__ = ["engine_stages", "write"]

_PLACE = re.compile(r"\{([^{}]*)\}")
_SAFE = re.compile(r"\w[\w. -]*")


@hookimpl
def engine_stages() -> Sequence[Callable[..., Any]]:
    """Return the stages of the namespace `artifact`."""
    return [write]


@stage("artifact.write")
async def write(rows: AsyncIterable[Row], *, path: OutputPath, field: str, ctx: Context) -> None:
    """Copy the Artifact of each row, a file or a folder, to a path.

    Each appears when it is complete, and is left alone if it holds these bytes already. A folder
    that holds other files is never replaced.

    - `path`: where to; `{row_id}` or a field's name in braces stands for the row's id or value, so
      that several rows have paths of their own.
    - `field`: the field that holds the Artifact.
    """
    taken: dict[Path, str] = {}
    async for row in rows:
        target = _target(path, row)
        if target in taken:
            raise ValueError(
                f"two rows, {taken[target]} and {row.row_id}, have one path, {target.name!r}: "
                "put `{row_id}` or a field that differs into `path:`"
            )
        taken[target] = row.row_id
        artifact = row.fields.get(field)
        if not isinstance(artifact, Artifact):
            raise ValueError(f"row {row.row_id}: {field!r} is no artifact")
        await anyio.to_thread.run_sync(_copy, ctx.blobs.path(artifact), target, artifact.folder)


@fields_of(write)
def write_fields(upstream: Mapping[str, Any], *, path: Path, field: str) -> Mapping[str, Any]:
    """Return nothing. Raises ValueError for a field that is no artifact, or none at all."""
    for name in (field, *_PLACE.findall(str(path))):
        if upstream and name not in upstream and (name != "row_id" or name == field):
            near = nearest(name, upstream, say="; did you mean {!r}?")
            raise ValueError(f"no row has {name!r}{near} (rows have: {', '.join(upstream)})")
    hint = strip_annotated(upstream.get(field, Artifact))
    if hint not in (Artifact, Any):
        raise ValueError(f"field: {field!r} is {shown(hint)}, not an Artifact")
    return {}


def _target(path: Path, row: Row) -> Path:
    """Return a row's path. Raises ValueError for a value that is no part of a file's name."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        found = row.row_id if name == "row_id" else row.fields.get(name)
        text = str(found)
        if isinstance(found, bool) or not isinstance(found, (str, int)) or len(text) > 100:
            text = ""
        if not _SAFE.fullmatch(text):
            raise ValueError(
                f"row {row.row_id}: {name!r} is {str(found)[:60]!r}, which cannot stand in a path: "
                "use letters, digits, `_`, `-`, `.` and spaces, at most 100, a letter or digit "
                "first"
            )
        return text

    return Path(_PLACE.sub(value, str(path)))


def _copy(source: Path, target: Path, folder: bool) -> None:
    if folder:
        with whole_folder(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
    else:
        with whole_file(target) as temporary:
            shutil.copyfile(source, temporary)
