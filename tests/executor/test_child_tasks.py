"""What a stage raises out of its child tasks, or because it is cancelled, is told for what it is."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

import engine
from engine import Reject, ResourceError, Row, stage
from engine.errors import BadReply

pytestmark = pytest.mark.anyio
Write = Callable[..., Path]


class Number(Row):
    n: int


@stage("c.numbers")
async def numbers(*, count: int = 4) -> AsyncIterator[Number]:
    for n in range(count):
        yield Number(n)


ERRORS = {
    "reject": Reject("not this"),
    "refuse": BadReply("not this"),
    "resource": ResourceError("the key is wrong"),
    "value": ValueError("here"),
}


@stage("c.together")
async def together(n: int, *, errors: tuple[str, ...]) -> None:
    async def one(name: str) -> None:
        raise ERRORS[name]

    async with anyio.create_task_group() as tasks:
        for name in errors:
            tasks.start_soon(one, name)


WAITS: list[bool] = []


@stage("c.hides")
async def hides(n: int) -> None:
    try:
        if WAITS:
            await anyio.sleep_forever()
    except BaseException as error:
        raise ValueError("it was cut off") from error


@pytest.mark.parametrize("memo", ["false", "true"])
@pytest.mark.parametrize(
    ("errors", "rejected", "dead"),
    [
        (["reject", "reject"], 4, 0),
        (["refuse", "refuse"], 4, 0),
        (["value", "reject"], 4, 0),
        (["value"], 0, 4),
        (["value", "value"], 0, 4),
    ],
)
async def test_a_verdict_is_one_however_many_child_tasks_give_it(
    pipeline: Write, errors: list[str], rejected: int, dead: int, memo: str
) -> None:
    path = pipeline(
        "stages: {numbers: {use: c.numbers}, "
        f"together: {{use: c.together, memo: {memo}, with: {{errors: {errors}}}}}}}"
    )
    summary = await engine.run(path, plugins=[numbers, together], store=":memory:")
    assert (summary.rejected, summary.dead) == (rejected, dead)
    if rejected:
        assert summary.stages["together"].reasons == {"not this": 4}


async def test_what_concerns_every_row_ends_the_run_from_child_tasks_too(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: c.numbers}, "
        "together: {use: c.together, with: {errors: [value, resource, resource]}}}"
    )
    with pytest.raises(ResourceError, match="the key is wrong"):
        await engine.run(path, plugins=[numbers, together], store=None)


@pytest.mark.parametrize("memo", ["false", "true"])
async def test_a_row_that_was_cancelled_is_no_dead_letter(pipeline: Write, memo: str) -> None:
    path = pipeline(
        f"stages: {{numbers: {{use: c.numbers}}, hides: {{use: c.hides, retry: 1, memo: {memo}}}}}"
    )
    WAITS.append(True)
    async with engine.open(path, plugins=[numbers, hides]) as run:
        while run.counters["hides"].in_flight < 4:
            await anyio.lowlevel.checkpoint()
        run.stop()
    WAITS.clear()
    assert (run.summary.status, run.summary.dead) == ("interrupted", 0)
    again = await engine.run(path, plugins=[numbers, hides])
    assert (again.finished, again.dead) == (4, 0)
