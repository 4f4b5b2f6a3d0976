"""Rows that an embedder gives in place of a stage's output: checked, and made the engine's own."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Mapping,
)
from typing import Any

import orjson
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from engine.errors import EngineError, InputError, StageError
from engine.pipeline import WiredStage
from engine.rows import RESERVED, Row, row_fields, strip_annotated
from engine.text import Text
from engine.typecheck import show

__all__ = ["Given", "check_inputs"]


def check_inputs(inputs: object) -> None:
    """Raise InputError for what can hold no rows, before anything is opened."""
    one = isinstance(inputs, (Mapping, Row))
    rows = isinstance(inputs, (AsyncIterable, Iterable))
    if rows and not one and not isinstance(inputs, (str, bytes, bytearray)):
        return
    hint = ": put it into a list" if one else ""
    if callable(inputs) or inspect.isawaitable(inputs):
        hint = ": give what a generator function returns, `inputs=rows()`, written with `yield`"
    raise InputError(
        "inputs= are rows: a list, generator or async iterable of mappings or Rows, "
        f"not {type(inputs).__name__}{hint}"
    )


class Given:
    """The rows of `inputs=`. Each has the fields and types that the replaced stage's rows have.

    A row may leave out a field that has a default. Types are taken at their word (`"5"` is no
    integer), and JSON's lists and objects become the tuples and models that they stand for. Other
    fields ride along, unless a later stage writes them.
    """

    def __init__(self, inputs: Any, wired: WiredStage, stages: Mapping[str, WiredStage]) -> None:
        self._inputs, self._key = inputs, wired.key
        self._checks = {name: _Check(hint) for name, hint in wired.fields.items()}
        give, adds = wired.model.give, row_fields(wired.spec.adds or Row)
        self._defaults = {give.get(r.name, r.name): r.default for r in adds if not r.required}
        self._written = _written(wired, stages)
        self._error: EngineError | None = None

    async def rows(self) -> AsyncIterator[Row]:
        """Yield them. Raises StageError for one that does not fit, and where `inputs=` fails."""
        position, inputs = 0, self._inputs
        try:
            if isinstance(inputs, AsyncIterable):
                async for row in inputs:
                    yield self._row(row, position)
                    position += 1
            else:
                for row in inputs:
                    yield self._row(row, position)
                    position += 1
        except EngineError as error:
            self._error = error
            raise
        except Exception as error:
            self._error = self._failed(f"failed after {position} rows", error)
            raise self._error from error

    async def close(self) -> None:
        """Close `inputs=` if it is a generator: what it holds must not outlive the run."""
        try:
            if isinstance(self._inputs, AsyncGenerator):
                await self._inputs.aclose()
            elif isinstance(self._inputs, Generator):
                self._inputs.close()
        except Exception as error:
            failed = self._failed("failed when it was closed", error)
            if self._error is None:
                raise failed from error
            self._error.add_note(f"also: {failed}")

    def _failed(self, what: str, error: Exception) -> StageError:
        return StageError(self._key, "", f"inputs= {what}: {type(error).__name__}: {error}")

    def _row(self, given: Any, position: int) -> Row:
        if isinstance(given, Row):
            fields = given.__dict__
        elif isinstance(given, Mapping):
            fields = dict(given)
        else:
            raise self._wrong(
                position, f"a row is a mapping of fields or a Row, not {_found(given)}"
            )
        changed = {}
        for name, check in self._checks.items():
            if name not in fields:
                if name in self._defaults:
                    changed[name] = self._defaults[name]
                    continue
                has = ", ".join(map(str, fields)) or "none"
                raise self._wrong(position, f"it lacks the field {name!r} (it has: {has})")
            value = fields[name]
            if type(value) is not check.cls:
                if check.text and type(value) is str:
                    changed[name] = Text.leaf(
                        value, "source:inputs", params={"row": position, "field": name}
                    )
                else:
                    try:
                        fitting = check.value(value)
                    except ValueError as error:
                        raise self._wrong(position, f"the field {name!r} {error}") from None
                    if fitting is not value:
                        changed[name] = fitting
        if not fields.keys() <= self._checks.keys():
            self._check_others(fields, position)
        if isinstance(given, Row) and not changed:
            return given
        row = Row.of({**fields, **changed})
        key = getattr(given, "_key", None)
        return row if key is None else row.keyed(key)

    def _check_others(self, fields: Mapping[Any, Any], position: int) -> None:
        for name in fields:
            if name in self._checks:
                continue
            if not isinstance(name, str):
                raise self._wrong(position, f"a field's name is a str, not {_found(name)}")
            if name in RESERVED or name.startswith("_"):
                raise self._wrong(position, f"a field cannot be named {name!r}: rename it")
            if name in self._written:
                raise self._wrong(
                    position,
                    f"it has the field {name!r}, which stage {self._written[name]} writes: "
                    "leave it out, or rename it",
                )

    def _wrong(self, position: int, message: str) -> StageError:
        return StageError(self._key, "", f"inputs=, row {position} (the first is 0): {message}")


class _Check:
    """Whether a value fits a field's type."""

    def __init__(self, hint: Any) -> None:
        self._hint = hint
        plain = strip_annotated(hint)
        self.text = plain is Text
        self.cls = plain if plain in (str, int, float, bool, bytes, Text) else None
        """The class whose values fit as they are, where that is all there is to say."""
        if plain is not hint and self.cls is not Text:  # Annotated may say more
            self.cls = None
        self._adapter: TypeAdapter[Any] | None = None
        if plain is not Any:
            # A type that cannot be checked fits everything.
            with contextlib.suppress(PydanticUserError, TypeError):
                self._adapter = TypeAdapter(hint, config=_LENIENT if _takes_config(plain) else None)

    def value(self, value: Any) -> Any:
        """Return the value as the field holds it. Raises ValueError that says what it should be."""
        if self._adapter is None:
            return value
        try:
            return self._adapter.validate_python(value, strict=True)
        except ValidationError as error:
            wrong = error
        if isinstance(value, (list, dict)):
            try:  # texts are refused here: JSON would lose where they come from
                told = orjson.dumps(value, option=_AS_IT_IS)
                return self._adapter.validate_json(told, strict=True)
            except ValidationError as error:
                wrong = error
            except TypeError:
                pass
        first = wrong.errors(include_url=False)[0]
        why = ""
        if isinstance(value, (list, tuple, dict)):
            path = ".".join(map(str, first["loc"]))
            why = f" ({path}{path and ': '}{first['msg']})"
        elif not first["type"].endswith(("_type", "is_instance_of")):  # the type says those
            why = f" ({first['msg']})"
        raise ValueError(f"should be {show(self._hint)}, not {_found(value)}{why}")


_LENIENT = ConfigDict(arbitrary_types_allowed=True)
_AS_IT_IS = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS


def _takes_config(hint: Any) -> bool:
    """Whether pydantic lets a TypeAdapter of this type have a configuration of its own."""
    return not hasattr(hint, "__pydantic_config__") and not hasattr(hint, "model_config")


def _written(wired: WiredStage, stages: Mapping[str, WiredStage]) -> dict[str, str]:
    """Return the fields that another stage writes, not having read them: field -> stage."""
    written: dict[str, str] = {}
    for stage in stages.values():
        mine = {name for name, writer in stage.writers.items() if writer == stage.key}
        mine -= {stage.taken(r.name) for r in stage.spec.reads} | set(stage.model.give.values())
        if stage.key != wired.key:
            written |= dict.fromkeys(mine - wired.fields.keys(), stage.key)
    return written


def _found(value: Any) -> str:
    shown = repr(value)
    if value is None:
        return shown
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
