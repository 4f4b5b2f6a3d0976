"""What a stage's configuration may be marked as, and the paths in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel

__all__ = [
    "InputData",
    "InputFile",
    "InputPath",
    "NotResult",
    "OutputPath",
    "is_input",
    "is_marked",
    "is_output",
    "is_read",
    "map_paths",
    "may_be_folder",
]


class NotResult:
    """Marks configuration that cannot change a result: `Annotated[int, NotResult]`."""


class _Read:
    """Marks a path that is read: it counts by its content in the stage's fingerprint."""


class _Folder:
    """Marks a path that is read and may be a folder."""


class _Data:
    """Marks what a source reads: rows are known by their own content."""


class _Written:
    """Marks a path that is written: it does not count in the stage's fingerprint."""


InputFile = Annotated[Path, _Read]
"""A file that the stage reads; relative to the pipeline file; its content is in the fingerprint."""
InputPath = Annotated[Path, _Read, _Folder]
"""As InputFile, or a folder: all files in it count, but for those whose names begin with a dot."""
InputData = Annotated[Path, _Data, NotResult]
"""A file, folder or glob that a source reads; relative to the pipeline file, not fingerprinted.

Whether it is there the source says itself, by `fields_of`."""
OutputPath = Annotated[Path, _Written]
"""A path that the stage writes; relative to the pipeline file; not in the fingerprint."""


def is_marked(hint: Any, marker: type) -> bool:
    """Return whether a hint, or a part of it such as a list's item, bears a marker."""
    if marker in getattr(hint, "__metadata__", ()):
        return True
    return any(is_marked(part, marker) for part in get_args(hint))


def is_input(hint: Any) -> bool:
    """Return whether a hint is an InputFile, or holds some."""
    return is_marked(hint, _Read)


def may_be_folder(hint: Any) -> bool:
    """Return whether a hint is an InputPath, or holds some."""
    return is_marked(hint, _Folder)


def is_read(hint: Any) -> bool:
    """Return whether a hint is an InputFile or InputData, or holds some."""
    return is_input(hint) or is_marked(hint, _Data)


def is_output(hint: Any) -> bool:
    """Return whether a hint is an OutputPath, or holds some."""
    return is_marked(hint, _Written)


def map_paths(hint: Any, value: Any, change: Callable[[Any, Path], Any]) -> Any:
    """Return a value with each path in it replaced by `change(hint, path)`.

    Lists, tuples, sets, mappings and pydantic models are entered; the hint tells what is marked.
    """

    def inside(item: Any) -> Any:
        return map_paths(hint, item, change)

    if isinstance(value, Path):
        return change(hint, value)
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        changed = {
            name: map_paths(info.rebuild_annotation(), getattr(value, name), change)
            for name, info in fields
        }
        return value.model_copy(update=changed)
    if isinstance(value, dict):
        return {key: inside(item) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(inside(item) for item in value)
    return value
