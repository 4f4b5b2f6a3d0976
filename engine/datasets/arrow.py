"""Records out of Arrow tables: Parquet and Arrow files, and what `datasets` gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from engine.datasets.files import DataFile
from engine.datasets.formats import Records
from engine.datasets.shapes import Shape
from engine.errors import short_path

if TYPE_CHECKING:
    import pyarrow

__all__ = ["arrow_records", "count_rows", "file_tables", "schema_shapes", "table_records"]

GROUP = 1024
"""Rows that are decoded at once."""


def arrow_records(file: DataFile) -> Records:
    """Yield the rows of a Parquet or Arrow file, numbered from 1."""
    return table_records(file_tables(file)[1])


def file_tables(file: DataFile) -> tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]:
    """Return a file's schema and its rows in batches. Raises ValueError for a file that is none."""
    import pyarrow

    where = short_path(str(file.path))
    try:
        if file.format == "parquet":
            import pyarrow.parquet as parquet

            table = parquet.ParquetFile(file.path)
            return table.schema_arrow, _told(where, table.iter_batches(batch_size=GROUP))
        stream = pyarrow.ipc.open_stream(pyarrow.memory_map(str(file.path)))
        return stream.schema, _told(where, stream)
    except (pyarrow.ArrowException, OSError) as error:
        what = "Parquet" if file.format == "parquet" else "an Arrow stream"
        raise ValueError(f"{where}: not {what}, or cut short: {_first_line(error)}") from None


def count_rows(file: DataFile) -> int:
    """Return how many rows a Parquet or Arrow file has. Raises ValueError as `file_tables` does."""
    import pyarrow.parquet as parquet

    _, batches = file_tables(file)
    if file.format == "parquet":  # its footer says
        return int(parquet.read_metadata(file.path).num_rows)
    return sum(batch.num_rows for batch in batches)


def _told(where: str, batches: Iterable[Any]) -> Iterator[Any]:
    import pyarrow

    row = 0
    try:
        for batch in batches:
            yield batch
            row += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{where}, after row {row}: it cannot be read: {_first_line(error)}"
        ) from None


def table_records(tables: Iterable[Any]) -> Records:
    """Yield the rows of tables or batches, numbered from 1."""
    row = 0
    for table in tables:
        names = table.schema.names
        columns = [_column(table.column(i), field.type) for i, field in enumerate(table.schema)]
        for values in zip(*columns, strict=True):
            row += 1
            yield row, dict(zip(names, values, strict=True))


def schema_shapes(schema: pyarrow.Schema, where: str) -> dict[str, Shape]:
    """Return what a schema says of its columns; whether they may be null, the rows tell.

    Raises ValueError for two columns of one name, or a type that a row cannot carry.
    """
    names = schema.names
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ValueError(f"{where}: two columns are named {name!r}: rename one")
    shapes = {}
    for field in schema:
        try:
            shapes[field.name] = _shape(field.type)
        except TypeError as error:
            raise ValueError(f"{where}: the column {field.name!r} is {error}") from None
    return shapes


def _shape(kind: Any) -> Shape:
    import pyarrow.types as is_

    if isinstance(kind, _json_type()):
        return Shape()
    if is_.is_dictionary(kind):
        return _shape(kind.value_type)
    if is_.is_map(kind):
        shape = Shape([dict])
        shape.fixed, shape.keys = False, {"": _shape(kind.item_type)}
        return shape
    if is_.is_struct(kind):
        shape = Shape([dict])
        shape.keys = {field.name: _shape(field.type) for field in kind}
        return shape
    if _is_list(kind):
        shape = Shape([list])
        shape.items = _shape(kind.value_type)
        return shape
    for holds, found in (
        (is_.is_null, type(None)),
        (is_.is_boolean, bool),
        (is_.is_integer, int),
        (is_.is_floating, float),
        (_is_text, str),
        (_is_bytes, bytes),
    ):
        if holds(kind):
            return Shape([found])
    raise TypeError(f"of the type {kind}, which a row cannot carry")


def _column(column: Any, kind: Any) -> list[Any]:
    values = column.to_pylist()
    change = _change(kind)
    return values if change is None else [None if v is None else change(v) for v in values]


def _change(kind: Any) -> Callable[[Any], Any] | None:
    """Return what makes a row's value of Arrow's Python value; None where they are the same."""
    import pyarrow.types as is_

    if isinstance(kind, _json_type()):
        return json.loads
    if is_.is_dictionary(kind):
        return _change(kind.value_type)
    if is_.is_map(kind):
        inner = _each(_change(kind.item_type))
        return lambda pairs: {str(key): inner(value) for key, value in pairs}
    if is_.is_struct(kind):
        fields = {field.name: change for field in kind if (change := _change(field.type))}
        if fields:
            return lambda record: {n: _each(fields.get(n))(v) for n, v in record.items()}
        return None
    if _is_list(kind):
        change = _change(kind.value_type)
        return None if change is None else lambda items: [_each(change)(item) for item in items]
    if is_.is_temporal(kind):
        return lambda value: value.isoformat()
    if is_.is_decimal(kind):
        return str
    return None


def _each(change: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    return lambda value: value if value is None or change is None else change(value)


def _is_list(kind: Any) -> bool:
    import pyarrow.types as is_

    return bool(is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow.types as is_

    if is_.is_duration(kind) or is_.is_interval(kind):
        return False
    found = (
        is_.is_string,
        is_.is_large_string,
        is_.is_string_view,
        is_.is_decimal,
        is_.is_temporal,
    )
    return any(holds(kind) for holds in found)


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as is_

    found = (is_.is_binary, is_.is_large_binary, is_.is_binary_view, is_.is_fixed_size_binary)
    return any(holds(kind) for holds in found)


def _json_type() -> type:
    import pyarrow

    return pyarrow.JsonType  # type: ignore[no-any-return]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
