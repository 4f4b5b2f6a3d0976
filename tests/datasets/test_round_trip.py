"""What is written is read back: equal values, equal ids of the content; and so by `datasets`."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.datasets.reading import read, read_fields
from engine.datasets.writing import write
from engine.keys import canonical
from engine.rows import Dialogue, Message, Reject, Row, plain
from engine.stages import Context, stage_spec
from engine.text import Text

Hint = Any
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.text("abcdefg_ -é", min_size=1, max_size=4)
INTS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
MESSAGES = st.builds(
    lambda role, content: Message.model_construct(role=role, content=Text(content)),
    st.sampled_from(["system", "user", "assistant"]),
    WORDS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
COLUMNS: list[tuple[Hint, st.SearchStrategy[Any]]] = [
    (Text, WORDS),
    (int, INTS),
    (float, FLOATS),
    (bool, st.booleans()),
    (Text | None, WORDS | st.none()),
    (list[Text], st.lists(WORDS, max_size=3)),
    (list[list[int]], st.lists(st.lists(INTS, max_size=2), max_size=2)),
    (dict[str, int], st.dictionaries(NAMES, INTS, max_size=3)),
    (Dialogue, st.lists(MESSAGES, min_size=1, max_size=3).map(tuple)),
    (int | Text, INTS | WORDS),
    (Any, JSON),
]


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, Hint], list[dict[str, Any]]]:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    columns = {name: draw(st.sampled_from(COLUMNS)) for name in names}
    rows = draw(
        st.lists(
            st.fixed_dictionaries({n: values for n, (_, values) in columns.items()}),
            min_size=1,
            max_size=5,
        )
    )
    return {name: hint for name, (hint, _) in columns.items()}, rows


def defaults(func: Any) -> dict[str, Any]:
    return {n: d for n, (_, d) in stage_spec(func).config.items()}


async def written(
    path: Path, fields: Mapping[str, Hint], rows: list[dict[str, Any]], **c: Any
) -> None:
    async def stream() -> Any:
        for row in rows:
            yield Row.of(row, b"id")

    ctx = Context("write", fields=fields, pipeline="p")
    await write(stream(), **{**defaults(write), "path": path, "ctx": ctx, **c})


async def read_back(path: Path, **config: Any) -> tuple[list[Row], Mapping[str, Any]]:
    given = {**defaults(read), "path": path, **config}
    found = [row async for row in read(**given)]
    assert not [row for row in found if isinstance(row, Reject)]
    return [row for row in found if isinstance(row, Row)], read_fields({}, **given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round")


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.zst", "t.parquet", "t"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=tables())
def test_what_is_written_is_read_back(
    folder: Path, name: str, table: tuple[dict[str, Hint], list[dict[str, Any]]]
) -> None:
    fields, rows = table
    config = {} if "." in name else {"format": "datasets"}

    async def there_and_back() -> list[Row]:
        await written(folder / name, fields, rows, **config)
        return (await read_back(folder / name))[0]

    found = asyncio.run(there_and_back())
    assert [plain(row.fields) for row in found] == [plain(row) for row in rows]
    assert [canonical(row.fields) for row in found] == [canonical(row) for row in rows]
    for row, original in zip(found, rows, strict=True):
        for column, hint in fields.items():
            if hint is Dialogue:
                assert row[column] == original[column]


@pytest.mark.anyio
async def test_datasets_reads_what_we_write_and_we_read_what_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    datasets.disable_progress_bars()
    turns = (Message.model_construct(role="user", content=Text("hi")),)
    fields = {"q": Text, "n": int, "turns": Dialogue, "meta": dict[str, Any], "tags": list[Text]}
    rows = [
        {"q": "one", "n": 1, "turns": turns, "meta": {"a": [1, "b"]}, "tags": ["x"]},
        {"q": "two", "n": 2, "turns": turns, "meta": {"c": None}, "tags": []},
    ]
    expected = [plain(row) for row in rows]
    await written(tmp_path / "out", fields, rows, format="datasets", license="mit")
    await written(tmp_path / "t.jsonl.gz", fields, rows)
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=cache)["train"]
    assert loaded.to_list() == expected
    assert loaded.features == datasets.Features(
        {
            "q": datasets.Value("string"),
            "n": datasets.Value("int64"),
            "turns": datasets.List(
                {"role": datasets.Value("string"), "content": datasets.Value("string")}
            ),
            "meta": datasets.Json(),
            "tags": datasets.List(datasets.Value("string")),
        }
    )
    lines = datasets.load_dataset(
        "json", data_files=str(tmp_path / "t.jsonl.gz"), split="train", cache_dir=cache
    )
    assert [row["turns"] for row in lines] == [row["turns"] for row in expected]

    _, types = await read_back(tmp_path / "out")
    loaded.save_to_disk(str(tmp_path / "saved"))
    loaded.to_parquet(str(tmp_path / "theirs.parquet"))
    lines.to_json(str(tmp_path / "theirs.jsonl"))
    both = datasets.DatasetDict({"train": loaded, "test": loaded.select([1])})
    both.save_to_disk(str(tmp_path / "dict"))
    for path, config in (
        ("saved", {}),
        ("theirs.parquet", {}),
        ("theirs.jsonl", {}),
        ("dict", {"split": "train"}),
    ):
        found, seen = await read_back(tmp_path / path, **config)
        assert [plain(row.fields) for row in found] == expected, path
        assert seen["turns"] == types["turns"] == Dialogue, path
        assert found[0]["turns"] == turns, path
    found, _ = await read_back(tmp_path / "dict", split="test")
    assert [row["q"] for row in found] == ["two"]
    with pytest.raises(ValueError, match="dict has several splits: name one of train, test"):
        await read_back(tmp_path / "dict")
    with pytest.raises(ValueError, match="dict has no split 'dev': name one of train, test"):
        await read_back(tmp_path / "dict", split="dev")
    (tmp_path / "out" / "data" / "train-00000-of-00001.parquet").rename(
        tmp_path / "out" / "data" / "train-00000-of-00002.parquet"
    )
    with pytest.raises(ValueError, match="out has 1 of the 2 files of 'train'"):
        await read_back(tmp_path / "out")
    assert json.loads((tmp_path / "saved" / "state.json").read_text())["_split"] == "train"
