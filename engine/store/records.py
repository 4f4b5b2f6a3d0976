"""The records of a store: their tables, and the digest by which damage to one is noticed.

A value of more than 64 KiB lies in the blob folder; its column holds the blob's name, as text.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

__all__ = ["BODY", "COSTS", "INLINE_BYTES", "INSERT", "LARGE", "record_digest"]

INLINE_BYTES = 64 * 1024
"""Larger values lie in the blob folder."""

_VALUES = {"memo": 9, "calls": 4, "refusals": 5, "rows": 7, "spool": 3}

INSERT = {
    table: f"INSERT OR {'IGNORE' if table == 'calls' else 'REPLACE'} INTO {table} "
    f"VALUES ({'?,' * count}?)"  # the digest comes last
    for table, count in _VALUES.items()
} | {"texts": "INSERT OR IGNORE INTO texts VALUES (?,?)"}  # named by their own digest
"""How a record of each table is written."""

LARGE = {
    "memo": (4, 5, 8),
    "calls": (3,),
    "refusals": (4,),
    "rows": (5, 6),
    "spool": (2,),
    "texts": (1,),
}
"""Which values of each table may be large: they name a blob then."""

BODY = {"memo": 4, "rows": 5, "spool": 2}
"""Which value holds fields, and so may refer to texts and Artifacts."""

COSTS = {
    "runs": "the run is not listed any more",
    "memo": "its result is computed again",
    "calls": "the call is paid again",
    "refusals": "nothing",
    "rows": "the manifest of that run lacks a line",
    "texts": "what holds it is computed again",
}
"""What losing a record of each table costs."""


def record_digest(table: str, values: tuple[Any, ...] | list[Any]) -> bytes:
    """Return the digest of a record: 16 bytes over its table and all its values, keys included."""
    data = bytearray(table.encode())
    for value in values:
        piece = value if type(value) is bytes else repr(value).encode()
        data += b"%s%d:" % (b"b" if piece is value else b"r", len(piece))
        data += piece
    return blake2b(data, digest_size=16).digest()
