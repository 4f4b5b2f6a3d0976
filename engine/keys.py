"""Identity: the digests that name rows, stages, memo records and calls.

All are 128-bit BLAKE2b over length-prefixed parts, so that no two lists of parts collide by
concatenation. Nothing here knows time, place or order of arrival.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from typing import Any, BinaryIO

import orjson
from pydantic import BaseModel

from engine.rows import Artifact

__all__ = ["canonical", "child_id", "digest", "digest_stream", "memo_key", "seeded", "source_id"]


def digest(*parts: bytes | str) -> bytes:
    """Return 16 bytes that name this list of parts."""
    data = bytearray()
    for part in parts:
        piece = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        data += len(piece).to_bytes(8, "little")
        data += piece
    return blake2b(data, digest_size=16).digest()


def digest_stream(label: str, file: BinaryIO, size: int) -> bytes:
    """Return `digest(label, content)` of a file of `size` bytes that may not fit in memory."""
    h = blake2b(digest_size=16)
    name = label.encode()
    h.update(len(name).to_bytes(8, "little") + name + size.to_bytes(8, "little"))
    while block := file.read(1 << 20):
        h.update(block)
    return h.digest()


def canonical(value: Any) -> bytes:
    """Return the canonical JSON bytes of a field value: texts by their characters, keys sorted.

    Raises TypeError for a value that a row cannot carry.
    """
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError) as error:
        # Lone surrogates and integers past 64 bits: orjson refuses them, json does not.
        if isinstance(error.__cause__, TypeError):
            raise error.__cause__ from None
        return json.dumps(value, default=_plain, sort_keys=True, separators=(",", ":")).encode()


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Artifact):
        return {"artifact": asdict(value)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    raise TypeError(f"a row cannot carry a value of type {type(value).__name__}")


def source_id(stage_key: str, key: str | bytes, before: int = 0) -> bytes:
    """Return the id of a source row: from its key or content, and how many equals came before."""
    h = _source_hash(stage_key, before).copy()
    h.update(key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key)
    return h.digest()


@functools.lru_cache(maxsize=64)
def _source_hash(stage_key: str, before: int) -> blake2b:
    """Return the hash of what stands before a source row's key: most rows share it."""
    h = blake2b(digest_size=16)
    h.update(digest("source", stage_key, str(before)))
    return h


def child_id(parent: bytes, stage_key: str, key: str | int) -> bytes:
    """Return the id of a child: H(parent id, stage key, ordinal or the plugin's key)."""
    return digest("child", parent, stage_key, f"#{key}" if isinstance(key, int) else f"={key}")


def memo_key(fingerprint: bytes, row_id: bytes, reads: Mapping[str, Any]) -> bytes:
    """Return fingerprint + row id + digest of the values read, under the stage's own names."""
    return digest("memo", fingerprint, row_id, canonical(reads))


def seeded(seed: int, *parts: str | bytes) -> random.Random:
    """Return a generator that depends on the pipeline's seed and these parts alone."""
    return random.Random(digest("rng", str(seed), *parts))
