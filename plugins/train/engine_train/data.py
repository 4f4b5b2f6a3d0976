"""The dataset of a training: a JSON Lines file, as `dataset.pack` makes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from engine_train.errors import TrainingError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_rows", "texts"]


def load_rows(path: Path) -> Dataset:
    """Return a dataset file's rows. Raises TrainingError if it has none."""
    from datasets import Dataset

    with path.open("rb") as lines:
        rows = [orjson.loads(line) for line in lines]
    if not rows:
        raise TrainingError(
            "the dataset is empty: see how many rows the stage before `dataset.pack` passed on, "
            "and why it rejected the others"
        )
    return Dataset.from_list(rows)


def texts(rows: Dataset) -> Iterator[str]:
    """Yield all texts of a dataset, those in messages as well."""
    for row in rows:
        yield from _texts(row)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for name, v in value.items() if name != "role" for text in _texts(v))
    elif isinstance(value, list):
        yield from (text for v in value for text in _texts(v))
