"""What `dataset.read` reads: formats, packings, globs, folders; types, texts and ids."""

import bz2
import gzip
import json
import lzma
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import engine
from engine.rows import Message
from engine.text import Text
from engine.typecheck import fits, show

pytestmark = pytest.mark.anyio
Reads = Callable[..., Awaitable[Any]]
ROWS = [{"q": "one", "n": 1}, {"q": "two, or “zwei”\nagain", "n": 2}]
PACK = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.compress(data[:9]) + zstandard.compress(data[9:]),
}


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def values(found: Any) -> list[dict[str, Any]]:
    return [dict(row.fields) for row in found.rows]


@pytest.mark.parametrize("suffix", PACK)
async def test_json_lines_packed_or_not(reads: Reads, tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"rows.jsonl{suffix}").write_bytes(PACK[suffix](lines(ROWS)))
    found = await reads(f"rows.jsonl{suffix}")
    assert values(found) == ROWS
    assert found.fields == {"q": Text, "n": int}
    origin = found.rows[1]["q"].origin
    assert origin.op == f"source:rows.jsonl{suffix}"
    assert dict(origin.params) == {"line": 2, "field": "q"}


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        (json.dumps(ROWS), [1, 1]),
        (json.dumps(ROWS, indent=2), [2, 6]),
        (
            '\ufeff{"version": "1", "data": \n' + json.dumps(ROWS, indent=1) + ', "n": {"a": []}}',
            [3, 7],
        ),
    ],
)
async def test_json_as_an_array_or_in_an_object(
    reads: Reads, tmp_path: Path, text: str, starts: list[int]
) -> None:
    (tmp_path / "rows.json").write_text(text, "utf-8")
    found = await reads("rows.json")
    assert values(found) == ROWS
    assert [row["q"].origin.params["line"] for row in found.rows] == starts


async def test_csv_and_tsv(reads: Reads, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        'q,n,id\r\none,1,007\r\n"two, or ""zwei""\nagain",,8\r\n\r\nthree,2.5,9\r\n'
    )
    (tmp_path / "rows.tsv").write_text("q\tn\none\t1\n")
    found = await reads("rows.csv", numbers=["n"])
    assert values(found) == [
        {"q": "one", "n": 1, "id": "007"},
        {"q": 'two, or "zwei"\nagain', "n": None, "id": "8"},
        {"q": "three", "n": 2.5, "id": "9"},
    ]
    assert fits(found.fields["n"], float | None)
    assert found.fields["id"] is Text
    assert [row["q"].origin.params["line"] for row in found.rows] == [2, 3, 6]
    assert values(await reads("rows.tsv")) == [{"q": "one", "n": "1"}]


async def test_parquet_by_its_schema(reads: Reads, tmp_path: Path) -> None:
    schema = pa.schema(
        [
            ("q", pa.string()),
            ("score", pa.float32()),
            ("labels", pa.list_(pa.int64())),
            ("meta", pa.struct([("by", pa.string()), ("at", pa.timestamp("s"))])),
            ("turns", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("kind", pa.dictionary(pa.int8(), pa.string())),
            ("any", pa.json_()),
            ("counts", pa.map_(pa.string(), pa.int64())),
        ]
    )
    row = {"q": "one", "score": 0.5, "labels": [1], "meta": {"by": "x", "at": 0}, "kind": "a"}
    row |= {
        "turns": [{"role": "user", "content": "hi"}],
        "any": '{"a": [1, "b"]}',
        "counts": [("k", 2)],
    }
    empty = row | {"labels": [], "turns": [], "q": None}
    columns = [pa.array([r[f.name] for r in (row, empty)], type=f.type) for f in schema]
    pq.write_table(pa.table(columns, schema=schema), tmp_path / "rows.parquet")
    found = await reads("rows.parquet")
    assert {name: show(hint) for name, hint in found.fields.items()} == {
        **{"q": "Text | None", "score": "float", "labels": "list[int]", "kind": "Text"},
        "meta": "{by: text, at: text}",
        "turns": "tuple[Message, ...]",
        "any": "{a: list of integer or text}",
        "counts": "dict[str, int]",
    }
    first, second = values(found)
    assert first["meta"] == {"by": "x", "at": "1970-01-01T00:00:00"}
    assert first["turns"] == (Message(role="user", content=Text("hi")),)
    assert first["any"] == {"a": [1, "b"]}
    assert first["counts"] == {"k": 2}
    assert (second["q"], second["turns"]) == (None, ())
    assert dict(first["turns"][0].content.origin.params) == {"row": 1, "field": "turns[0].content"}


async def test_globs_and_lists_in_order(reads: Reads, tmp_path: Path) -> None:
    for folder, name in (("b", "2"), ("b", "10"), ("a", "1")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.jsonl").write_bytes(lines([{"q": folder + name}]))
    (tmp_path / "b" / ".hidden.jsonl").write_text("no JSON")
    (tmp_path / ".o.part").mkdir()
    (tmp_path / ".o.part" / "o.jsonl").write_text("no JSON")
    (tmp_path / "b" / "3.jsonl").write_text("")
    assert [row["q"] for row in (await reads("b/*.jsonl")).rows] == ["b10", "b2"]
    found = await reads("**/*.jsonl")
    assert [row["q"].origin.op for row in found.rows] == [
        f"source:{name}.jsonl" for name in ("a/1", "b/10", "b/2")
    ]
    found = await reads(["b/2.jsonl", "a/*.jsonl"])
    assert [row["q"] for row in found.rows] == ["b2", "a1"]


async def test_a_format_given_is_taken_before_the_suffix(reads: Reads, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(lines(ROWS))
    assert values(await reads("rows.json", format="jsonl")) == ROWS


async def test_types_hold_for_all_first_rows(reads: Reads, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "n": 1,
            "s": "a",
            "tags": ["x"],
            "meta": {"a": 1},
            "same": {"a": "b"},
            "rare": 1,
            "none": None,
        },
        {"n": 2.5, "s": None, "tags": [], "meta": {"b": "c"}, "same": {"a": "d"}, "none": None},
    ]
    (tmp_path / "rows.jsonl").write_bytes(lines(rows))
    found = await reads("rows.jsonl")
    assert {name: show(hint) for name, hint in found.fields.items()} == {
        "n": "float",
        "s": "Text | None",
        "tags": "list[Text]",
        "meta": "dict[str, int | Text]",
        "same": "{a: text}",
        "none": "None",
    }
    assert fits(found.fields["same"], dict[str, Any])
    assert values(found) == rows
    assert type(found.rows[0]["n"]) is int
    assert isinstance(found.rows[0]["tags"][0], Text)


CHAT = '''
from engine import Reject, Row, Text, stage
from engine.rows import Dialogue


class Last(Row):
    last: Text


@stage("my.last")
async def last(messages: Dialogue) -> Last:
    """Return what is said last."""
    return Last(messages[-1].content)
'''


async def test_a_stage_reads_dialogues_from_a_file(
    tmp_path: Path, pipeline: Callable[..., Path]
) -> None:
    rows = [
        {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]},
        {"messages": [{"content": "ho", "role": "assistant"}]},
        {"messages": [{"role": "tool", "content": "7"}]},
    ]
    (tmp_path / "rows.jsonl").write_bytes(lines(rows))
    path = pipeline(
        "stages: {read: {use: dataset.read, with: {path: rows.jsonl, peek: 2}}, last: {use: './stages.py:last'}}",
        stages=CHAT,
    )
    async with engine.open(path, store=":memory:") as run:
        found = [row async for row in run]
    assert [row["last"] for row in found] == ["hi", "ho"]
    assert found[0]["last"].origin.params["field"] == "messages[1].content"
    assert run.summary.stages["read"].reasons == {
        "messages[]: something else, not a message of system, user or assistant": 1
    }


async def test_a_later_row_of_another_type_is_rejected_with_its_place(
    reads: Reads, tmp_path: Path
) -> None:
    rows = [{"q": "a", "n": 1, "o": {"k": 1}}] * 3
    odd = [{"q": True, "n": 1, "o": {"k": 1}}, {"q": "a", "n": None, "o": {"k": 1}}]
    odd += [{"q": "a", "n": 1, "o": {"l": 1}}, {"q": "a", "o": {"k": 1}, "new": [1]}]
    data = lines([*rows, *odd]) + b'{"q": "a", "n": 1e999, "o": {"k": 1}}\n'
    (tmp_path / "rows.jsonl").write_bytes(data)
    found = await reads("rows.jsonl", peek=3)
    assert found.reasons == {
        "q: true or false, not text": 1,
        "n: null, not integer": 1,
        "o: other keys, not {k: integer}": 1,
        "n: inf, not a finite number": 1,
    }
    (example,) = found.summary.stages["read"].examples["n: null, not integer"]
    assert example.endswith("rows.jsonl:5")
    assert values(found)[-1] == {"q": "a", "o": {"k": 1}, "new": [1]}
    assert show((await reads("rows.jsonl", peek=6)).fields["n"]) == "int | None"


async def test_ids_come_from_the_content_or_a_field(reads: Reads, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(ROWS))
    (tmp_path / "rows.json").write_text(json.dumps(list(reversed(ROWS)), indent=3))
    one, two = [row.row_id for row in (await reads("rows.jsonl")).rows]
    assert [row.row_id for row in (await reads("rows.json")).rows] == [two, one]
    assert [r.row_id for r in (await reads("rows.jsonl", peek=1)).rows] == [one, two]
    keyed = [row.row_id for row in (await reads("rows.jsonl", id_field="n")).rows]
    assert not {one, two} & set(keyed)
    rows = [{"q": "changed", "n": 1}, {"q": "x", "n": None}]
    (tmp_path / "rows.jsonl").write_bytes(lines(rows))
    with pytest.raises(engine.EngineError, match=r"rows.jsonl:2: 'n' is no id: it is neither text"):
        await reads("rows.jsonl", id_field="n")


async def test_rows_given_in_place_of_a_dataset_have_its_types(
    tmp_path: Path, pipeline: Callable[..., Path]
) -> None:
    row = {"q": "a", "o": {"k": 1}, "turns": [{"role": "user", "content": "hi"}]}
    (tmp_path / "rows.jsonl").write_bytes(lines([row]))
    path = pipeline("stages: {read: {use: dataset.read, with: {path: rows.jsonl}}}")
    async with engine.open(path, store=":memory:", inputs=[row]) as run:
        rows = [found async for found in run]
    assert rows[0]["turns"] == (Message(role="user", content=Text("hi")),)
    with pytest.raises(engine.EngineError, match="the field 'o' should be {k: integer}, not"):
        await engine.run(path, store=":memory:", inputs=[{**row, "o": {"k": "one"}}])
