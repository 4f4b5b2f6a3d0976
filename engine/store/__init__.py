"""The store: what a run has paid for and finished, in one SQLite file beside the pipeline.

`protocol` is what a run asks of a store. In `sqlite` stands the one that keeps it; `files` opens
and locks, `commits` writes, `reading` reads, `codec` turns values into bytes, `blobs` holds files.
"""

from engine.store.protocol import Memo, RowRecord, RunRecord, Store
from engine.store.sqlite import SqliteStore, find_runs

__all__ = ["Memo", "RowRecord", "RunRecord", "SqliteStore", "Store", "find_runs"]
