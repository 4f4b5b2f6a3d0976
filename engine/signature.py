"""A stage's signature, read into a spec: which fields, rows, resources and configuration it takes.

The kind is decided in this order: stream, batch, source, expand, map. See `docs/design.md` for
the table.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from engine.context import Context
from engine.errors import DefinitionError
from engine.resources import Needs, Resource
from engine.rows import Added, Read, Reject, Row, row_fields, strip_annotated

__all__ = ["Kind", "ResourceNeed", "StageSpec", "read_signature"]

Kind = Literal["source", "map", "batch", "expand", "stream"]
Yields = Literal["rows", "added", "fresh", "nothing"]
_EMPTY = inspect.Parameter.empty


class ResourceNeed(NamedTuple):
    """What a keyword-only parameter asks of a resource."""

    cls: type[Resource]
    optional: bool
    features: tuple[str, ...] = ()


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
    """What a stream yields; "added" for maps and batches, "fresh" for sources and expands."""
    resources: Mapping[str, ResourceNeed]
    """Parameter name -> what it asks for."""
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

    @property
    def is_join(self) -> bool:
        """Whether it is a stream of two inputs."""
        return self.kind == "stream" and len(self.row_parameters) == 2


Positionals = Mapping[str, tuple[Any, Any]]
"""Positional parameter -> (hint, default)."""
Wrong = Callable[[str], DefinitionError]


def read_signature(
    name: str, func: Callable[..., Any], version: str | None, local: Mapping[str, Any]
) -> StageSpec:
    """Read a function's signature; `local` resolves names of the function it is defined in.

    Raises DefinitionError, with function, file and line, for what is no stage.
    """

    def wrong(message: str) -> DefinitionError:
        return DefinitionError(func, message)

    hints = _hints(name, func, local, wrong)
    positionals: dict[str, tuple[Any, Any]] = {}
    resources: dict[str, ResourceNeed] = {}
    config: dict[str, tuple[Any, Any]] = {}
    contexts: list[str] = []
    for p in inspect.signature(func).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            stars = "*" if p.kind is p.VAR_POSITIONAL else "**"
            raise wrong(f"`{stars}{p.name}` hides what the stage reads: name each field")
        if p.name not in hints:
            raise wrong(f"parameter {p.name!r} has no type hint")
        hint = hints[p.name]
        plain, optional = _optional(hint)
        keyword = p.kind is p.KEYWORD_ONLY
        if not keyword and (plain is Context or _is_resource(plain)):
            raise wrong(
                f"parameter {p.name!r} is a {plain.__name__}: make it keyword-only, after `*`"
            )
        if not keyword:
            positionals[p.name] = (hint, p.default)
        elif plain is Context:
            contexts.append(p.name)
        elif _is_resource(plain):
            if optional != (p.default is None) or p.default not in (None, _EMPTY):
                raise wrong(
                    f"resource {p.name!r}: write `{p.name}: {plain.__name__}`, or "
                    f"`{p.name}: {plain.__name__} | None = None` if it may be left out"
                )
            resources[p.name] = ResourceNeed(plain, optional, tuple(_features(hint)))
        else:
            config[p.name] = (hint, p.default)
    if len(contexts) > 1:
        raise wrong(f"it takes the context twice: {' and '.join(contexts)}")
    if "return" not in hints:
        raise wrong("it has no return annotation: name the Row type that it adds, or None")

    shape = _shape(positionals, hints["return"], inspect.isasyncgenfunction(func), wrong)
    if shape.adds is not None:
        row_fields(shape.adds)  # its hints must resolve
    return StageSpec(
        name=name,
        func=func,
        kind=shape.kind,
        version=version,
        reads=_reads(positionals, shape, wrong),
        row_parameters=shape.rows,
        positionals=tuple(positionals),
        reads_all=Row in shape.rows.values(),
        adds=shape.adds,
        yields=shape.yields,
        resources=resources,
        config=config,
        context=contexts[0] if contexts else None,
        doc=inspect.getdoc(func) or "",
        file=func.__code__.co_filename,
        line=func.__code__.co_firstlineno,
    )


def _hints(
    name: str, func: Callable[..., Any], local: Mapping[str, Any], wrong: Wrong
) -> dict[str, Any]:
    """Return the resolved hints of what is a plain async function with a stage's name."""
    if not isinstance(func, types.FunctionType):
        raise wrong(
            "a stage is a plain `async def`, not a class, method, partial or callable object"
        )
    if func.__name__ == "<lambda>" or not (
        inspect.isasyncgenfunction(func) or inspect.iscoroutinefunction(func)
    ):
        raise wrong("a stage is an `async def`")
    if "." in func.__qualname__.split("<locals>.")[-1]:
        raise wrong("a stage is a plain function, not a method: move it out of the class")
    if name.count(".") != 1 or not all(part.isidentifier() for part in name.split(".")):
        raise wrong(f"a stage is named `namespace.name`, not {name!r}")
    try:
        return get_type_hints(func, localns=dict(local), include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise wrong(
            f"a type hint cannot be resolved: {error} "
            "(a name imported under TYPE_CHECKING does not exist when the stage is read)"
        ) from error


class _Shape(NamedTuple):
    """What the positionals and the return annotation say together."""

    kind: Kind
    rows: Mapping[str, type[Row]]
    adds: type[Row] | None
    yields: Yields


def _shape(positionals: Positionals, returns: Any, is_generator: bool, wrong: Wrong) -> _Shape:
    """Decide the kind, in the order of the table."""
    for name, (hint, _) in positionals.items():
        bare = strip_annotated(hint)
        if bare in (AsyncIterable, AsyncIterator, Sequence):
            raise wrong(f"parameter {name!r}: say what is in it: `{bare.__name__}[R]`")

    streams = {n: _item(h, AsyncIterable) for n, (h, _) in positionals.items()}
    if any(item is not None for item in streams.values()):
        if not all(_is_row(item) for item in streams.values()):
            raise wrong(
                "one positional is an AsyncIterable: then each must be an AsyncIterable of rows "
                "(two are a join)"
            )
        if len(streams) > 2:
            raise wrong("a stream takes one AsyncIterable, or two as a join")
        return _stream(streams, returns, is_generator, wrong)

    batches = {n: _item(h, Sequence) for n, (h, _) in positionals.items()}
    if any(_is_row(item) for item in batches.values()):
        if len(batches) > 1:
            raise wrong("a batch takes exactly one positional, `Sequence[R]`")
        item = _without_reject(_item(returns, list))
        if is_generator or not _is_row(item):
            raise wrong(
                "a batch is a coroutine that returns `list[S]` or `list[S | Reject]`, S a Row type"
            )
        return _Shape("batch", batches, item, "added")

    rows: dict[str, type[Row]] = {}
    for name, (hint, _) in positionals.items():
        plain, optional = _optional(hint)
        if not _is_row(plain):
            continue
        if optional:
            raise wrong(
                f"parameter {name!r}: a row is never None; give fields of {plain.__name__} "
                "defaults instead"
            )
        rows[name] = plain

    if is_generator:
        item = _without_reject(_item(returns, AsyncIterator))
        if not _is_row(item):
            raise wrong("an async generator returns `AsyncIterator[R]`, R a Row type")
        return _Shape("expand" if positionals else "source", rows, item, "fresh")
    if not positionals:
        raise wrong(
            "a coroutine with no positional parameter reads nothing: a source is an async generator"
        )
    if _item(returns, AsyncIterable) is not None:
        raise wrong("a coroutine annotated as an iterator: did you forget to `yield`?")
    plain = strip_annotated(returns)
    if plain is type(None):
        return _Shape("map", rows, None, "added")
    if not _is_row(plain):
        raise wrong(
            f"a map returns a Row type or None, not {_show(plain)}; to drop a row, raise Reject"
        )
    return _Shape("map", rows, plain, "added")


def _stream(
    inputs: Mapping[str, type[Row]], returns: Any, is_generator: bool, wrong: Wrong
) -> _Shape:
    if not is_generator:
        if strip_annotated(returns) is not type(None):
            raise wrong("a stream that passes rows on is an async generator; a sink returns None")
        return _Shape("stream", inputs, None, "nothing")
    item = _without_reject(_item(returns, AsyncIterator))
    if get_origin(item) is Added and _is_row(get_args(item)[0]):
        if len(inputs) == 2:
            raise wrong("a join makes fresh rows, `AsyncIterator[S]`: it has no one row to add to")
        return _Shape("stream", inputs, get_args(item)[0], "added")
    if not _is_row(item):
        raise wrong(
            "a stream returns `AsyncIterator[R]`, `AsyncIterator[Added[S]]` or, as a sink, None"
        )
    if len(inputs) == 1 and item in inputs.values():
        return _Shape("stream", inputs, None, "rows")
    return _Shape("stream", inputs, item, "fresh")


def _reads(positionals: Positionals, shape: _Shape, wrong: Wrong) -> tuple[Read, ...]:
    reads: dict[str, Read] = {}
    for name, (hint, default) in positionals.items():
        required = default is _EMPTY
        new: tuple[Read, ...]
        if name in shape.rows:
            if not required:
                raise wrong(
                    f"parameter {name!r}: a row has no default; give its fields defaults instead"
                )
            new = row_fields(shape.rows[name])
        else:
            new = (Read(name, hint, required, None if required else default),)
        for read in new:
            if shape.kind != "stream" and read.name in reads:
                raise wrong(f"it reads the field {read.name!r} twice")
            reads[read.name] = read
    return tuple(reads.values())


def _is_row(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Row)


def _is_resource(hint: Any) -> bool:
    return isinstance(hint, type) and Resource in hint.__mro__


def _features(hint: Any) -> Iterator[str]:
    """Yield the features that `Needs` names, inside or outside of `| None`."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, Needs):
            yield from mark.features
    if hasattr(hint, "__metadata__") or _is_union(hint):
        for inner in get_args(hint):
            yield from _features(inner)


def _item(hint: Any, container: type) -> Any:
    """Return X of `container[X]`, else None."""
    hint = strip_annotated(hint)
    origin = get_origin(hint)
    if isinstance(origin, type) and origin is not tuple and issubclass(origin, container):
        arguments = get_args(hint)
        return strip_annotated(arguments[0]) if arguments else None
    return None


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _without_reject(hint: Any) -> Any:
    """Return the union without Reject."""
    if not _is_union(hint):
        return hint
    rest = [strip_annotated(a) for a in get_args(hint) if a is not Reject]
    return rest[0] if len(rest) == 1 else hint


def _optional(hint: Any) -> tuple[Any, bool]:
    """Return (X, True) for `X | None`, else (hint, False)."""
    hint = strip_annotated(hint)
    if _is_union(hint):
        rest = [strip_annotated(a) for a in get_args(hint) if a is not type(None)]
        if len(rest) == 1 and len(get_args(hint)) == 2:
            return rest[0], True
    return hint, False


def _show(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
