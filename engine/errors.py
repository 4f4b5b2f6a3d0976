"""The exception tree: every error that the engine raises on purpose.

EngineError
├── InputError            bad input: nothing was written (exit 2)
│   ├── PipelineError     a pipeline file, with file, line and column
│   ├── DefinitionError   a stage, resource or row type, with function, file and line
│   └── PluginError       a plugin that is missing, broken or misdeclared
├── StageError            a stage failed while the pipeline runs (exit 1)
├── ResourceError         a resource could not be opened (exit 1)
├── ChatError             a model call failed
│   └── BadReply          a reply that a parser or gate refused
└── StoreError            the store or the disk under it (exit 4)
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.services import Usage

__all__ = [
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
    "first_error",
    "nearest",
]


class EngineError(Exception):
    """The root of all errors that the engine raises on purpose."""

    exit_code = 1


class InputError(EngineError):
    """What the user gave cannot be used; nothing has been written."""

    exit_code = 2


class PipelineError(InputError):
    """A pipeline file is wrong: `file:line:column: what was found, what to do`."""

    def __init__(self, message: str, *, file: str = "", line: int = 0, column: int = 0) -> None:
        place = f"{file}:{line}:{column}: " if line else f"{file}: " if file else ""
        super().__init__(place + message)
        self.message, self.file, self.line, self.column = message, file, line, column


class DefinitionError(InputError):
    """A stage, a resource or a row type is declared wrongly: names function, file and line."""

    def __init__(self, subject: object, message: str) -> None:
        super().__init__(f"{where(subject)}: {message}")


class PluginError(InputError):
    """A plugin is missing, cannot be imported, or declares something wrongly."""


class StageError(EngineError):
    """A stage failed on a row; the cause is `__cause__`.

    `stage` is the stage's key in the pipeline, `row` the row's id in hex ("" for a whole stream).
    """

    def __init__(self, stage: str, row: str, message: str) -> None:
        super().__init__(f"stage {stage}{f', row {row}' if row else ''}: {message}")
        self.stage, self.row = stage, row


class ResourceError(EngineError):
    """A resource could not be opened or lacks what a stage asks of it."""


class CostError(EngineError):
    """The calls of a run have cost as much as `max_cost` allows."""


class ChatError(EngineError):
    """A model call failed for good; `retryable` says whether trying again may help.

    `retry_after` is how many seconds the server asks to wait. `status` is its HTTP status, or 0
    where no reply came; the endpoint's limiter tells an overload by it. `usage` is what the call
    took all the same, as far as that is known.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        retry_after: float = 0.0,
        status: int | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable, self.retry_after = retryable, retry_after
        self.status, self.usage = status, usage


class BadReply(ChatError):
    """A reply that a parser or a gate refused: the next attempt draws the next sample."""

    def __init__(self, reason: str, span: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.span = reason, span


class StoreError(EngineError):
    """The store, or the disk under it, cannot be used."""

    exit_code = 4


def nearest(name: str, known: Iterable[str], *, say: str = "did you mean {}?") -> str:
    """Return `say` with the known name nearest to `name`, or "" if none is near."""
    matches = get_close_matches(name, list(known), n=1)
    return say.format(matches[0]) if matches else ""


def where(subject: object) -> str:
    """Return `name (file:line)` of a function or class, as errors print it."""
    import inspect  # 20 ms, for an error's sake only

    while isinstance(subject, functools.partial):
        subject = subject.func
    subject = getattr(subject, "__func__", subject)  # a method's function
    if not hasattr(subject, "__qualname__"):
        subject = type(subject)  # a callable object's class
    name = getattr(subject, "__qualname__", repr(subject))
    code = getattr(subject, "__code__", None)
    if code is not None:
        return f"{name} ({short_path(code.co_filename)}:{code.co_firstlineno})"
    try:
        file = inspect.getsourcefile(subject)  # type: ignore[arg-type]
        line = inspect.findsource(subject)[1] + 1  # type: ignore[arg-type]
    except (OSError, TypeError):
        return f"{name} ({getattr(subject, '__module__', 'unknown')})"
    return f"{name} ({short_path(file or '')}:{line})"


def short_path(path: str) -> str:
    """Return the path relative to the working directory where it lies below it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def raised_at(error: BaseException, package: str) -> str:
    """Return `file:line in function` where code of a package raised an error, or let it pass.

    It is the innermost such frame; "" where no frame is the package's.
    """
    found, step = "", error.__traceback__
    while step is not None:
        frame, code = step.tb_frame, step.tb_frame.f_code
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == package:
            found = f"{short_path(code.co_filename)}:{step.tb_lineno} in {code.co_name}"
        step = step.tb_next
    return found


def unwrap(error: BaseException, *telling: type[BaseException]) -> BaseException:
    """Take the one exception out of exception groups of one; real groups stay as they are.

    But of a group that holds errors of the kinds `telling`, return the first one of the first kind:
    how many of several child tasks came to raise theirs is a matter of timing.
    """
    for kind in telling:
        found = error.subgroup(kind) if isinstance(error, BaseExceptionGroup) else None
        if found is not None:
            error = found
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def first_error(error: BaseException) -> BaseException:
    """Return the first engine error of a group, with the others as notes; else the error itself."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves: list[BaseException] = []
    todo: list[BaseException] = [error]
    while todo:
        item = todo.pop(0)
        if isinstance(item, BaseExceptionGroup):
            todo[:0] = item.exceptions
        else:
            leaves.append(item)
    ours = [leaf for leaf in leaves if isinstance(leaf, EngineError)]
    if not ours and len(leaves) > 1:
        return error
    chosen = ours[0] if ours else leaves[0]
    for other in leaves:
        if other is not chosen:
            chosen.add_note(f"also: {type(other).__name__}: {other}")
    return chosen
