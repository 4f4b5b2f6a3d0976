"""The store on SQLite, through apsw: WAL, synchronous=FULL, one writer, group commit."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import apsw

from engine.errors import StoreError, short_path
from engine.store.blobs import BlobFolder
from engine.store.calls import Calls
from engine.store.codec import decode, dump_json, encode, load_json
from engine.store.commits import Commits
from engine.store.files import Lock, open_for_reading, open_for_writing
from engine.store.protocol import Memo, RowRecord
from engine.store.reading import Reader, order_bytes
from engine.text import Text, to_records

__all__ = ["ReadOnlyStore", "SqliteStore", "find_runs"]

KNOWN_TEXTS = 1 << 16
"""Dids of texts that are stored, remembered so that shared ancestry is not walked again."""


class SqliteStore(Reader):
    """A pipeline's store in a folder (`.engine/<name>/`), or in memory when `folder` is None.

    Reads see what has been committed. The one in memory commits on the event loop: no threads.
    """

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self.folder = folder
        self.generation = 0
        self.calls = Calls(self)
        self._known: OrderedDict[bytes, None] = OrderedDict()

    # --- opening and closing ----------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the store, exclusively. Raises StoreError when another process owns it."""
        async with AsyncExitStack() as stack:
            if self.folder is None:
                self.root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="engine-")))
                self._connection = writer = open_for_writing(None)
                stack.callback(writer.close)
            else:
                self.root = self.folder
                stack.callback(Lock(self.root).release)
                writer = open_for_writing(self.root / "store.sqlite")
                stack.callback(writer.close)
                self._connection = open_for_reading(self.root / "store.sqlite")
                stack.callback(self._connection.close)
            self.blobs = BlobFolder(self.root / "blobs")
            self._work = self.root / "work"
            self._has_work = self._work.exists()
            self._writer = writer
            self._commits = Commits(writer, threaded=self.folder is not None)
            self.write, self.flush = self._commits.write, self._commits.flush
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            self._tasks.start_soon(self._commits.run)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit what is queued, and close. Raises StoreError if it cannot be committed."""
        async with self._stack:  # leaves in reverse: the task group, connections, lock
            self._tasks.cancel_scope.shield = True
            self._tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._commits.close()

    @property
    def backlog(self) -> int:
        """Bytes queued and not yet committed."""
        return self._commits.backlog
