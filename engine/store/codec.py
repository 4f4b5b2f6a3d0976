"""Field values to bytes and back: tagged JSON, texts by their did; nothing is pickled.

What comes back equals what went in, type for type, so that a stage cannot tell a reused result
from a new one; what could not come back is refused.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import orjson
from pydantic import BaseModel

from engine.errors import StoreError
from engine.rows import Artifact
from engine.text import Text

__all__ = ["decode", "dump_json", "encode", "load_json", "references"]

GetText = Callable[[bytes], Text]
_REFERENCE = re.compile(rb'\{"~(?:t":"([0-9a-f]{32})"\}|a":\["([0-9a-f]+)",)')
"""A tag of a text or an Artifact: within a string, the quotes would be escaped."""
_LOCAL = "engine_local_"
"""How the module names of a pipeline's own stage files begin; they end in a digest of the file."""


def encode(value: Mapping[str, Any], texts: list[Text]) -> bytes:
    """Return the bytes of named field values; each Text met is appended to `texts`.

    Raises TypeError, naming the field, for a value that a row cannot carry.
    """
    tagged = {}
    for name, item in value.items():
        try:
            tagged[name] = _tag(item, texts)
        except (TypeError, RecursionError) as error:
            wrong = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise TypeError(f"field {name!r}: {wrong}") from None
    try:
        return orjson.dumps(_named(tagged))
    except TypeError:  # orjson goes 254 levels deep
        deep = [name for name, item in tagged.items() if not _dumps(item)]
        raise TypeError(f"field {deep[0]!r}: it is nested too deeply") from None


def decode(data: bytes, get_text: GetText, *, strict: bool = True) -> dict[str, Any]:
    """Return the field values that `encode` wrote; texts come from `get_text(did)`.

    Raises StoreError for bytes that `encode` did not write, and for a model whose class is gone;
    without `strict` such a model comes as a dict.
    """
    try:
        found = _untag(orjson.loads(data), get_text, strict)
        if type(found) is not dict:
            raise ValueError("not an object")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"a record in the store is damaged: {error}") from error
    return found


def references(data: bytes) -> tuple[list[bytes], list[str]]:
    """Return the dids of the texts, and the digests of the Artifacts, in what `encode` wrote."""
    found = _REFERENCE.findall(data)
    return [bytes.fromhex(did.decode()) for did, _ in found if did], [
        digest.decode() for _, digest in found if digest
    ]


def _tag(value: Any, texts: list[Text]) -> Any:
    kind = type(value)
    if kind is Text:
        texts.append(value)
        return {"~t": value.did.hex()}
    if value is None or kind is bool:
        return value
    if kind is str:
        return value if _is_utf8(value) else {"~s": value.encode("utf-8", "surrogatepass").hex()}
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 63 else {"~i": f"{value:x}"}
    if kind is float:
        if not math.isfinite(value):
            raise TypeError(f"a row cannot carry {value}: only finite numbers")
        return value
    if kind is tuple:
        return {"~u": [_tag(item, texts) for item in value]}
    if kind is list:
        return [_tag(item, texts) for item in value]
    if kind is dict:
        return _named({name: _tag(item, texts) for name, item in value.items()})
    if kind is bytes:
        return {"~b": base64.b64encode(value).decode()}
    if kind is Artifact:
        return {"~a": [value.digest, _tag(value.media_type, texts), value.size, value.folder]}
    if isinstance(value, BaseModel):
        return _tag_model(value, texts)
    base = next((b.__name__ for b in _PLAIN if isinstance(value, b)), "")
    hint = f": make it a plain {base}" if base else ""
    raise TypeError(f"a row cannot carry a {kind.__module__}.{kind.__qualname__}{hint}")


_PLAIN = (str, bool, int, float, list, tuple, dict, bytes)


def _tag_model(value: BaseModel, texts: list[Text]) -> Any:
    kind = type(value)
    if not _is_findable(kind):
        raise TypeError(f"a row cannot carry a {kind.__qualname__}: its class is not a module's")
    held = value.__dict__ | (value.__pydantic_extra__ or {})
    inner = _named({name: _tag(item, texts) for name, item in held.items()})
    given = value.model_fields_set
    tagged = [kind.__module__, kind.__qualname__, inner]
    return {"~m": tagged if given == held.keys() else [*tagged, sorted(given)]}


def _named(inner: dict[str, Any]) -> dict[str, Any]:
    """Return tagged values under their names, so that no name is taken for a tag."""
    for name in inner:
        if type(name) is not str:
            raise TypeError(f"the keys of a dict must be plain strings, not {name!r}")
        if name[:1] == "~" or not _is_utf8(name):
            return {"~d": [[_tag(name, []), item] for name, item in inner.items()]}
    return inner


def _is_utf8(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _dumps(item: Any) -> bytes:
    try:
        return orjson.dumps(item)
    except TypeError:
        return b""


def _untag(value: Any, get_text: GetText, strict: bool) -> Any:
    if type(value) is list:
        return [_untag(item, get_text, strict) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        ((tag, inner),) = value.items()
        match tag:
            case "~t":
                return get_text(bytes.fromhex(inner))
            case "~s":
                return bytes.fromhex(inner).decode("utf-8", "surrogatepass")
            case "~i":
                return int(inner, 16)
            case "~u":
                return tuple([_untag(item, get_text, strict) for item in inner])
            case "~d":
                return {_untag(n, get_text, strict): _untag(v, get_text, strict) for n, v in inner}
            case "~b":
                return base64.b64decode(inner)
            case "~a":
                digest, media_type, size, folder = inner
                return Artifact(digest, _untag(media_type, get_text, strict), size, folder)
            case "~m":
                module, name, fields, *given = inner
                values = _untag(fields, get_text, strict)
                cls = _class(module, name)
                if cls is None and strict:
                    raise StoreError(
                        f"a record holds a {name}, and the module {module.rpartition('_')[0]}* has "
                        "none: put the class back, or run with --fresh"
                        if module.startswith(_LOCAL)
                        else f"a record holds a {module}.{name}, which is not there any more: "
                        "put the class back, or run with --fresh"
                    )
                if cls is None:
                    return values
                return cls.model_construct(set(given[0] if given else values), **values)
    return {name: _untag(item, get_text, strict) for name, item in value.items()}


@lru_cache(maxsize=256)
def _is_findable(cls: type[BaseModel]) -> bool:
    return _member(cls.__module__, cls.__qualname__) is cls


def _class(module: str, name: str) -> type[BaseModel] | None:
    """Return a model class of a module that is loaded already: the store imports nothing.

    The name of a pipeline's own file holds its digest. A comment or a move changes that and no
    fingerprint, so the newest module of the same file name will do.
    """
    found = _member(module, name)
    if found is None and module.startswith(_LOCAL):
        stem = module.rpartition("_")[0]
        for other in reversed([m for m in sys.modules if m.rpartition("_")[0] == stem]):
            found = found or _member(other, name)
    return found


def _member(module: str, name: str) -> type[BaseModel] | None:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def dump_json(value: Mapping[str, Any]) -> bytes:
    """Return the JSON of notes and summaries, lone surrogates included."""
    if not value:
        return b"{}"
    try:
        return orjson.dumps(value)
    except (
        TypeError
    ):  # lone surrogates of a hostile model; two, escaped, would come back as one character
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def load_json(data: bytes) -> Any:
    """Return what `dump_json` wrote. Raises StoreError for what it did not."""
    try:
        return orjson.loads(data)
    except ValueError:
        try:
            return json.loads(data.decode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise StoreError(f"a record in the store is damaged: {error}") from error
