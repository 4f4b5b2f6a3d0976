"""The split: which topics are for training, and which are kept to look at what was learnt."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import Annotated

import anyio.to_thread
from pydantic import Field

from engine import Context, Estimate, Reject, Text, plan_of, stage
from engine.rows import Added
from engine_pink_elephant import naming
from engine_pink_elephant.rows import Pair, Split, SplitName

__all__ = ["TopicPair", "split"]

Share = Annotated[float, Field(ge=0, lt=1)]
_HELD: tuple[SplitName, ...] = ("test", "validation")
"""The parts that lose no pair for the sake of train, in the order in which they choose."""
_JOINED = " / "


class TopicPair(Pair):
    """A pair, and the topic that it belongs to."""

    topic: Text


@stage("pink.split")
async def split(
    pairs: AsyncIterable[TopicPair],
    *,
    ctx: Context,
    validation: Share = 0.05,
    test: Share = 0.05,
) -> AsyncIterator[Added[Split] | Reject]:
    """Tell train, validation and test apart, by whole topics, drawn by the pipeline's seed.

    Topics that nearly repeat each other stay together. No name is shared: a pair that bears, names
    or is named by a term or alias of a pair of another part is rejected as `crossing_pair`, from
    train rather than from validation, and from there rather than from test. Where there are fewer
    topics than parts, as in a run with `--limit`, the log says which part gets none: validation,
    then the test.

    - `validation`: the share of the pairs that is for validation, as near as whole topics allow.
    - `test`: the share of the pairs that is for the test.
    """
    rows = [row async for row in pairs]
    wanted = _wanted(validation, test)
    if not wanted:
        for row in rows:
            yield row.add(Split(split="train"))
        return
    parts = await anyio.to_thread.run_sync(_parted, rows, wanted, ctx.rng)
    for name in (name for name in wanted if name not in parts):
        ctx.log.warning(
            "pink.split: the %d pairs have too few topics: none is for %s", len(rows), name
        )
    crossing = await anyio.to_thread.run_sync(_crossing, rows, parts)
    kept = {name: [at for at in parts[name] if at not in crossing] for name in parts}
    if left := await anyio.to_thread.run_sync(_crossing, rows, kept):
        raise RuntimeError(f"{len(left)} pairs of two parts share a name after the split")
    part_of = {at: name for name in kept for at in kept[name]}
    for at, row in enumerate(rows):
        if at in crossing:
            yield row.reject("crossing_pair", span=crossing[at])
        else:
            yield row.add(Split(split=part_of[at]))


def _wanted(validation: float, test: float) -> dict[SplitName, float]:
    """Return the shares that are not 0. Raises ValueError where they leave nothing for train."""
    if validation + test >= 1:
        raise ValueError(
            f"test {test:g} and validation {validation:g} leave nothing for train: "
            "together they must be below 1"
        )
    shares: dict[SplitName, float] = {"test": test, "validation": validation}
    return {name: share for name, share in shares.items() if share > 0}


Parts = Mapping[SplitName, Sequence[int]]
"""The numbers of the rows in each part."""


def _parted(
    rows: Sequence[TopicPair], shares: Mapping[SplitName, float], rng: random.Random
) -> Parts:
    """Return the parts, of whole clusters of topics, each as near to its share as they allow."""
    clusters = _clusters(rows)
    rng.shuffle(clusters)
    found: dict[SplitName, list[int]] = {}
    held = list(shares.items())[: max(len(clusters) - 1, 0)]
    for left, (name, share) in zip(range(len(held), 0, -1), held, strict=True):
        taken = _nearest([len(c) for c in clusters], share * len(rows), len(clusters) - left)
        found[name] = sorted(at for number in taken for at in clusters[number])
        clusters = [c for number, c in enumerate(clusters) if number not in taken]
    found["train"] = sorted(at for cluster in clusters for at in cluster)
    return found


def _clusters(rows: Sequence[TopicPair]) -> list[list[int]]:
    """Return the numbers of the rows of each cluster of topics, whatever the rows' order."""
    of_topic: dict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        of_topic[str(row.topic)].append(at)
    names = sorted(of_topic)
    topics, root = naming.Topics(), list(range(len(names)))

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = number = root[root[number]]
        return number

    for number, name in enumerate(names):
        for near in topics.near(name):
            root[find(number)] = find(near)
        topics.add(name)
    clusters: dict[int, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        clusters[find(number)] += of_topic[name]
    return list(clusters.values())


def _nearest(sizes: Sequence[int], target: float, most: int) -> set[int]:
    """Return the numbers of some sizes, one at least and `most` at most, whose sum is nearest.

    All sums are tried at once, as the bits of an int; only where the nearest needs too many sizes,
    one after the other.
    """

    def nearest(totals: Iterable[int]) -> int:
        return min((total for total in totals if total), key=lambda total: abs(total - target))

    sums = [1]
    for size in sizes:
        sums.append(sums[-1] | sums[-1] << size)
    best = nearest(at for at in range(sums[-1].bit_length()) if sums[-1] >> at & 1)
    taken = set()
    for number in reversed(range(len(sizes))):
        if not sums[number] >> best & 1:
            taken.add(number)
            best -= sizes[number]
    if len(taken) <= most:
        return taken
    fewest: dict[int, set[int]] = {0: set()}
    for number, size in enumerate(sizes):
        for total, some in [*fewest.items()]:
            if len(some) < min(most, len(fewest.get(total + size, sizes))):
                fewest[total + size] = some | {number}
    return fewest[nearest(fewest)]


def _crossing(rows: Sequence[TopicPair], parts: Parts) -> dict[int, str]:
    """Return the rows to drop, each with the name that it shares with a part that stays."""
    crossing: dict[int, str] = {}
    for held in _HELD:
        if held in parts:
            safe = {held} if held == "test" else set(_HELD)
            stay = [at for at in parts[held] if at not in crossing]
            rest = [
                at
                for name, inside in parts.items()
                if name not in safe
                for at in inside
                if at not in crossing
            ]
            crossing |= _shared(rows, stay, rest)
    return crossing


def _shared(rows: Sequence[TopicPair], stay: Iterable[int], rest: Sequence[int]) -> dict[int, str]:
    """Return those of `rest` that bear or name what one of `stay` bears, or are named by it.

    Names are compared as the registry does; what inflections remain, the detector finds.
    """
    keys: dict[str, str] = {}
    within: dict[str, str] = {}
    stay = list(stay)
    for at in stay:
        for name in _names(rows[at]):
            keys[naming.canonical(name)] = name
            within |= dict.fromkeys(naming.runs(name), name)
    shared: dict[int, str] = {}
    for at in rest:
        for name in _names(rows[at]):
            if found := within.get(naming.canonical(name)) or next(
                (keys[run] for run in naming.runs(name) if run in keys), None
            ):
                shared[at] = f"{name} - {found}"
    texts = {at: _JOINED.join(_names(rows[at])) for at in rest if at not in shared}
    starts = naming.Starts(texts.items())
    for row in (rows[at] for at in stay):
        for names, is_named in (
            ((row.desired, *row.aliases_desired), row.names_desired),
            ((row.pink, *row.aliases_pink), row.names_pink),
        ):
            near = sorted({at for name in names for at in starts(name)} - shared.keys())
            if near and is_named(_JOINED.join(texts[at] for at in near)):
                shared |= {at: f"{texts[at]} - {names[0]}" for at in near if is_named(texts[at])}
    return shared


def _names(of: Pair) -> tuple[str, ...]:
    names = (of.desired, *of.aliases_desired, of.pink, *of.aliases_pink)
    return tuple(map(str, names))


@plan_of(split)
def split_estimate(rows: int, *, validation: float, test: float) -> Estimate:
    """Where there are parts, one pair in thirty is assumed to cross, as with brands in two topics.

    Measured on 10,000 pairs of made-up brands, of which 5% stand in two categories each.
    """
    return Estimate(rows - rows // 30 if _wanted(validation, test) else rows)
