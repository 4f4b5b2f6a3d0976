"""`inputs=` and `into=`: what may be given, what it becomes, what is told of what does not fit."""

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import engine
from engine import InputError, Row, StageError, Text
from engine.chat import Message

pytestmark = pytest.mark.anyio
GIVEN = [{"question": "a", "number": 1}, {"question": "b", "number": 2}]
BOTH_STORES = pytest.mark.parametrize("store", [None, ":memory:"])


async def answers(path: Path, inputs: Any, **options: Any) -> list[Any]:
    options = {"store": None} | options
    async with engine.open(path, inputs=inputs, **options) as run:
        found = sorted([(row["number"], row["answer"], row["doubled"]) async for row in run])
    assert run.summary.exit_code == 0
    return found


def generator() -> Iterator[Any]:
    yield from GIVEN


async def async_generator() -> AsyncIterator[Any]:
    for row in GIVEN:
        await anyio.lowlevel.checkpoint()
        yield row


class Iterable:
    def __aiter__(self) -> AsyncIterator[Any]:
        return async_generator()


FORMS = {
    "list": lambda: GIVEN,
    "tuple": lambda: tuple(GIVEN),
    "generator": generator,
    "map": lambda: map(dict, GIVEN),
    "async generator": async_generator,
    "async iterable": Iterable,
    "rows": lambda: [Row.of(row) for row in GIVEN],
    "rows of another run's kind": lambda: [Row.of(row, b"an id", (7,)) for row in GIVEN],
}


@BOTH_STORES
@pytest.mark.parametrize("form", FORMS)
async def test_the_forms_of_inputs(plain: Path, form: str, store: str | None) -> None:
    given = FORMS[form]()
    assert await answers(plain, given, store=store) == [(1, "A", 2), (2, "B", 4)]


async def test_a_memory_stream_may_be_the_input(plain: Path) -> None:
    send, receive = anyio.create_memory_object_stream[dict[str, Any]](1)

    async def feed() -> None:
        async with send:
            for row in GIVEN:
                await send.send(row)

    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(feed)
        assert await answers(plain, receive) == [(1, "A", 2), (2, "B", 4)]


async def test_a_run_may_be_the_input_of_another(
    plain: Path, pipeline: Callable[..., Path]
) -> None:
    spoken = pipeline(
        "stages: {turns: {use: ./stages.py:turns}, spoken: {use: ./stages.py:spoken}}",
        name="spoken.yaml",
    )

    async def turned(run: engine.Run) -> AsyncIterator[dict[str, Any]]:
        async for row in run:
            yield {"dialogue": (Message(role="user", content=row["answer"]),)}

    async with engine.open(plain, inputs=GIVEN, store=None) as before:
        async with engine.open(spoken, inputs=turned(before), store=None) as after:
            assert sorted([row["answer"] async for row in after]) == ["user: A", "user: B"]
    async with engine.open(plain, inputs=GIVEN, store=None) as before:
        assert await answers(plain, before, into="double") == [(1, "A", 2), (2, "B", 4)]


async def test_equal_rows_are_several_rows_and_a_key_is_kept(plain: Path) -> None:
    async with engine.open(plain, inputs=GIVEN * 3, store=":memory:") as run:
        assert len({row.row_id async for row in run}) == 6
    ids = []
    for text in ("a", "b"):
        row = Row.of({"question": text, "number": 1}).keyed("k")
        async with engine.open(plain, inputs=[row], store=None) as run:
            ids += [row.row_id async for row in run]
    assert ids[0] == ids[1]


async def test_what_is_given_becomes_what_the_stage_declares(
    plain: Path, pipeline: Callable[..., Path]
) -> None:
    async with engine.open(plain, inputs=[GIVEN[0] | {"tag": [1]}], store=None) as run:
        (row,) = [row async for row in run]
    assert (row["note"], row["tag"]) == ("none", [1])  # the default, and what rides along
    assert type(row["question"]) is Text
    assert row["question"].origin is not None
    assert row["question"].origin.op == "source:inputs"
    assert row["question"].origin.params == {"field": "question", "row": 0}


async def test_json_becomes_tuples_and_models(plain: Path, pipeline: Callable[..., Path]) -> None:
    path = pipeline(
        "stages: {turns: {use: ./stages.py:turns}, spoken: {use: ./stages.py:spoken}}",
        name="spoken.yaml",
    )
    given = {
        "dialogue": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    }
    async with engine.open(path, inputs=[given], store=":memory:") as run:
        (row,) = [row async for row in run]
    assert row["answer"] == "user: hi / assistant: ho"
    assert row["dialogue"][0] == Message(role="user", content=Text("hi"))
    for wrong, why in (
        ([{"role": "me", "content": "hi"}], "0.role: Input should be 'system', 'user'"),
        (
            [{"role": "user", "content": Text("hi")}],
            "Input should be a valid tuple",
        ),  # keeps its graph
    ):
        with pytest.raises(StageError, match=f"tuple\\[Message, ...\\], not list .*{why}"):
            async with engine.open(path, inputs=[{"dialogue": wrong}], store=None) as run:
                await run.finish()


WRONG_INPUTS = {
    "a mapping": ({"question": "a", "number": 1}, "not dict: put it into a list"),
    "a row": (Row.of({"question": "a"}), "not Row: put it into a list"),
    "a text": ("question", "not str"),
    "a number": (3, "not int"),
    "a function": (async_generator, "not function: .*`inputs=rows\\(\\)`"),
    "a partial": (functools.partial(generator), "not partial: .*`inputs=rows\\(\\)`"),
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
async def test_what_can_hold_no_rows_is_refused_before_anything_is_opened(
    plain: Path, name: str
) -> None:
    given, message = WRONG_INPUTS[name]
    with pytest.raises(InputError, match=f"inputs= are rows: a list.*{message}"):
        engine.open(plain, inputs=given)  # type: ignore[arg-type]
    assert not plain.with_name(".engine").exists()


ROW = {"question": "a", "number": 1}
WRONG_ROWS = {
    "none": (None, "a row is a mapping of fields or a Row, not None$"),
    "pairs": ([("question", "a")], "a row is a mapping of fields or a Row, not list"),
    "a field missing": ({"question": "a"}, "it lacks the field 'number' .it has: question"),
    "a text for a number": (ROW | {"number": "1"}, "the field 'number' should be int, not str '1'$"),
    "a bool for a number": (ROW | {"number": True}, "the field 'number' should be int, not bool True$"),
    "a number for a text": (ROW | {"question": 3}, "the field 'question' should be Text, not int 3$"),
    "a field of a later stage": (ROW | {"answer": "mine"}, "it has the field 'answer', which stage shout writes: leave it out, or rename it"),
    "a method's name": (ROW | {"add": 1}, "a field cannot be named 'add': rename it"),
    "a private name": (ROW | {"_id": 1}, "a field cannot be named '_id': rename it"),
    "no name": (ROW | {4: 1}, "a field's name is a str, not int 4"),
}  # fmt: skip


@BOTH_STORES
@pytest.mark.parametrize("name", WRONG_ROWS)
async def test_a_wrong_row_is_named_and_nothing_is_lost(
    plain: Path, name: str, store: str | None
) -> None:
    given, message = WRONG_ROWS[name]
    with pytest.raises(StageError, match=f"stage questions: inputs=, row 1 .*: {message}"):
        async with engine.open(plain, inputs=[ROW, given], store=store) as run:
            await run.finish()
    assert run.summary.status == "failed"
    assert "row 1" in run.summary.error


@pytest.mark.parametrize("store", [None, ":memory:"])
async def test_a_value_that_no_row_carries_is_told_with_its_row(
    plain: Path, store: str | None
) -> None:
    with pytest.raises(StageError, match="row 1 .the first is 0.*cannot carry a.*object"):
        async with engine.open(plain, inputs=[ROW, ROW | {"x": object()}], store=store) as run:
            await run.finish()


async def test_into_a_later_stage(plain: Path) -> None:
    given = [{"question": "a", "number": 3, "note": "n", "answer": "GIVEN"}]
    assert await answers(plain, given, into="shout") == [(3, "GIVEN", 6)]
    with pytest.raises(StageError, match="stage shout: inputs=, row 0 .*lacks the field 'answer'"):
        await answers(plain, [ROW | {"note": ""}], into="shout")
    with pytest.raises(engine.PipelineError, match="no stage 'shuot'.*did you mean 'shout'"):
        engine.open(plain, inputs=given, into="shuot")
    with pytest.raises(TypeError, match="give inputs=, too"):
        engine.open(plain, into="shout")


async def test_what_later_stages_read_and_write_may_be_given(
    pipeline: Callable[..., Path],
) -> None:
    stages = """
from collections.abc import AsyncIterator
from engine import Row, stage
class Number(Row):
    number: int
class Count(Row):
    count: int
@stage("y.numbers")
async def numbers() -> AsyncIterator[Number]:
    yield Number(1)
@stage("y.more")
async def more(number: int, count: int = 0) -> Count:
    return Count(count + number)
"""
    path = pipeline(
        "stages: {numbers: {use: ./stages.py:numbers}, more: {use: ./stages.py:more}}",
        stages=stages,
    )
    given = [{"number": 1}, {"number": 1, "count": 4}]
    async with engine.open(path, inputs=given, store=None) as run:
        assert [row["count"] async for row in run] == [1, 5]


class Closable:
    """Inputs that tell how they end."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def sync(self, rows: int, error: Exception | None = None) -> Iterator[Any]:
        try:
            for n in range(rows):
                yield {"question": "q", "number": n}
            if error is not None:
                raise error
        finally:
            self.events.append("closed")

    async def asynchronous(self, rows: int, error: Exception | None = None) -> AsyncIterator[Any]:
        with contextlib.closing(self.sync(rows, error)) as items:
            for row in items:
                yield row


KINDS = pytest.mark.parametrize("kind", ["sync", "asynchronous"])


@KINDS
async def test_a_generator_is_closed_when_the_run_is_left(plain: Path, kind: str) -> None:
    closable = Closable()
    given = getattr(closable, kind)(100_000)
    async with engine.open(plain, inputs=given, store=None) as run:
        async for _ in run:
            break
        assert closable.events == []
    assert closable.events == ["closed"]


@KINDS
async def test_a_generator_is_closed_when_the_limit_is_reached(plain: Path, kind: str) -> None:
    closable = Closable()
    async with engine.open(plain, inputs=getattr(closable, kind)(100), limit=2, store=None) as run:
        assert (await run.finish()).finished == 2
        assert closable.events == ["closed"]


@KINDS
async def test_inputs_that_fail_fail_the_run_with_their_error(plain: Path, kind: str) -> None:
    closable = Closable()
    given = getattr(closable, kind)(2, ZeroDivisionError("boom"))
    with pytest.raises(
        StageError, match="stage questions: inputs= failed after 2 rows: ZeroDivisionError: boom"
    ) as caught:
        async with engine.open(plain, inputs=given, store=None) as run:
            await run.finish()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert closable.events == ["closed"]


async def test_inputs_that_cannot_be_closed_say_so(plain: Path) -> None:
    async def stubborn() -> AsyncIterator[Any]:
        try:
            for n in range(100_000):
                yield {"question": "q", "number": n}
        finally:
            raise OSError("the line is dead")

    with pytest.raises(StageError, match="inputs= failed when it was closed: OSError: the line"):
        async with engine.open(plain, inputs=stubborn(), store=None) as run:
            async for _ in run:
                break


async def test_inputs_of_two_runs_at_once_are_told_apart(plain: Path) -> None:
    async def slow() -> AsyncIterator[Any]:
        await anyio.sleep_forever()
        yield

    given = slow()
    with pytest.raises(StageError, match="inputs= failed after 0 rows: RuntimeError: .*running"):
        async with engine.open(plain, inputs=given, store=None):
            await anyio.wait_all_tasks_blocked()
            async with engine.open(plain, inputs=given, store=None) as second:
                await second.finish()
