"""`dataset.pack` and `rows.gather`: one row a group; `sweep.grid`: all combinations."""

import json
import os
import resource
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest

import engine
from engine import Artifact, Context, EngineError, PipelineError, Row, fields_of, stage
from engine.pipeline import read_pipeline
from engine.rows import Columns
from engine.text import Text
from engine.typecheck import fits

pytestmark = pytest.mark.anyio
Write = Callable[..., Path]


@stage("g.given")
async def given(*, rows: list[dict[str, Any]], ctx: Context) -> AsyncIterator[Row]:
    """Yield rows; `base` becomes an Artifact that holds it, of a media type of its own."""
    for number, row in enumerate(rows):
        if "fail" in row:
            raise OSError("it is gone")
        fields = {
            n: Text(v.replace("LONE", "\ud800")) if isinstance(v, str) else v
            for n, v in row.items()
        }
        if "base" in fields:
            with ctx.blobs.new(f"model/{number}") as blob:
                blob.path.write_text(row["base"])
            fields["base"] = blob.artifact
        yield Row.of(fields).keyed(str(row.get("id", number)))


@fields_of(given)
def given_fields(upstream: Mapping[str, Any], *, rows: list[dict[str, Any]]) -> Mapping[str, Any]:
    kinds = {name: type(value) for row in reversed(rows) for name, value in row.items()}
    kinds = {name: Text if kind is str else kind for name, kind in kinds.items()}
    return kinds | ({"base": Artifact} if "base" in kinds else {})


class Read(Row):
    lines: Any


@stage("g.lines")
async def lines(dataset: Artifact, held_out: Artifact | None = None, *, ctx: Context) -> Read:
    """Read datasets back."""
    assert dataset.media_type == "application/jsonl"
    assert not dataset.folder
    found = [ctx.blobs.path(one).read_bytes() for one in (dataset, held_out) if one is not None]
    assert dataset.size == len(found[0])
    return Read([[json.loads(line) for line in data.splitlines()] for data in found])


class Groups:
    """Runs a stage of groups on rows, and keeps what came out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "stages.py").write_text(Path(__file__).read_text("utf-8"), "utf-8")

    def pipeline(self, use: str, rows: list[dict[str, Any]], **config: Any) -> Path:
        stages = {
            "given": {"use": "./stages.py:given", "with": {"rows": rows}},
            "group": {"use": use, "with": config},
            **({"lines": {"use": "./stages.py:lines"}} if use == "dataset.pack" else {}),
        }
        path = self.folder / "p.yaml"
        path.write_text(json.dumps({"name": "p", "stages": stages}))
        return path

    async def run(self, use: str, rows: list[dict[str, Any]], **config: Any) -> list[Row]:
        path = self.pipeline(use, rows, **config)
        async with engine.open(path, store=":memory:") as run:
            found = [row async for row in run]
        self.counters = run.summary.stages["group"]
        self.fields = run.pipeline.stages["group"].fields
        for row in found:
            assert row.fields.keys() >= self.fields.keys()
        return found


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path)


ROWS = [
    {"game": g, "n": n, "q": f"{g}{n}"}
    for g, n in (("b", 1), ("a", 1), ("b", 2), ("a", 2), ("a", 3))
]


# --- dataset.pack ------------------------------------------------------------------------------


async def test_a_group_is_a_row_with_a_dataset(groups: Groups) -> None:
    found = await groups.run("dataset.pack", ROWS, by=["game"])
    assert [row["game"] for row in found] == ["b", "a"], "in the order of first rows"
    assert [row["lines"] for row in found] == [
        [[{"n": 1, "q": "b1"}, {"n": 2, "q": "b2"}]],
        [[{"n": 1, "q": "a1"}, {"n": 2, "q": "a2"}, {"n": 3, "q": "a3"}]],
    ]
    assert [row["dataset_rows"] for row in found] == [2, 3]
    assert set(found[0].fields) == {"game", "dataset", "dataset_rows", "lines"}
    packed = Annotated[Artifact, Columns(("n", "q"))]
    assert groups.fields == {"game": Text, "dataset": packed, "dataset_rows": int}
    assert (groups.counters.consumed, groups.counters.out) == (5, 2)
    ids = {row["game"]: row.row_id for row in found}
    again = await groups.run("dataset.pack", [*ROWS[::-1], {"game": "c", "n": 9}], by=["game"])
    assert [row["game"] for row in again] == ["a", "b", "c"]
    assert {row["game"]: row.row_id for row in again} == ids | {"c": again[-1].row_id}


async def test_columns_are_chosen(groups: Groups) -> None:
    found = await groups.run("dataset.pack", ROWS[:2], fields=["row_id", "game"])
    assert [[*line] for line in found[0]["lines"][0]] == [["row_id", "game"]] * 2
    assert [line["game"] for line in found[0]["lines"][0]] == ["b", "a"]
    assert len(found[0]["lines"][0][0]["row_id"]) == 32


async def test_without_groups_there_is_one_row_even_of_none(groups: Groups) -> None:
    (row,) = await groups.run("dataset.pack", [])
    assert (row["lines"], row["dataset_rows"], row["dataset"].size) == ([[]], 0, 0)
    (other,) = await groups.run("dataset.pack", ROWS)
    assert other.row_id == row.row_id
    assert await groups.run("dataset.pack", [{"game": "a"}][:0], by=["game"]) == []


async def test_a_row_carries_what_is_held_out(groups: Groups) -> None:
    rows = [{"n": n, "set": s} for n, s in enumerate(["train", "test", "dev", "train", "odd"])]
    splits = {"train": "dataset", "test": "held_out", "dev": "held_out"}
    (row,) = await groups.run("dataset.pack", [*rows, {"n": 6}], split="set", splits=splits)
    assert row["lines"] == [
        [{"n": 0, "set": "train"}, {"n": 3, "set": "train"}],
        [{"n": 1, "set": "test"}, {"n": 2, "set": "dev"}],
    ]
    assert (row["dataset_rows"], row["held_out_rows"]) == (2, 2)
    assert groups.counters.reasons == {"set: no dataset for 'odd'": 1, "no field 'set'": 1}
    (row,) = await groups.run(
        "dataset.pack",
        [{"ok": True}],
        split="ok",
        splits={"true": "dataset", "false": "held_out"},
    )
    assert row["lines"] == [[{"ok": True}], []]


async def test_artifacts_are_equal_by_digest(groups: Groups) -> None:
    rows = [{"base": b, "n": n} for n, b in enumerate(["x", "y", "x"])]
    found = await groups.run("dataset.pack", rows, by=["base"])
    assert [row["lines"] for row in found] == [[[{"n": 0}, {"n": 2}]], [[{"n": 1}]]]
    assert [row["base"].media_type for row in found] == ["model/0", "model/1"]
    assert len(await groups.run("rows.gather", rows, by=["base"])) == 2


async def test_many_groups_hold_no_file_open(
    groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.datasets.packing.GROUP", 7)
    rows = [{"g": n % 40, "n": n, "t": "LONE"} for n in range(200)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + 25, hard))
    try:
        found = await groups.run("dataset.pack", rows, by=["g"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [row["g"] for row in found] == list(range(40))
    for row in found:
        (data,) = row["lines"]
        assert data == [{"n": row["g"] + 40 * i, "t": "\ufffd"} for i in range(5)]
    assert groups.counters.sanitised == {"t": 200}


async def test_an_interrupted_pack_leaves_nothing_and_an_ended_one_is_reused(
    groups: Groups, tmp_path: Path
) -> None:
    path = groups.pipeline("dataset.pack", [*ROWS, {"fail": True}], by=["game"])
    with pytest.raises(EngineError, match="it is gone"):
        await engine.run(path)
    blobs = tmp_path / ".engine" / "p" / "blobs"
    assert not blobs.exists() or list(blobs.iterdir()) == []
    path = groups.pipeline("dataset.pack", ROWS, by=["game"])
    async with engine.open(path) as run:
        first = [row.fields async for row in run]
    async with engine.open(path) as run:
        again = [row.fields async for row in run]
    assert first == again
    assert run.summary.stages["group"].reused == 5
    assert not list(blobs.glob("new-*"))


# --- rows.gather -------------------------------------------------------------------------------


async def test_a_group_is_a_row_with_tuples(groups: Groups) -> None:
    found = await groups.run("rows.gather", ROWS, by=["game"], fields=["q", "n"], count="size")
    assert [dict(row.fields) for row in found] == [
        {"game": "b", "q": ("b1", "b2"), "n": (1, 2), "size": 2},
        {"game": "a", "q": ("a1", "a2", "a3"), "n": (1, 2, 3), "size": 3},
    ]
    assert isinstance(found[0]["q"][0], Text)
    assert groups.fields == {"game": Text, "q": tuple[Text, ...], "n": tuple[int, ...], "size": int}
    again = await groups.run("rows.gather", ROWS[::-1], by=["game"])
    assert {row["game"]: row.row_id for row in again} == {row["game"]: row.row_id for row in found}
    (row,) = await groups.run("rows.gather", [], fields=[], count="size")
    assert dict(row.fields) == {"size": 0}
    (row,) = await groups.run("rows.gather", ROWS, fields=["n"])
    assert dict(row.fields) == {"n": (1, 1, 2, 2, 3)}


async def test_a_row_that_lacks_a_field_is_rejected(groups: Groups) -> None:
    rows = [*ROWS, {"game": "a", "q": "a4"}, {"n": 1, "q": "?"}]
    found = await groups.run("rows.gather", rows, by=["game"], fields=["n"])
    assert [row["n"] for row in found] == [(1, 2), (1, 2, 3)]
    assert groups.counters.reasons == {"no field 'n'": 1, "no field 'game'": 1}


async def test_groups_that_follow_each_other_are_held_one_at_a_time(groups: Groups) -> None:
    rows = sorted(ROWS, key=lambda row: row["game"])
    whole = await groups.run("rows.gather", rows, by=["game"], fields=["n"])
    found = await groups.run("rows.gather", rows, by=["game"], fields=["n"], consecutive=True)
    assert [(row.row_id, row.fields) for row in found] == [(r.row_id, r.fields) for r in whole]
    with pytest.raises(EngineError, match="its group, game 'b', has ended: its rows do not follow"):
        await groups.run("rows.gather", ROWS, by=["game"], fields=["n"], consecutive=True)


async def test_a_group_is_given_out_when_the_next_begins() -> None:
    from engine.datasets.grouping import gather

    read: list[int] = []

    async def rows() -> AsyncIterator[Row]:
        for n in range(6):
            read.append(n)
            yield Row.of({"g": n // 2})

    seen = []
    async for row in gather(rows(), by=("g",), consecutive=True):
        assert isinstance(row, Row)
        seen.append((row["g"], len(read)))
    assert seen == [(0, 3), (1, 5), (2, 6)]


# --- sweep.grid --------------------------------------------------------------------------------


async def test_all_combinations_in_a_fixed_order(pipeline: Write) -> None:
    over = "stages: {grid: {use: sweep.grid, with: {over: {seed: [0, 1], game: [a, b], lr: [1, 0.5]}}}}"
    async with engine.open(pipeline(over), store=":memory:") as run:
        found = [row async for row in run]
    assert run.pipeline.stages["grid"].fields == {"seed": int, "game": Text, "lr": float}
    assert [tuple(row.fields.values()) for row in found] == [
        (seed, game, lr) for seed in (0, 1) for game in "ab" for lr in (1, 0.5)
    ]
    assert isinstance(found[0]["game"], Text)
    assert found[0]["game"].origin.op == "grid:game"
    more = over.replace("seed: [0, 1]", "seed: [9, 1]").replace("a, b", "b, c, a")
    async with engine.open(pipeline(more), store=":memory:") as run:
        ids = {tuple(row.fields.values()): row.row_id async for row in run}
    shared = {tuple(row.fields.values()): row.row_id for row in found if row["seed"] == 1}
    assert {key: ids[key] for key in shared} == shared


async def test_values_of_any_kind(pipeline: Write) -> None:
    over = (
        "{layers: [[1, 2], []], tune: [{top: 2}, {top: 3}], on: [true, false], x: [null, 1],"
        " said: [[{role: user, content: hi}]]}"
    )
    path = pipeline(f"stages: {{grid: {{use: sweep.grid, with: {{over: {over}}}}}}}")
    fields = read_pipeline(path).stages["grid"].fields
    assert fits(fields["layers"], list[int])
    assert fits(fields["tune"], dict[str, int])
    assert fits(fields["on"], bool)
    assert fits(fields["x"], int | None)
    assert fits(fields["said"], engine.Dialogue)
    async with engine.open(path, store=":memory:") as run:
        assert len({row.row_id async for row in run}) == 16


# --- what validate tells -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "config", "said"),
    [
        ("dataset.pack", {"by": ["gaem"]}, r"by: no row has 'gaem'; did you mean 'game'\? \(rows have: game, n"),
        ("dataset.pack", {"by": ["n", "n"]}, "by: 'n' is named twice: remove one"),
        ("dataset.pack", {"fields": ["m"]}, "fields: no row has 'm'"),
        ("dataset.pack", {"split": "n"}, "splits: it goes with `split`: give both, or none"),
        ("dataset.pack", {"splits": {"a": "b"}}, "split: it goes with `splits`"),
        ("dataset.pack", {"split": "m", "splits": {"a": "b"}}, "split: no row has 'm'"),
        ("dataset.pack", {"by": ["game"], "split": "n", "splits": {"1": "game"}}, "splits: the row has 'game' already"),
        ("dataset.pack", {"split": "n", "splits": {"1": "a", "2": "a_rows"}}, "splits: 'a_rows' says how many rows 'a' has"),
        ("dataset.pack", {"split": "n", "splits": {"1": "keyed"}}, "no field can be named 'keyed'"),
        ("rows.gather", {"by": ["game"], "fields": ["game"]}, "fields: 'game' is named in `by`, too: remove one"),
        ("rows.gather", {"fields": ["ns"]}, "fields: no row has 'ns'; did you mean 'n'"),
        ("rows.gather", {"fields": ["n"], "count": "n"}, "count: the row has 'n' already"),
    ],
)  # fmt: skip
def test_what_validate_tells(groups: Groups, use: str, config: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        read_pipeline(groups.pipeline(use, ROWS, **config))


def test_bytes_cannot_be_packed(pipeline: Write) -> None:
    source = (
        "from collections.abc import AsyncIterator\nfrom engine import Row, stage\n"
        'class B(Row):\n    b: list[bytes]\n@stage("s.s")\nasync def s() -> AsyncIterator[B]:\n'
        '    yield B([b""])\n'
    )
    text = "stages: {s: {use: './stages.py:s'}, p: {use: dataset.pack, with: {WITH}}}"
    with pytest.raises(PipelineError, match="'b' is list of bytes, which JSON has not: leave it"):
        read_pipeline(pipeline(text.replace("WITH", ""), stages=source))


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ("{}", "over: name at least one field, with its values"),
        ("{seed: []}", "over, seed: no values, so no rows"),
        ("{seed: [1, 2, 1]}", "over, seed: 1 stands there twice: remove one"),
        ("{seed: 3}", "list"),
        ("{row_id: [1]}", "no field can be named 'row_id'"),
    ],
)
def test_what_validate_tells_of_a_grid(pipeline: Write, over: str, said: str) -> None:
    path = pipeline(f"stages: {{grid: {{use: sweep.grid, with: {{over: {over}}}}}}}")
    with pytest.raises(PipelineError, match=said):
        read_pipeline(path)
