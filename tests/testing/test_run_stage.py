"""`run_stage`: one stage, run as a pipeline would run it."""

import gc
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path

import pytest

from engine import (
    Added,
    Artifact,
    Context,
    Dialogue,
    OutputPath,
    PipelineError,
    Reject,
    Row,
    StageError,
    Text,
    stage,
)
from engine.chat import Chat, ChatError, Message
from engine.testing import Blob, FakeChat, collect, run_stage

pytestmark = pytest.mark.anyio


class Shout(Row):
    shout: Text


class Size(Row):
    size: int


@stage("toy.shout")
async def shout(question: Text, *, marks: int = 1, most: int = 20) -> Shout:
    """Say it louder."""
    if len(question) > most:
        raise Reject("too_long", span=question)
    return Shout(question.upper() + "!" * marks)


@stage("toy.ask")
async def ask(question: Text, *, llm: Chat, other: Chat | None = None) -> Shout:
    """Ask; refuse what is too short."""
    (reply,) = await llm.complete([Message(role="user", content=question)])
    if len(reply.text) < 3:
        reply.refuse("too_short")
    return Shout(reply.text)


@stage("toy.measure")
async def measure(rows: Sequence[Shout]) -> list[Size]:
    """Say how many rows came together."""
    return [Size(len(rows)) for _ in rows]


@stage("toy.letters")
async def letters(dialogue: Dialogue) -> AsyncIterator[Shout]:
    """Make a row of each turn."""
    for turn in dialogue:
        yield Shout(turn.content)


@stage("toy.numbered")
async def numbered(rows: AsyncIterable[Shout]) -> AsyncIterator[Added[Size] | Reject]:
    """Number the rows that are not empty."""
    place = 0
    async for row in rows:
        if row.shout:
            yield row.add(Size(place))
            place += 1
        else:
            yield row.reject("empty")


@stage("toy.zip")
async def zipped(left: AsyncIterable[Shout], right: AsyncIterable[Size]) -> AsyncIterator[Shout]:
    """Join by position."""
    sizes = iter(await collect(right))
    async for row in left:
        yield Shout(row.shout + str(next(sizes).size))


@stage("toy.count")
async def count(*, upto: int) -> AsyncIterator[Size]:
    """Count."""
    for size in range(upto):
        yield Size(size)


@stage("toy.save")
async def save(rows: AsyncIterable[Size], *, path: OutputPath) -> None:
    """Write the sizes."""
    path.write_text("".join([str(row.size) async for row in rows]))


@stage("toy.blob")
async def blob(size: int, *, ctx: Context) -> Size:
    """Write a blob, and draw."""
    with ctx.blobs.new("text/plain") as file, file.open() as stream:
        stream.write(b"x" * size)
    return Size(file.artifact.size + (ctx.rng.random() < 0))


async def test_a_map_and_its_rejects() -> None:
    rows = await run_stage(
        shout, [{"question": "why", "id": 1}, {"question": "a" * 30}, {"question": "who"}], marks=2
    )
    assert [row["shout"] for row in rows] == ["WHY!!", "WHO!!"]
    assert rows[0]["id"] == 1  # what is not read rides along
    assert rows.rejected == {"too_long": 1}
    assert (rows.counters.received, rows.counters.out) == (3, 2)
    assert rows.counters.examples["too_long"] == ["a" * 30]


async def test_a_notebook_shows_the_rows_and_the_rejects() -> None:
    rows = await run_stage(
        shout, [{"question": f"why {n}"} for n in range(9)] + [{"question": "?" * 99}]
    )
    page = rows._repr_html_()
    assert page.count("WHY") == 5
    assert "9 rows, the first 5 · 1 x too_long" in page


async def test_rows_of_a_row_type_keep_their_texts_and_keys() -> None:
    class Question(Row):
        question: Text

    source = Text.leaf("why", "user")
    (row,) = await run_stage(shout, [Question(source).keyed("q1")])
    (again,) = await run_stage(shout, [Question(source).keyed("q1")])
    assert row["question"].did == source.did
    assert row.row_id == again.row_id


async def test_a_map_with_a_chat_draws_again_after_a_refusal() -> None:
    chat = FakeChat(["no", "", "a boat"])
    (row,) = await run_stage(ask, [{"question": "What is a kayak?"}], llm=chat, other=None)
    assert row["shout"] == "a boat"
    assert [request.messages[0].content for request in chat.requests] == ["What is a kayak?"] * 3
    rows = await run_stage(
        ask, [{"question": "x"}], llm=FakeChat(lambda request: "no"), options={"retry": 2}
    )
    assert (rows, rows.rejected, rows.counters.calls) == ([], {"too_short": 1}, 2)


async def test_the_other_kinds() -> None:
    rows = await run_stage(measure, [{"shout": "a"}] * 5, options={"batch": 2})
    assert [row["size"] for row in rows] == [2, 2, 2, 2, 1]
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert [r["shout"] for r in await run_stage(letters, [{"dialogue": turns}])] == ["hi", "ho"]
    rows = await run_stage(numbered, [{"shout": text} for text in ("a", "", "b")])
    assert [(row["shout"], row["size"]) for row in rows] == [("a", 0), ("b", 1)]
    assert rows.rejected == {"empty": 1}
    rows = await run_stage(zipped, {"left": [Shout(Text("a"))], "right": [{"size": 3}]})
    assert [row["shout"] for row in rows] == ["a3"]
    assert [row["size"] for row in await run_stage(count, upto=3)] == [0, 1, 2]
    assert await run_stage(numbered, []) == []


async def test_a_sink_gives_the_rows_that_it_took(tmp_path: Path) -> None:
    rows = await run_stage(save, [{"size": 1}, {"size": 2}], path=tmp_path / "sizes")
    assert (tmp_path / "sizes").read_text() == "12"
    assert len(rows) == 2


async def test_the_context_has_blobs_and_a_generator() -> None:
    (row,) = await run_stage(blob, [{"size": 5}])
    assert row["size"] == 5


async def test_a_stage_that_fails_raises_with_its_cause() -> None:
    with pytest.raises(StageError, match="stage ask") as raised:
        await run_stage(ask, [{"question": "x"}], llm=FakeChat([]))
    assert isinstance(raised.value.__cause__, ChatError)
    assert "used up" in str(raised.value)


@pytest.mark.parametrize(
    ("rows", "config", "error", "said"),
    [
        ([{"qestion": "x"}], {}, TypeError, "row 1 of toy.ask lacks the field 'question'"),
        ([{"question": "x"}, {"question": 3}], {}, TypeError, "row 2 of toy.ask, question: .* 3"),
        ([3], {}, TypeError, "row 1 of toy.ask is neither a Row nor a mapping: 3"),
        ({"question": "x"}, {}, TypeError, "the rows of toy.ask are a list: write [row]"),
        ([{"question": "x"}], {"llm": 3}, TypeError, "takes llm as a Chat, not 3"),
        ([{"question": "x"}], {"llm": None}, TypeError, "needs a Chat: give llm=FakeChat()"),
        ([{"question": "x"}], {"lmm": FakeChat()}, TypeError, "did you mean 'llm'?"),
        ([Size(3)], {}, PipelineError, "reads 'question', which nothing upstream makes"),
    ],
)
async def test_what_does_not_fit_is_told(
    rows: object, config: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as raised:
        await run_stage(ask, rows, **({"llm": FakeChat()} | config))
    pattern, _, rest = said.partition(".*")
    assert pattern in str(raised.value)
    assert rest in str(raised.value)


async def test_rows_of_sources_and_joins_are_checked() -> None:
    with pytest.raises(TypeError, match="toy.count is a source: it reads no rows"):
        await run_stage(count, [{"size": 1}], upto=1)
    with pytest.raises(TypeError, match="give rows as a mapping with left and right"):
        await run_stage(zipped, [{"shout": "a"}])
    with pytest.raises(PipelineError, match="count .toy.count., upto: it should be an integer"):
        await run_stage(count, upto="x")


class Model(Row):
    model: Artifact
    said: Text


@stage("toy.train")
async def train(
    dataset: Artifact, bases: tuple[Artifact, ...], name: Text | None = None, *, ctx: Context
) -> Model:
    """Make a folder of what it reads."""
    (ctx.workdir / "checkpoint").write_text("1")
    with ctx.blobs.new("model", folder=True) as model:
        (model.path / "data.txt").write_bytes(ctx.blobs.path(dataset).read_bytes())
        for base in bases:
            inner = ctx.blobs.path(base) / "inner" / "w.txt"
            (model.path / "w.txt").write_text(inner.read_text())
    return Model(model.artifact, Text(f"{dataset.media_type} {dataset.size} {name}"))


async def test_blobs_are_artifacts_to_the_stage_and_what_it_made_can_be_read() -> None:
    rows = await run_stage(
        train,
        [
            {
                "dataset": Blob("é", "text/plain"),
                "bases": (Blob({"inner/w.txt": b"0", "c.json": "{}"}),),
            }
        ],
    )
    (row,) = rows
    assert row["said"] == "text/plain 2 None"
    folder = rows.path(row["model"])
    assert (folder / "data.txt").read_text("utf-8") == "é"
    assert (folder / "w.txt").read_text() == "0"
    assert rows.path(row["dataset"]).read_bytes() == "é".encode()
    with pytest.raises(KeyError):
        rows.path(Artifact("0" * 32, "text/plain", 1))
    del rows
    gc.collect()
    assert not folder.exists()


async def test_other_fields_of_such_rows_are_checked() -> None:
    with pytest.raises(TypeError, match="row 1 of toy.train, name: .* 3"):
        await run_stage(train, [{"dataset": Blob(""), "bases": (), "name": 3}])
    with pytest.raises(TypeError, match="row 1 of toy.train lacks the field 'dataset'"):
        await run_stage(train, [{"bases": ()}])
