"""The dataset of a training: a JSON Lines file, as `dataset.pack` makes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from engine_train.errors import TrainingError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["FORMATS", "check_columns", "check_whole", "load_rows", "texts"]

FORMATS: dict[str, tuple[tuple[str, ...], ...]] = {
    "sft": (("input_ids",), ("messages",), ("prompt", "completion"), ("text",)),
    "reward": (("chosen_ids", "rejected_ids"), ("chosen", "rejected")),
    "dpo": (("chosen", "rejected"),),
    "grpo": (("prompt",),),
}
"""Method -> the columns of each format that it takes, which are TRL's; tokens first."""


ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who speaks in a conversation."""


def check_columns(method: str, columns: Collection[str]) -> tuple[str, ...]:
    """Return the format that a dataset has: of tokens if it has both these and texts.

    Raises TrainingError where there is none, or two of texts.
    """
    formats = FORMATS[method]
    found = [names for names in formats if all(name in columns for name in names)]
    if len(found) == 1 or (found and found[0][0].endswith("_ids")):
        return found[0]
    wanted = ", or ".join(
        " and ".join(f"`{name}`" for name in names)
        for names in formats
        if not names[0].endswith("_ids")
    )
    if found:
        both = " and ".join("+".join(names) for names in found)
        raise TrainingError(
            f"train.{method}: the dataset has {both}: name the columns of one of them in `fields:` "
            "of `dataset.pack`"
        )
    raise TrainingError(
        f"train.{method} needs {wanted}; the dataset has {', '.join(columns) or 'no columns'}: "
        "name its fields so (`take:` or `give:`) before `dataset.pack`"
    )


def load_rows(path: Path, name: str = "dataset") -> Dataset:
    """Return a dataset file's rows, with the columns of them all; `name` is what errors call it.

    Raises TrainingError if it has none, or where a column holds what does not go together.
    """
    from datasets import Dataset

    with path.open("rb") as lines:
        rows = [orjson.loads(line) for line in lines]
    if not rows:
        raise TrainingError(
            f"the {name} is empty: see how many rows the stage before `dataset.pack` passed on, "
            "and why it rejected the others"
        )
    names = dict.fromkeys(name for row in rows for name in row)  # the first may lack some
    columns = {column: [row.get(column) for row in rows] for column in names}
    for column, values in columns.items():
        kinds = {_kind(value) for value in values} - {"nothing"}
        if len(kinds) > 1:
            raise TrainingError(
                f"the rows of the {name} do not go together: `{column}` holds "
                f"{' and '.join(sorted(kinds))}; make its values alike before `dataset.pack`"
            )
    # As JSON, where objects differ in their keys: else each would get the keys of all.
    return Dataset.from_dict(columns, on_mixed_types="use_json")


def check_whole(rows: Dataset, names: Iterable[str], name: str = "dataset") -> None:
    """Raise TrainingError for a row that lacks what is trained on, or whose messages are none."""
    for column in names:
        for i, value in enumerate(rows[column]):
            where = f"row {i + 1} of the {name}"
            if value is None:
                raise TrainingError(
                    f"{where} has no `{column}`: reject such rows before `dataset.pack`"
                )
            for message in value if isinstance(value, list) else ():
                if isinstance(message, dict) and message.get("role") not in ROLES:
                    raise TrainingError(
                        f"{where}: `{column}` holds {_shown(message)}; a message has a `role` "
                        f"({', '.join(ROLES)}) and `content`"
                    )
            if column == "messages" and not any(m.get("role") == "assistant" for m in value):
                raise TrainingError(f"{where}: nothing in `messages` is said by the assistant")


def _shown(message: dict[str, Any]) -> str:
    """Return a message's keys, and its role if it has one."""
    role = message.get("role")
    return f"a role {role!r}" if role is not None else f"objects with {', '.join(message)}"


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth values"
    known = {str: "texts", list: "lists", dict: "objects", type(None): "nothing"}
    return known.get(type(value), "numbers")


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
