"""A plugin of toys: one stage or resource of each form that a pipeline may use."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, PositiveInt

from engine import (
    Added,
    InputFile,
    InputPath,
    Resource,
    Row,
    Text,
    fields_of,
    hookimpl,
    resource,
    stage,
)
from engine.resources import Needs


class Number(Row):
    n: int
    label: Text


class Doubled(Row):
    doubled: int


class Half(Row):
    half: float


class Label(Row):
    label: Text


class Pair(Row):
    left: int
    right: float


class Child(Row):
    child: int


class Sum(Row):
    sum: int


class Noted(Row):
    noted: bool


class Style(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    colour: Literal["red", "blue"] = "red"
    width: PositiveInt = 1
    layers: tuple[int, ...] = ()


class Opaque:
    """What YAML cannot say."""


@resource("toy.box")
class Box(Resource):
    """A box that can do what its configuration says."""

    def __init__(self, *, can: frozenset[str] = frozenset(), size: PositiveInt = 1) -> None:
        if size > 9:
            raise ValueError(f"no box has {size} sides")
        self.can = can

    @property
    def identity(self) -> str:
        return "box"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        return None


@resource("toy.lamp")
class Lamp(Box):
    """A box that shines; its configuration is the box's."""


@stage("toy.numbers")
async def numbers(*, count: PositiveInt = 3, label: str = "number") -> AsyncIterator[Number]:
    for n in range(count):
        yield Number(n, Text(label))


@stage("toy.double")
async def double(n: int) -> Doubled:
    return Doubled(2 * n)


@stage("toy.half")
async def half(n: float) -> Half:
    return Half(n / 2)


@stage("toy.flag")
async def flag(n: bool) -> Noted:
    return Noted(n)


@stage("toy.relabel")
async def relabel(label: Text) -> Label:
    return Label(label.upper())


@stage("toy.stamp")
async def stamp(n: int) -> Label:
    return Label(Text(str(n)))


@stage("toy.maybe")
async def maybe(n: int, note: Text | None = None) -> Noted:
    return Noted(note is not None)


@stage("toy.styled")
async def styled(
    label: Text, *, style: Style, times: int | Literal["few"] = 1, strict: bool = False
) -> None: ...


@stage("toy.boxed")
async def boxed(n: int, *, box: Box, spare: Lamp | None = None) -> Doubled:
    return Doubled(n)


@stage("toy.grammatical")
async def grammatical(n: int, *, box: Annotated[Box, Needs("grammar", "schema")]) -> Doubled:
    return Doubled(n)


@stage("toy.children")
async def children(n: int, *, count: PositiveInt = 2) -> AsyncIterator[Child]:
    for child in range(count):
        yield Child(child)


@stage("toy.scored")
async def scored(rows: Sequence[Number]) -> list[Half]:
    return [Half(row.n) for row in rows]


@stage("toy.sorted")
async def in_order(rows: AsyncIterable[Number]) -> AsyncIterator[Number]:
    async for row in rows:
        yield row


@stage("toy.ranked")
async def ranked(rows: AsyncIterable[Number]) -> AsyncIterator[Added[Half]]:
    async for row in rows:
        yield row.add(Half(0.5))


@stage("toy.total")
async def total(rows: AsyncIterable[Number]) -> AsyncIterator[Sum]:
    yield Sum(sum([row.n async for row in rows]))


@stage("toy.pairs")
async def pairs(left: AsyncIterable[Doubled], right: AsyncIterable[Half]) -> AsyncIterator[Pair]:
    async for row in left:
        yield Pair(row.doubled, 0.5)


@stage("toy.sink")
async def sink(rows: AsyncIterable[Row]) -> None: ...


@stage("toy.both")
async def both(left: AsyncIterable[Row], right: AsyncIterable[Row]) -> None: ...


@stage("toy.file")
async def file(
    *,
    path: InputFile,
    more: tuple[InputFile, ...] = (),
    place: Path = Path("here"),
    model: InputPath | None = None,
) -> AsyncIterator[Number]:
    yield Number(0, Text(path.name))


@stage("toy.table")
async def table(*, columns: tuple[str, ...]) -> AsyncIterator[Row]:
    yield Row.of(dict.fromkeys(columns, 0))


@fields_of(table)
def table_fields(upstream: Mapping[str, Any], *, columns: tuple[str, ...]) -> Mapping[str, Any]:
    if not columns:
        raise ValueError("columns: name at least one")
    if "boom" in columns:
        raise KeyError("boom")
    return dict.fromkeys(columns, int)


@stage("toy.strange")
async def strange(n: int, *, opaque: Opaque | None = None) -> None: ...


@hookimpl
def engine_stages() -> Sequence[Any]:
    return [
        *(numbers, double, half, flag, relabel, stamp, maybe, styled, boxed, grammatical),
        *(children, scored, in_order, ranked, total, pairs, sink, both, file, table, strange),
    ]


@hookimpl
def engine_resources() -> Sequence[type]:
    return [Box, Lamp]
