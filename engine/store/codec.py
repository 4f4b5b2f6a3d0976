"""Field values to bytes and back: tagged JSON, texts by their did; nothing is pickled."""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import orjson
from pydantic import BaseModel

from engine.errors import StoreError
from engine.rows import Artifact
from engine.text import Text

__all__ = ["decode", "encode", "plain"]

GetText = Callable[[bytes], Text]


def encode(value: Mapping[str, Any], texts: list[Text]) -> bytes:
    """Return the bytes of named field values; each Text met is appended to `texts`.

    Raises TypeError, naming the field, for a value that a row cannot carry.
    """
    tagged = {}
    for name, item in value.items():
        try:
            tagged[name] = _tag(item, texts)
        except TypeError as error:
            raise TypeError(f"field {name!r}: {error}") from None
    return orjson.dumps(tagged)


def decode(data: bytes, get_text: GetText) -> dict[str, Any]:
    """Return the field values that `encode` wrote; texts come from `get_text(did)`.

    Raises StoreError for bytes that `encode` did not write.
    """
    try:
        value = orjson.loads(data)
        return {name: _untag(item, get_text) for name, item in value.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"a record is damaged: {error}; see `engine store check`") from error


def _tag(value: Any, texts: list[Text]) -> Any:
    kind = type(value)
    if kind is Text:
        texts.append(value)
        return {"~t": value.did.hex()}
    if value is None or kind is bool:
        return value
    if kind is str:
        return (
            value
            if value.isascii() or _is_utf8(value)
            else {"~s": value.encode("utf-8", "surrogatepass").hex()}
        )
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 63 else {"~i": str(value)}
    if kind is float:
        if not math.isfinite(value):
            raise TypeError(f"{value} is not a finite number")
        return value
    if kind is tuple:
        return {"~u": [_tag(item, texts) for item in value]}
    if kind is list:
        return [_tag(item, texts) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError("the keys of a dict must be strings")
        inner = {str(name): _tag(item, texts) for name, item in value.items()}
        return {"~d": inner} if any(name.startswith("~") for name in inner) else inner
    if kind is bytes:
        return {"~b": base64.b64encode(value).decode()}
    if kind is Artifact:
        return {"~a": asdict(value)}
    if isinstance(value, BaseModel):
        inner = {name: _tag(item, texts) for name, item in value.__dict__.items()}
        return {"~m": [kind.__module__, kind.__qualname__, inner]}
    for base, make in (
        (Text, None),
        (str, str),
        (bool, bool),
        (int, int),
        (float, float),
        (list, list),
        (tuple, tuple),
    ):
        if isinstance(value, base) and make is not None:
            return _tag(
                make(value), texts
            )  # subclasses, such as enums of str, travel as their base
    raise TypeError(f"a row cannot carry a {kind.__module__}.{kind.__qualname__}")


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _untag(value: Any, get_text: GetText) -> Any:
    if isinstance(value, list):
        return [_untag(item, get_text) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, inner),) = value.items()
        match tag:
            case "~t":
                return get_text(bytes.fromhex(inner))
            case "~s":
                return bytes.fromhex(inner).decode("utf-8", "surrogatepass")
            case "~i":
                return int(inner)
            case "~u":
                return tuple(_untag(item, get_text) for item in inner)
            case "~d":
                return {name: _untag(item, get_text) for name, item in inner.items()}
            case "~b":
                return base64.b64decode(inner)
            case "~a":
                return Artifact(**inner)
            case "~m":
                module, name, fields = inner
                return _model(module, name, {n: _untag(v, get_text) for n, v in fields.items()})
    return {name: _untag(item, get_text) for name, item in value.items()}


def _model(module: str, name: str, fields: dict[str, Any]) -> Any:
    """Rebuild a pydantic model of a module that is loaded already: the store imports nothing."""
    cls: Any = sys.modules.get(module)
    for part in name.split("."):
        cls = getattr(cls, part, None)
    if not (isinstance(cls, type) and issubclass(cls, BaseModel)):
        return fields
    return cls.model_construct(**fields)


def plain(value: Any) -> Any:
    """Return a value as a dataset or a view shows it: no texts, models or tuples, only JSON."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, BaseModel):
        return {name: plain(item) for name, item in value.__dict__.items()}
    if isinstance(value, Artifact):
        return asdict(value)
    return value
