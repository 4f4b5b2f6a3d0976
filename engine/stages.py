"""Stages: one async function each, whose signature is the contract.

`stage` reads the signature once, says what is wrong with it by function, file and line, and
returns the function unchanged. The kind is decided in this order: stream, batch, source, expand,
map. See `docs/design.md` for the table.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import math
import random
import sys
import types
import typing
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import anyio

from engine.errors import DefinitionError
from engine.resources import Resource
from engine.rows import Added, Reject, Row
from engine.services import Blobs, CallRecords, Counters, MemoryCalls

__all__ = [
    "Context",
    "InputFile",
    "Kind",
    "NotResult",
    "OutputPath",
    "Read",
    "StageSpec",
    "fields_of",
    "row_fields",
    "stage",
    "stage_spec",
]

Kind = Literal["source", "map", "batch", "expand", "stream"]
Yields = Literal["rows", "added", "fresh", "nothing"]


class NotResult:
    """Marks configuration that cannot change a result: `Annotated[int, NotResult]`."""


class _File:
    """Marks a path that is read: it counts by its content in the stage's fingerprint."""


class _Output:
    """Marks a path that is written: it does not count in the stage's fingerprint."""


InputFile = Annotated[Path, _File]
"""A file that the stage reads; relative to the pipeline file; its content is in the fingerprint."""
OutputPath = Annotated[Path, _Output]
"""A path that the stage writes; relative to the pipeline file; not in the fingerprint."""


@dataclass(slots=True)
class Context:
    """What an execution knows of itself; a stage takes it as `*, ctx: Context`."""

    stage_key: str
    """The stage's key in the pipeline."""
    row_id: str = ""
    """The row's id in hex; "" in a source or stream."""
    attempt: int = 1
    """This attempt's number, from 1."""
    attempts: int = 1
    """How many attempts the stage has (`retry`): on the last one a fallback may be used."""
    seed: int = 0
    """The pipeline's seed."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Named `anyio.CapacityLimiter`s of the run, from the pipeline's `limits:`."""
    fingerprint: bytes = b""
    """The stage's fingerprint: refusals of replies are recorded under it."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The fields of the rows read, with their types: a sink makes its schema from them."""
    calls: CallRecords = field(default_factory=MemoryCalls)
    """The run's call records: for resources that pay per call, see `engine.chat`."""
    counters: Counters = field(default_factory=Counters)
    """The stage's counters."""
    scope: Any = None
    """The `anyio.CancelScope` that holds the stage's `timeout`, if it has one."""
    make_workdir: Callable[[], Path] | None = None
    open_blobs: Blobs | None = None
    _rng: random.Random | None = None
    _waiting: int = 0

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Hold the stage's deadline still: waiting for a rate limit is not the stage's time."""
        if self.scope is None:
            yield
            return
        started = anyio.current_time()
        self._waiting += 1
        if self._waiting == 1:
            self._deadline, self.scope.deadline = self.scope.deadline - started, math.inf
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.scope.deadline = anyio.current_time() + self._deadline

    _deadline: float = math.inf

    @property
    def rng(self) -> random.Random:
        """A generator seeded from (pipeline seed, stage key, row id): the same on every attempt."""
        if self._rng is None:
            from engine.keys import seeded

            self._rng = seeded(self.seed, self.stage_key, self.row_id)
        return self._rng

    @property
    def blobs(self) -> Blobs:
        """The store's blob folder: `with ctx.blobs.new("application/x") as file` gives an Artifact."""
        if self.open_blobs is None:
            raise RuntimeError(f"stage {self.stage_key}: this run has no store, so it has no blobs")
        return self.open_blobs

    @property
    def workdir(self) -> Path:
        """A folder for checkpoints, kept over a kill and removed once the output is committed."""
        if self.make_workdir is None:
            raise RuntimeError(
                f"stage {self.stage_key}: this run has no store, so it has no workdir"
            )
        return self.make_workdir()

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that carries the stage key and row id."""
        return logging.LoggerAdapter(
            logging.getLogger("engine.stage"), {"stage": self.stage_key, "row": self.row_id}
        )


@dataclass(frozen=True, slots=True)
class Read:
    """One field that a stage reads."""

    name: str
    type: Any
    required: bool = True
    default: Any = None


@dataclass(frozen=True, slots=True)
class StageSpec:
    """What `@stage` read from a signature."""

    name: str
    func: Callable[..., Any]
    kind: Kind
    version: str | None
    reads: tuple[Read, ...]
    """Fields read, in order; for a stream or batch those of its row type(s)."""
    row_parameters: Mapping[str, type[Row]]
    """Positional parameters that are rows (map, expand) or rows' iterables (stream, batch)."""
    positionals: tuple[str, ...]
    reads_all: bool
    """Whether it takes a whole `Row`, with every field."""
    adds: type[Row] | None
    """The row type that it adds (or makes afresh); None for gates and sinks."""
    yields: Yields
    """What a stream yields; "added" for maps and batches, "fresh" for sources and expands' children."""
    resources: Mapping[str, tuple[type[Resource], bool]]
    """Parameter name -> (resource class, whether it may be left out)."""
    config: Mapping[str, tuple[Any, Any]]
    """Parameter name -> (annotation, default or inspect.Parameter.empty)."""
    context: str | None
    """The name of the parameter that takes the Context."""
    doc: str
    file: str
    line: int

    @property
    def is_sink(self) -> bool:
        """Whether it is a stream coroutine that passes nothing on."""
        return self.kind == "stream" and self.yields == "nothing"


F = TypeVar("F", bound=Callable[..., Any])
_FIELDS_OF: dict[Callable[..., Any], Callable[..., Mapping[str, Any]]] = {}


def stage(name: str, *, version: str | None = None) -> Callable[[F], F]:
    """Register an async function as the stage `namespace.name`; returns the function unchanged.

    `version` stands in the fingerprint instead of the digest of the package's sources: raise it
    when the code's results change. Raises DefinitionError, naming function, file and line, for
    any signature that is none of the five kinds.
    """

    def tag(func: F) -> F:
        namespace = {} if not hasattr(sys, "_getframe") else sys._getframe(1).f_locals
        func.__engine_stage__ = _read(name, func, version, namespace)  # type: ignore[attr-defined]
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

    The decorated function takes the input's fields (name -> type) and the stage's configuration
    as keywords, and returns name -> type. It raises ValueError with a sentence for the user.
    """

    def tag(func: F) -> F:
        _FIELDS_OF[stage_func] = func
        return func

    return tag


def declared_fields(func: Callable[..., Any]) -> Callable[..., Mapping[str, Any]] | None:
    """Return the function that `fields_of` registered for a stage, if any."""
    return _FIELDS_OF.get(func)


@functools.lru_cache(maxsize=None)
def row_fields(cls: type[Row]) -> tuple[Read, ...]:
    """Return the fields that a row type declares, with resolved types; () for `Row` itself."""
    import dataclasses

    if cls is Row:
        return ()
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise DefinitionError(cls, f"a field's type cannot be resolved: {error}") from error
    found = []
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        has_default = item.default is not dataclasses.MISSING
        has_factory = item.default_factory is not dataclasses.MISSING
        default = item.default if has_default else item.default_factory() if has_factory else None  # type: ignore[misc]
        found.append(Read(item.name, hints[item.name], not (has_default or has_factory), default))
    return tuple(found)


def strip_annotated(hint: Any) -> Any:
    """Return a hint without its `Annotated` wrappers and named aliases."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


def _read(
    name: str, func: Callable[..., Any], version: str | None, local: Mapping[str, Any]
) -> StageSpec:
    """Read a signature into a spec, or say what is wrong with it."""

    def wrong(message: str) -> DefinitionError:
        return DefinitionError(func, message)

    if not isinstance(func, types.FunctionType):
        raise wrong("a stage is a plain async function: no method, partial or callable object")
    if name.count(".") != 1 or not all(part.isidentifier() for part in name.split(".")):
        raise wrong(f"a stage is named `namespace.name`, not {name!r}")
    if "." in func.__qualname__.split("<locals>.")[-1]:
        raise wrong("a stage is a plain function: move it out of the class")
    is_generator, is_coroutine = inspect.isasyncgenfunction(func), inspect.iscoroutinefunction(func)
    if not (is_generator or is_coroutine):
        raise wrong("a stage is an `async def`")
    try:
        hints = get_type_hints(func, localns=dict(local), include_extras=True)
    except (NameError, TypeError) as error:
        raise wrong(f"a type hint cannot be resolved: {error}") from error

    positionals: dict[str, tuple[Any, Any]] = {}
    resources: dict[str, tuple[type[Resource], bool]] = {}
    config: dict[str, tuple[Any, Any]] = {}
    context = None
    for p in inspect.signature(func).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise wrong(
                f"parameter {p}: `*args` and `**kwargs` hide what the stage reads: name each field"
            )
        if p.name not in hints:
            raise wrong(f"parameter {p.name!r} has no type hint")
        hint = hints[p.name]
        if p.kind is not p.KEYWORD_ONLY:
            positionals[p.name] = (hint, p.default)
            continue
        plain, optional = _optional(hint)
        if plain is Context:
            context = p.name
        elif isinstance(plain, type) and Resource in plain.__mro__:
            if p.default is not p.empty and not (optional and p.default is None):
                raise wrong(
                    f"resource {p.name!r}: its only default is None, as `{p.name}: X | None = None`"
                )
            resources[p.name] = (plain, optional and p.default is None)
        else:
            config[p.name] = (hint, p.default)
    if "return" not in hints:
        raise wrong("it has no return annotation: name the Row type that it adds, or None")

    for parameter, (hint, _) in positionals.items():
        plain, _optional_ = _optional(hint)
        if plain is Context or (isinstance(plain, type) and Resource in plain.__mro__):
            raise wrong(
                f"parameter {parameter!r} is a {plain.__name__}: make it keyword-only, after `*`"
            )

    kind, row_parameters, adds, yields = _shape(positionals, hints["return"], is_generator, wrong)
    reads, reads_all = _reads(positionals, row_parameters, kind, wrong)
    return StageSpec(
        name=name,
        func=func,
        kind=kind,
        version=version,
        reads=reads,
        row_parameters=row_parameters,
        positionals=tuple(positionals),
        reads_all=reads_all,
        adds=adds,
        yields=yields,
        resources=resources,
        config=config,
        context=context,
        doc=inspect.getdoc(func) or "",
        file=func.__code__.co_filename,
        line=func.__code__.co_firstlineno,
    )


_Wrong = Callable[[str], DefinitionError]


def _shape(
    positionals: Mapping[str, tuple[Any, Any]], returns: Any, is_generator: bool, wrong: _Wrong
) -> tuple[Kind, dict[str, type[Row]], type[Row] | None, Yields]:
    """Decide the kind, in the order of the table; return it with row parameters and result."""
    streams = {n: _item(h, AsyncIterable) for n, (h, _) in positionals.items()}
    if any(item is not None for item in streams.values()):
        if not all(_is_row(item) for item in streams.values()):
            raise wrong(
                "one positional is an AsyncIterable of rows: then all must be (two are a join)"
            )
        if len(streams) > 2:
            raise wrong("a stream takes one AsyncIterable, or two as a join")
        adds, yields = _stream_result(list(streams.values()), returns, is_generator, wrong)
        return "stream", streams, adds, yields

    batches = {n: _item(h, Sequence) for n, (h, _) in positionals.items()}
    if len(batches) == 1 and _is_row(next(iter(batches.values()))):
        item = _without(Reject, _item(returns, list))
        if is_generator or not _is_row(item):
            raise wrong(
                "a batch is a coroutine that returns `list[S]` or `list[S | Reject]`, S a Row type"
            )
        return "batch", batches, item, "added"
    if any(_is_row(item) for item in batches.values()):
        raise wrong("a batch takes exactly one positional, `Sequence[R]`")

    if is_generator:
        item = _without(Reject, _item(returns, AsyncIterator))
        if not _is_row(item):
            raise wrong("an async generator returns `AsyncIterator[R]`, R a Row type")
        rows = {n: _optional(h)[0] for n, (h, _) in positionals.items() if _is_row(_optional(h)[0])}
        return ("expand" if positionals else "source"), rows, item, "fresh"
    if not positionals:
        raise wrong(
            "a coroutine with no positional parameter reads nothing: a source is an async generator"
        )
    plain = strip_annotated(returns)
    if _item(plain, AsyncIterator) is not None or _item(plain, AsyncIterable) is not None:
        raise wrong("a coroutine annotated as an iterator: did you forget to `yield`?")
    if plain is not type(None) and plain is not None and not _is_row(plain):
        raise wrong(f"a map returns a Row type or None, not {_show(plain)}")
    rows = {
        n: strip_annotated(h) for n, (h, _) in positionals.items() if _is_row(strip_annotated(h))
    }
    return "map", rows, plain if _is_row(plain) else None, "added"


def _stream_result(
    inputs: list[type[Row]], returns: Any, is_generator: bool, wrong: _Wrong
) -> tuple[type[Row] | None, Yields]:
    if not is_generator:
        if strip_annotated(returns) not in (None, type(None)):
            raise wrong("a stream that passes rows on is an async generator; a sink returns None")
        return None, "nothing"
    item = _without(Reject, _item(returns, AsyncIterator))
    if get_origin(item) is Added and _is_row(get_args(item)[0]):
        return get_args(item)[0], "added"
    if not _is_row(item):
        raise wrong(
            "a stream returns `AsyncIterator[R]`, `AsyncIterator[Added[S]]` or, as a sink, None"
        )
    # A join makes fresh rows; so does a stream whose result is not its own input type.
    return (None, "rows") if len(inputs) == 1 and item is inputs[0] else (item, "fresh")


def _reads(
    positionals: Mapping[str, tuple[Any, Any]],
    row_parameters: Mapping[str, type[Row]],
    kind: Kind,
    wrong: _Wrong,
) -> tuple[tuple[Read, ...], bool]:
    reads: dict[str, Read] = {}
    for name, (hint, default) in positionals.items():
        if name in row_parameters:
            if default is not inspect.Parameter.empty:
                raise wrong(
                    f"parameter {name!r}: a row has no default; give its fields defaults instead"
                )
            new = row_fields(row_parameters[name])
        else:
            required = default is inspect.Parameter.empty
            new = (Read(name, hint, required, None if required else default),)
        for read in new:
            if kind != "stream" and read.name in reads:
                raise wrong(f"it reads the field {read.name!r} twice")
            reads[read.name] = read
    return tuple(reads.values()), Row in row_parameters.values()


def _is_row(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Row)


def _item(hint: Any, container: type) -> Any:
    """Return X of `container[X]`, else None."""
    hint = strip_annotated(hint)
    origin = get_origin(hint)
    if isinstance(origin, type) and origin is not tuple and issubclass(origin, container):
        arguments = get_args(hint)
        return strip_annotated(arguments[0]) if arguments else None
    return None


def _without(cls: type, hint: Any) -> Any:
    """Return the union without one member."""
    if get_origin(hint) in (Union, types.UnionType):
        rest = [strip_annotated(a) for a in get_args(hint) if a is not cls]
        return rest[0] if len(rest) == 1 else hint
    return hint


def _optional(hint: Any) -> tuple[Any, bool]:
    """Return (X, True) for `X | None`, else (hint, False)."""
    hint = strip_annotated(hint)
    if get_origin(hint) in (Union, types.UnionType):
        rest = [strip_annotated(a) for a in get_args(hint) if a is not type(None)]
        if len(rest) == 1 and len(get_args(hint)) == 2:
            return rest[0], True
    return hint, False


def _show(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
