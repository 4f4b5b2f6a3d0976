"""Stages: one async function each, whose signature is the contract.

`stage` reads the signature once (see `engine.signature`), says what is wrong with it by function,
file and line, and returns the function unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from engine.context import Context
from engine.errors import DefinitionError
from engine.rows import Read, row_fields, strip_annotated
from engine.settings import InputFile, InputPath, NotResult, OutputPath
from engine.signature import Kind, StageSpec, read_signature

__all__ = [
    "Context",
    "InputFile",
    "InputPath",
    "Kind",
    "NotResult",
    "OutputPath",
    "Read",
    "StageSpec",
    "declared_fields",
    "fields_of",
    "row_fields",
    "stage",
    "stage_spec",
    "strip_annotated",
]

F = TypeVar("F", bound=Callable[..., Any])


def stage(name: str, *, version: str | None = None) -> Callable[[F], F]:
    """Register an async function as the stage `namespace.name`; returns the function unchanged.

    `version` stands in the fingerprint instead of the digest of the package's sources: raise it
    when the code's results change. Raises DefinitionError, naming function, file and line, for
    any signature that is none of the five kinds.
    """

    def tag(func: F) -> F:
        local = sys._getframe(1).f_locals  # for hints that name classes of an enclosing function
        func.__engine_stage__ = read_signature(name, func, version, local)  # type: ignore[attr-defined]
        return func

    return tag


def stage_spec(func: object) -> StageSpec:
    """Return the spec that `@stage` left on a function; raises DefinitionError without one."""
    spec = getattr(func, "__engine_stage__", None)
    if not isinstance(spec, StageSpec):
        raise DefinitionError(
            func, "not a stage: decorate the function with @stage('namespace.name')"
        )
    return spec


def fields_of(stage_func: Callable[..., Any]) -> Callable[[F], F]:
    """Say which fields a source or stream makes when they depend on data or configuration.

    The decorated function takes the input's fields (name -> type; under the stage's own names, too,
    where `take:` renames them) and the stage's configuration as keywords, and returns name -> type.
    It raises ValueError with a sentence for the user: so a stage of any kind may look at its input
    before a run, and return {}.
    """

    def tag(func: F) -> F:
        stage_func.__engine_fields_of__ = func  # type: ignore[attr-defined]
        return func

    return tag


def declared_fields(func: Callable[..., Any]) -> Callable[..., Mapping[str, Any]] | None:
    """Return the function that `fields_of` registered for a stage, if any."""
    return getattr(func, "__engine_fields_of__", None)
