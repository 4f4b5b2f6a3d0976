"""Random pipelines of every kind against a model of lists: the same bytes however they are run.

Each seed makes a pipeline, whose rows the model (no queues, no tasks) works out. Then it is run
without a store, in a memory store, and in a folder where it is interrupted and run again; with one
worker and with sixteen. The sinks' files must not differ, and must hold what the model says.
To look for more: `RANDOM_PIPELINES=100:400 pytest tests/executor/test_random_pipelines.py`.
"""

import json
import os
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest

import engine
from engine import Added, Context, Reject, Row, Summary, stage

pytestmark = pytest.mark.anyio
HERE = Path(__file__)
FIRST, LAST = map(int, os.environ.get("RANDOM_PIPELINES", "0:10").split(":"))
Write = Callable[..., Path]


class Number(Row):
    n: int


class Value(Row):
    value: int


async def pause(seed: int) -> None:
    """Give way a number of times that depends on the row: rows overtake each other."""
    for _ in range(seed * 7 % 5):
        await anyio.lowlevel.checkpoint()


def twice(n: int) -> int:
    if n % 9 == 2:
        raise Reject("two")
    if n % 23 == 5:
        raise ValueError("five")
    return 2 * n


def children(n: int) -> list[int | None]:
    """Return the children of a number, None for one that is rejected."""
    return [None if i == 2 else (3 * n + i) % 100 for i in range(n % 4)]


@stage("r.numbers")
async def numbers(*, count: int, keyed: bool) -> AsyncIterator[Number | Reject]:
    for n in range(count):
        if n % 9 == 4:
            yield Reject("four")
        else:
            yield Number(n).keyed(str(n)) if keyed else Number(n % 10)


@stage("r.cheap")
async def cheap(n: int) -> Value:
    await pause(n)
    return Value(twice(n))


@stage("r.recorded")
async def recorded(n: int, *, ctx: Context) -> Value:
    await pause(n)
    if ctx.attempt == 1 and n % 5 == 1:
        raise OSError("not yet")
    return Value(twice(n))


@stage("r.gate")
async def gate(n: int) -> None:
    await pause(n)
    if n % 4 == 3:
        raise Reject("three")


@stage("r.expand")
async def expand(n: int, *, ctx: Context) -> AsyncIterator[Number | Reject]:
    for child in children(n):
        await pause(n)
        yield Reject("child") if child is None else Number(child)
        if ctx.attempt == 1 and n % 6 == 1:
            raise OSError("not yet")
    if n % 5 == 3:
        raise Reject("midway")
    if n % 11 == 6:
        raise ValueError("at the end")


@stage("r.sizes")
async def sizes(rows: Sequence[Number]) -> list[Value | Reject]:
    await pause(rows[0].n)
    if any(row.n % 13 == 6 for row in rows):
        raise ValueError("six")
    return [Reject("seven") if row.n % 8 == 7 else Value(len(rows)) for row in rows]


@stage("r.backwards")
async def backwards(rows: AsyncIterable[Number]) -> AsyncIterator[Number | Reject]:
    for row in reversed([row async for row in rows]):
        yield row.reject("one") if row.n % 6 == 1 else row


@stage("r.some")
async def some(rows: AsyncIterable[Number]) -> AsyncIterator[Number]:
    async for row in rows:
        yield row
        if row.n % 10 == 7:
            break  # the rest is consumed


@stage("r.placed")
async def placed(rows: AsyncIterable[Number]) -> AsyncIterator[Added[Value]]:
    place = 0
    async for row in rows:
        if row.n % 5:
            yield row.add(Value(place))
        place += 1


@stage("r.pairs")
async def pairs(rows: AsyncIterable[Number]) -> AsyncIterator[Value]:
    held: list[int] = []
    async for row in rows:
        held.append(row.n)
        if len(held) == 2:
            yield Value(sum(held) % 100)
            held.clear()


@stage("r.zipped")
async def zipped(a: AsyncIterable[Number], b: AsyncIterable[Number]) -> AsyncIterator[Value]:
    left = [row.n async for row in a]
    right = [row.n async for row in b]
    for x, y in zip(left, right, strict=False):
        yield Value((x + 2 * y) % 100)


# --- the model --------------------------------------------------------------------------------

Fields = dict[str, int]
Known = tuple[Any, Fields]
"""(id, fields): an id is whatever tells a row from others."""


@dataclass
class Made:
    """A stage of a random pipeline, and the rows that it passes on."""

    key: str
    use: str
    yaml: dict[str, Any]
    rows: list[Known]
    fields: frozenset[str]
    ids: object
    """Equal for stages whose rows have the same ids."""


def halved(rows: list[Known]) -> list[int | None]:
    """Return what `sizes` makes of a batch, None for a row that is rejected or dead."""
    if any(f["n"] % 13 == 6 for _, f in rows):
        if len(rows) == 1:
            return [None]
        middle = len(rows) // 2
        return halved(rows[:middle]) + halved(rows[middle:])
    return [None if f["n"] % 8 == 7 else len(rows) for _, f in rows]


def passed(use: str, rows: list[Known], give: str, yaml: dict[str, Any]) -> list[Known]:
    """Return what a stage with one input passes on."""
    out: list[Known] = []
    match use:
        case "cheap" | "recorded":
            for i, f in rows:
                if f["n"] % 9 != 2 and f["n"] % 23 != 5:
                    out.append((i, {**f, give: 2 * f["n"]}))
        case "gate":
            out = [(i, f) for i, f in rows if f["n"] % 4 != 3]
        case "expand":
            for i, f in rows:
                for ordinal, child in enumerate(children(f["n"])):
                    if child is not None:
                        out.append(((i, give, ordinal), {**f, "n": child}))
        case "sizes":
            for start in range(0, len(rows), yaml["batch"]):
                batch = rows[start : start + yaml["batch"]]
                for (i, f), size in zip(batch, halved(batch), strict=True):
                    if size is not None:
                        out.append((i, {**f, give: size}))
        case "backwards":
            out = [(i, f) for i, f in reversed(rows) if f["n"] % 6 != 1]
        case "some":
            for i, f in rows:
                out.append((i, f))
                if f["n"] % 10 == 7:
                    break
        case "placed":
            out = [(i, {**f, give: p}) for p, (i, f) in enumerate(rows) if f["n"] % 5]
        case "pairs":
            numbers = [f["n"] for _, f in rows]
            sums = [sum(p) % 100 for p in zip(numbers[::2], numbers[1::2], strict=False)]
            out = [((give, at), {"n": n}) for at, n in enumerate(sums)]
    return out


KEEPS_IDS = ("cheap", "recorded", "gate", "sizes", "backwards", "some", "placed")
USES = (*KEEPS_IDS, "expand", "expand", "pairs", "zipped")


class Pipeline:
    """A random pipeline: its YAML, and what its sinks must hold."""

    def __init__(self, seed: int, largest: int = 40) -> None:
        self.rng = rng = random.Random(seed)
        self.made: list[Made] = []
        self.sinks: dict[str, Made] = {}
        for _ in range(rng.choice((1, 1, 2))):
            self._source(largest)
        for _ in range(rng.randint(2, 8)):
            self._stage()
        self._end()

    def _source(self, largest: int) -> None:
        count, keyed = self.rng.randint(0, largest), self.rng.random() < 0.5
        numbers = [n if keyed else n % 10 for n in range(count) if n % 9 != 4]
        key = f"s{len(self.made)}"
        rows: list[Known] = [((key, at), {"n": n}) for at, n in enumerate(numbers)]
        yaml = {"use": "./stages.py:numbers", "with": {"count": count, "keyed": keyed}}
        self.made.append(Made(key, "numbers", yaml, rows, frozenset({"n"}), key))

    def _stage(self) -> None:
        rng, key = self.rng, f"s{len(self.made)}"
        use = rng.choice(USES)
        yaml: dict[str, Any] = {"use": f"./stages.py:{use}"}
        if use == "zipped":
            a, b = rng.choices(self.made, k=2)
            yaml |= {"from": {"a": a.key, "b": b.key}, "give": {"value": "n"}}
            sums = [(x[1]["n"] + 2 * y[1]["n"]) % 100 for x, y in zip(a.rows, b.rows, strict=False)]
            rows = [((key, at), {"n": n}) for at, n in enumerate(sums)]
            self.made.append(Made(key, use, yaml, rows, frozenset({"n"}), key))
            return
        read, fields, ids, yaml["from"] = self._input(key)
        if use in ("cheap", "recorded", "sizes", "placed"):
            yaml["give"] = {"value": key}
            fields |= {key}
        if use == "pairs":
            yaml["give"] = {"value": "n"}
            fields = frozenset({"n"})
        if use == "sizes":
            yaml |= {"batch": rng.randint(1, 6), "retry": 1}
        if use in ("cheap", "gate", "sizes") and rng.random() < 0.4:
            yaml["memo"] = True
        rows = passed(use, read, key, yaml)
        ids = ids if use in KEEPS_IDS else key
        self.made.append(Made(key, use, yaml, rows, fields, ids))

    def _input(self, key: str) -> tuple[list[Known], frozenset[str], object, Any]:
        """Choose what a stage reads: one stage mostly, or several whose rows come together."""
        rng = self.rng
        first = rng.choice(self.made[-4:])
        form = rng.random()
        if form < 0.25 and len(self.made) > 1:
            branches = rng.sample(self.made, k=min(len(self.made), rng.choice((2, 2, 3))))
            fields = frozenset.intersection(*(b.fields for b in branches))
            rows: list[Known] = [
                ((key, b.key, i), {n: v for n, v in f.items() if n in fields})
                for b in branches
                for i, f in b.rows
            ]
            return rows, fields, (key, "concat"), [b.key for b in branches]
        others = [m for m in self.made if m.ids == first.ids and m is not first]
        if form < 0.5 and others:
            branches = [first, *rng.sample(others, k=min(len(others), rng.choice((1, 1, 2))))]
            held = [dict(b.rows) for b in branches]
            rows = []
            for i, _ in first.rows:
                if all(i in h for h in held):
                    united: Fields = {}
                    for h in held:
                        united |= h[i]
                    rows.append((i, united))
            fields = frozenset.union(*(b.fields for b in branches))
            return rows, fields, first.ids, {"all": [b.key for b in branches]}
        return first.rows, first.fields, first.ids, first.key

    def _end(self) -> None:
        """Let sinks write what nothing reads, and now and then what something reads."""
        used = {str(m.yaml.get("from")) for m in self.made}
        ends = [m for m in self.made if not any(f"'{m.key}'" in u or m.key == u for u in used)]
        if self.rng.random() < 0.3:
            ends.append(self.rng.choice(self.made))
        for at, made in enumerate(ends):
            self.sinks[f"out{at}.jsonl"] = made

    def yaml(self, concurrency: int) -> str:
        lines = ["stages:"]
        for made in self.made:
            model = made.yaml
            if made.use not in ("numbers", "backwards", "some", "placed", "pairs", "zipped"):
                model = model | {"concurrency": concurrency}
            lines.append(f"  {made.key}: {json.dumps(model)}")
        for at, (name, made) in enumerate(self.sinks.items()):
            columns = ["row_id", *sorted(made.fields)]
            sink = {
                "use": "dataset.write",
                "from": made.key,
                "with": {"path": name, "fields": columns},
            }
            lines.append(f"  sink{at}: {json.dumps(sink)}")
        return "\n".join(lines) + "\n"

    def check(self, path: Path, summary: Summary) -> dict[str, bytes]:
        """Hold a run's files and counts against the model; return the files."""
        for made in self.made:
            counted = summary.stages[made.key].out
            assert counted == len(made.rows), f"{made.key} ({made.use}) passed {counted} rows on"
        files = {name: path.with_name(name).read_bytes() for name in self.sinks}
        for name, made in self.sinks.items():
            found = [json.loads(line) for line in files[name].splitlines()]
            ids = [row.pop("row_id") for row in found]
            assert found == [f for _, f in made.rows], f"{name}, which reads {made.key}"
            assert len(set(ids)) == len(ids)
            path.with_name(name).unlink()
        return files


async def interrupted(path: Path, at: int) -> bool:
    """Run in the folder beside the pipeline until a row has finished; whether it came so far."""
    async with engine.open(path) as run:
        async for _ in run:
            at -= 1
            if at <= 0:
                return True
    return False


@pytest.mark.parametrize("seed", range(FIRST, LAST))
async def test_a_random_pipeline_gives_the_same_bytes_however_it_is_run(
    pipeline: Write, seed: int
) -> None:
    made = Pipeline(seed)
    alone = pipeline(made.yaml(1), stages=HERE)
    expected = made.check(alone, await engine.run(alone, store=None))
    many = pipeline(made.yaml(16), stages=HERE, name="many.yaml")
    assert made.check(many, await engine.run(many, store=":memory:")) == expected
    rows = sum(len(m.rows) for m in made.sinks.values())
    for _ in range(3):
        path = made.rng.choice((alone, many))
        if not await interrupted(path, made.rng.randint(1, rows + 1)):
            break
    for path in (many, alone):
        assert made.check(path, await engine.run(path)) == expected
