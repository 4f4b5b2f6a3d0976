"""Stages: one async function each, whose signature is the contract.

`stage` reads the signature once (see `engine.signature`), says what is wrong with it by function,
file and line, and returns the function unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from engine.context import Context
from engine.errors import DefinitionError
from engine.rows import Read, row_fields, strip_annotated
from engine.signature import Kind, StageSpec, read_signature

__all__ = [
    "Context",
    "InputFile",
    "Kind",
    "NotResult",
    "OutputPath",
    "Read",
    "StageSpec",
    "declared_fields",
    "fields_of",
    "is_marked",
    "row_fields",
    "stage",
    "stage_spec",
    "strip_annotated",
]


class NotResult:
    """Marks configuration that cannot change a result: `Annotated[int, NotResult]`."""


class Read_:  # noqa: N801
    """Marks a path that is read: it counts by its content in the stage's fingerprint."""
