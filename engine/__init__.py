"""A small plugin-based async pipeline engine for people who do alignment research.

Names are loaded when they are first used, so that `import engine` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.accounting import Summary
    from engine.errors import (
        BadReply,
        ChatError,
        CostError,
        DefinitionError,
        EngineError,
        InputError,
        PipelineError,
        PluginError,
        ResourceError,
        StageError,
        StoreError,
    )
    from engine.estimates import Estimate, plan_of
    from engine.events import DeadLetter, Event, RunEnded, RunStarted, StageEnded
    from engine.hookspecs import hookimpl
    from engine.resources import Needs, Resource, resource
    from engine.rows import Added, Artifact, Dialogue, Message, Reject, Row
    from engine.runs import Run, run
    from engine.runs import open_run as open
    from engine.stages import (
        Context,
        InputFile,
        InputPath,
        NotResult,
        OutputPath,
        fields_of,
        stage,
    )
    from engine.text import ST, Template, Text

_HOMES = {
    "engine.accounting": ("Summary",),
    "engine.errors": (
        "BadReply",
        "ChatError",
        "CostError",
        "DefinitionError",
        "EngineError",
        "InputError",
        "PipelineError",
        "PluginError",
        "ResourceError",
        "StageError",
        "StoreError",
    ),
    "engine.estimates": ("Estimate", "plan_of"),
    "engine.events": ("DeadLetter", "Event", "RunEnded", "RunStarted", "StageEnded"),
    "engine.hookspecs": ("hookimpl",),
    "engine.resources": ("Needs", "Resource", "resource"),
    "engine.rows": ("Added", "Artifact", "Dialogue", "Message", "Reject", "Row"),
    "engine.runs": ("Run", "run"),
    "engine.stages": (
        "Context",
        "InputFile",
        "InputPath",
        "NotResult",
        "OutputPath",
        "fields_of",
        "stage",
    ),
    "engine.text": ("ST", "Template", "Text"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ST",
    "Added",
    "Artifact",
    "BadReply",
    "ChatError",
    "Context",
    "CostError",
    "DeadLetter",
    "DefinitionError",
    "Dialogue",
    "EngineError",
    "Estimate",
    "Event",
    "InputError",
    "InputFile",
    "InputPath",
    "Message",
    "Needs",
    "NotResult",
    "OutputPath",
    "PipelineError",
    "PluginError",
    "Reject",
    "Resource",
    "ResourceError",
    "Row",
    "Run",
    "RunEnded",
    "RunStarted",
    "StageEnded",
    "StageError",
    "StoreError",
    "Summary",
    "Template",
    "Text",
    "fields_of",
    "hookimpl",
    "open",
    "plan_of",
    "resource",
    "run",
    "stage",
]


def __getattr__(name: str) -> object:
    if name == "open":
        return import_module("engine.runs").open_run
    if name == "__version__":
        return import_module("importlib.metadata").version("st-engine")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
