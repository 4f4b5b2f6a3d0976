"""Records out of text files: JSON Lines, JSON, CSV and TSV, each with the line it begins on."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from engine.datasets.files import DataFile, blamed, open_packed
from engine.errors import short_path

__all__ = ["Record", "Records", "text_records"]

Record = tuple[int, dict[str, Any]]
"""Where a record stands (its line or row, from 1), and its values."""
Records = Generator[Record, None, None]


def text_records(file: DataFile, numbers: Sequence[str]) -> Records:
    """Yield the records of a text file. Raises ValueError, with file and line, for what is none.

    `numbers` names the columns of a CSV file whose cells are numbers.
    """
    match file.format:
        case "json":
            return _json(file.path)
        case "csv" | "tsv":
            return _csv(file.path, "," if file.format == "csv" else "\t", numbers)
    return _jsonl(file.path)


def _lines(path: Path) -> Generator[tuple[int, str], None, None]:
    number = 0
    with blamed(path, lambda: number + 1), open_packed(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _wrong(path, number, f"{_utf8(error)}") from None


# --- JSON -------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"the key {twice!r} stands there twice")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


# json and not orjson: integers of any size and lone surrogates are valid, keys told twice are seen.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


def _jsonl(path: Path) -> Records:
    with closing(_lines(path)) as lines:
        for number, line in lines:
            if not line.strip():
                continue
            try:
                record = _DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                near = ""
                if number == 1 and line.strip() in ("[", "{"):
                    near = " (is it one JSON value of many lines? say `format: json`)"
                raise _wrong(path, number, f"not JSON: {error}{near}") from None
            yield number, _checked(record, path, number)


def _json(path: Path) -> Records:
    """Yield the objects of an array, or of the one array in an object: the text is held in memory.

    Of the parsed values one row is held, and all of them once where an object holds the array.
    """
    line = 1
    with blamed(path, lambda: line), open_packed(path) as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(path, data[: error.start].count(b"\n") + 1, f"{_utf8(error)}") from None
    del data
    scan = _Scan(path, text)
    start = scan.skip(0)
    if text[start : start + 1] == "{":
        start = scan.array_in_object(start)
    elif text[start : start + 1] != "[":
        raise scan.wrong(start, "a JSON dataset is an array of objects, or an object that holds it")
    else:
        _check_end(scan, scan.array(start, lambda at, value: None))
    at, line = start, 1 + text.count("\n", 0, start)
    for begins, record in scan.elements(start):
        at, line = begins, line + text.count("\n", at, begins)
        yield line, _checked(record, path, line)


class _Scan:
    """Walks over JSON text, value by value, so that each row knows its line."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text

    def wrong(self, at: int, message: str) -> ValueError:
        return _wrong(self.path, self.text.count("\n", 0, at) + 1, message)

    def skip(self, at: int) -> int:
        """Return where the next character stands that is no white space."""
        text = self.text
        while text[at : at + 1] in (" ", "\n", "\r", "\t"):
            at += 1
        return at

    def value(self, at: int) -> tuple[Any, int]:
        """Return the value that begins here, and where what follows it stands."""
        try:
            value, end = _DECODER.raw_decode(self.text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            place = getattr(error, "pos", at)
            raise self.wrong(place, f"not JSON: {getattr(error, 'msg', error)}") from None
        except ValueError as error:
            raise self.wrong(at, f"not JSON: {error}") from None
        return value, self.skip(end)

    def elements(self, at: int) -> Iterator[tuple[int, Any]]:
        """Yield (place, value) of the elements of the array that begins here."""
        at = self.skip(at + 1)
        if self.text[at : at + 1] == "]":
            return
        while True:
            value, end = self.value(at)
            yield at, value
            mark = self.text[end : end + 1]
            if mark not in (",", "]"):
                raise self.wrong(end, "not JSON: a row ends here, and neither `,` nor `]` follows")
            at = self.skip(end + 1)
            if mark == "]":
                self.end = at
                return

    def array(self, at: int, seen: Callable[[int, Any], None]) -> int:
        """Walk over an array; return where what follows it stands."""
        self.end = self.skip(self.skip(at + 1) + 1)  # of an empty one
        for begins, value in self.elements(at):
            seen(begins, value)
        return self.end

    def array_in_object(self, at: int) -> int:
        """Return where the array begins that is the value of one key of an object."""
        record, end = self.value(at)
        _check_end(self, end)
        arrays = [name for name, value in record.items() if type(value) is list]
        if len(arrays) != 1:
            which = f"it has {' and '.join(arrays)}" if arrays else "it has none"
            raise self.wrong(
                at,
                f"a JSON dataset that is an object has one key whose value is the array: {which}",
            )
        at = self.skip(at + 1)
        while True:
            name, colon = self.value(at)
            begins = self.skip(colon + 1)
            if name == arrays[0]:
                return begins
            at = self.skip(self.value(begins)[1] + 1)


def _check_end(scan: _Scan, end: int) -> None:
    if end < len(scan.text):
        raise scan.wrong(
            end, "more follows after the first JSON value (is it JSON Lines? say `format: jsonl`)"
        )


def _checked(record: Any, path: Path, number: int) -> dict[str, Any]:
    if type(record) is not dict:
        raise _wrong(path, number, f"a row is an object, not {type(record).__name__}")
    return record


# --- CSV --------------------------------------------------------------------------------------


def _csv(path: Path, delimiter: str, numbers: Sequence[str]) -> Records:
    """Yield a record a row. Cells are texts; in the columns of `numbers`, numbers or null."""
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 30))  # a dialogue passes 128 KiB
    last, names = 0, list[str]()
    with closing(_lines(path)) as lines:
        reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
        while True:
            begins = last + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise _wrong(path, begins, f"not CSV: {error}") from None
            if cells is None:
                return
            last = reader.line_num
            if not cells:
                continue
            if not names:
                names = _header(path, begins, cells, numbers)
                continue
            if len(cells) != len(names):
                raise _wrong(
                    path,
                    begins,
                    f"{len(cells)} cells, and the header has {len(names)}: put what holds a "
                    f"{'comma' if delimiter == ',' else 'tab'} or a quote in quotes",
                )
            record: dict[str, Any] = dict(zip(names, cells, strict=True))
            for name in numbers:
                record[name] = _number(path, begins, name, record[name])
            yield begins, record


def _header(path: Path, line: int, cells: list[str], numbers: Sequence[str]) -> list[str]:
    for i, name in enumerate(cells):
        if not name.strip():
            raise _wrong(path, line, f"column {i + 1} has no name")
        if name in cells[:i]:
            raise _wrong(path, line, f"two columns are named {name!r}: rename one")
    for name in numbers:
        if name not in cells:
            raise _wrong(path, line, f"no column {name!r} (`numbers`); it has {', '.join(cells)}")
    return cells


def _number(path: Path, line: int, name: str, cell: str) -> int | float | None:
    if not cell.strip():
        return None
    try:
        value = _DECODER.decode(cell.strip())
    except ValueError:
        value = None
    if type(value) not in (int, float):
        raise _wrong(path, line, f"{name!r} is {cell[:40]!r}, which is no number")
    return value  # type: ignore[no-any-return]


def _utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x}): save it as UTF-8"


def _wrong(path: Path, line: int, message: str) -> ValueError:
    return ValueError(f"{short_path(str(path))}:{line}: {message}")
