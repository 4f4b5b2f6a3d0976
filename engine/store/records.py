"""The records of a store: their tables, and the digest by which damage to one is noticed.

A value of more than 64 KiB lies in the blob folder; its column holds the blob's name, as text.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

__all__ = ["INLINE_BYTES", "INSERT", "KEPT_BY", "record_digest"]

INLINE_BYTES = 64 * 1024
"""Larger values lie in the blob folder."""

_VALUES = {"memo": 9, "calls": 4, "refusals": 5, "rows": 7, "spool": 3}

INSERT = {
    table: f"INSERT OR {'IGNORE' if table == 'calls' else 'REPLACE'} INTO {table} "
    f"VALUES ({'?,' * count}?)"  # the digest comes last
    for table, count in _VALUES.items()
} | {"texts": "INSERT OR IGNORE INTO texts VALUES (?,?)"}  # named by their own digest
"""How a record of each table is written."""

KEPT_BY = {
    "memo": "its result is computed again",
    "calls": "the call is paid again",
    "refusals": "nothing: it is history",
    "rows": "a line of a run's manifest",
    "spool": "nothing once the run has ended",
    "texts": "what refers to it is computed again",
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
