"""The store: what a run has paid for and finished, in one SQLite file beside the pipeline."""

from engine.store.protocol import Memo, RowRecord, RunRecord, Store
from engine.store.sqlite import SqliteStore, find_runs

__all__ = ["Memo", "RowRecord", "RunRecord", "SqliteStore", "Store", "find_runs"]
