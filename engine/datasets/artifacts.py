"""`artifact.write`: a sink that puts artifacts, files or folders, where the user wants them."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread

from engine.datasets import hub as the_hub
from engine.datasets.places import whole_file, whole_folder
from engine.datasets.schema import shown
from engine.errors import nearest
from engine.hookspecs import hookimpl
from engine.rows import Artifact, Row
from engine.stages import Context, OutputPath, fields_of, stage, strip_annotated

__all__ = ["engine_stages", "write"]

_PLACE = re.compile(r"\{([^{}]*)\}")
_SAFE = {"path": re.compile(r"\w[\w. -]*"), "hub": re.compile(r"\w[\w.-]*", re.ASCII)}
_WORDS = {"path": "path", "hub": "repository"}


@hookimpl
def engine_stages() -> Sequence[Callable[..., Any]]:
    """Return the stages of the namespace `artifact`."""
    return [write]


@stage("artifact.write")
async def write(
    rows: AsyncIterable[Row],
    *,
    path: OutputPath,
    field: str,
    hub: str | None = None,
    private: bool = True,
    ctx: Context,
) -> None:
    """Copy the Artifact of each row, a file or a folder, to a path; push it to the Hub as a model.

    Each appears when it is complete, and is left alone if it holds these bytes already. A folder
    that holds other files is never replaced.

    - `path`: where to; `{row_id}` or a field's name in braces stands for the row's id or value, so
      that several rows have paths of their own.
    - `field`: the field that holds the Artifact.
    - `hub`: push the folder as it stands, a model with its card (`README.md`), to `org/name` on the
      Hub, where braces stand for the same; the token is `$HF_TOKEN`.
    - `private`: whether the model on the Hub is private.
    """
    taken: dict[tuple[str, str], str] = {}
    async for row in rows:
        target = Path(_filled("path", str(path), row, taken))
        repo = None if hub is None else _filled("hub", hub, row, taken)
        artifact = row.fields.get(field)
        if not isinstance(artifact, Artifact):
            raise ValueError(f"row {row.row_id}: {field!r} is no artifact")
        if repo is not None and not artifact.folder:
            raise ValueError(f"row {row.row_id}: {field!r} is a file: `hub` pushes folders")
        await anyio.to_thread.run_sync(_copy, ctx.blobs.path(artifact), target, artifact.folder)
        if repo is not None:
            message = f"{ctx.pipeline}: {field} of row {row.row_id}"
            await anyio.to_thread.run_sync(_push, target, repo, private, message)


@fields_of(write)
def write_fields(
    upstream: Mapping[str, Any], *, path: Path, field: str, hub: str | None, private: bool
) -> Mapping[str, Any]:
    """Return nothing. Raises ValueError for a field that is no artifact, or none at all."""
    for name in (field, *_PLACE.findall(str(path)), *_PLACE.findall(hub or "")):
        if upstream and name not in upstream and (name != "row_id" or name == field):
            near = nearest(name, upstream, say="; did you mean {!r}?")
            raise ValueError(f"no row has {name!r}{near} (rows have: {', '.join(upstream)})")
    hint = strip_annotated(upstream.get(field, Artifact))
    if hint not in (Artifact, Any):
        raise ValueError(f"field: {field!r} is {shown(hint)}, not an Artifact")
    if hub is not None:
        the_hub.check_push(_PLACE.sub("x", hub), "model")
    elif not private:
        raise ValueError("`private` is for `hub`: leave it out")
    return {}


def _filled(parameter: str, pattern: str, row: Row, taken: dict[tuple[str, str], str]) -> str:
    """Return a row's own path or repository, and note it in `taken`.

    Raises ValueError for a value that is no part of a file's name, or for what is taken.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        found = row.row_id if name == "row_id" else row.fields.get(name)
        text = str(found)
        if isinstance(found, bool) or not isinstance(found, (str, int)) or len(text) > 100:
            text = ""
        if not _SAFE[parameter].fullmatch(text):
            spaces = "`.` and spaces" if parameter == "path" else "and `.`"
            raise ValueError(
                f"row {row.row_id}: {name!r} is {str(found)[:60]!r}, which cannot stand in a "
                f"{_WORDS[parameter]}: use letters, digits, `_`, `-`, {spaces}, at most 100, a "
                "letter or digit first"
            )
        return text

    filled = _PLACE.sub(value, pattern)
    if other := taken.get((parameter, filled)):
        word = filled.rpartition("/")[2] if parameter == "path" else filled
        raise ValueError(
            f"two rows, {other} and {row.row_id}, have one {_WORDS[parameter]}, {word!r}: "
            f"put `{{row_id}}` or a field that differs into `{parameter}:`"
        )
    taken[parameter, filled] = row.row_id
    return filled


def _push(folder: Path, repo: str, private: bool, message: str) -> None:
    the_hub.push(folder, repo, private=private, message=message, kind="model")


def _copy(source: Path, target: Path, folder: bool) -> None:
    if folder:
        with whole_folder(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
    else:
        with whole_file(target) as temporary:
            shutil.copyfile(source, temporary)
