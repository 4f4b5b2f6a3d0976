"""What must hold after a run: each figure beside what the server's counts foretell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from engine_pink_elephant import mentions

from tests.pink.scale import lists, names
from tests.pink.scale.dialogues import digest_of
from tests.pink.scale.driver import Measured, Server, Site

__all__ = ["Check", "checked"]

ATTEMPTS = 3
"""Of a revision, in the shipped pipeline."""
CALLS, UNCACHED = 2.75, 300
INDEX = 3.0
"""KB that the index of near-duplicates may take for a row."""
SLACK = 48 * 1024
"""KB by which the memory of a process may go up and down."""
STEADY = 15_000
"""Dialogues before which the memory of a process says nothing."""
GROUP = 1.0
"""Seconds before a kill in which a reply may not have become durable."""
FILES = ("preference", "sft", "kto")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table; `ok` is None for a figure that is reported only."""

    name: str
    measured: str
    target: str
    ok: bool | None


def checked(site: Site, server: Server, measured: Measured) -> list[Check]:
    """Return all checks of a run that has ended."""
    told, stats = site.inspected(), server.told("stats")
    files = Files(site.out, set(server.told("facts/prefix")))
    return [
        *_ended(told, measured),
        *_reasons(told, stats, files),
        *_files(told, files),
        *_calls(stats, files.rows, measured),
        *_memory(measured, files.rows),
        *_figures(measured, files.rows),
    ]


def _equal(name: str, measured: object, target: object) -> Check:
    return Check(name, str(measured), str(target), measured == target)


def _ended(told: Mapping[str, Any], measured: Measured) -> Iterator[Check]:
    codes = [life.code for life in measured.lives]
    yield _equal("exit codes", codes, [-9] * (len(codes) - 1) + [0])
    yield _equal("dead rows", told["dead"], 0)
    open_rows = 0
    for key, stage in told["stages"].items():
        lost = stage["rejected"] + stage["dead"]
        passed = {"expand": "expanded", "map": "out"}.get(stage["kind"])
        gone = stage[passed] if passed else stage["kept"] + stage["consumed"]
        if key != "topics":  # a source receives nothing
            open_rows += abs(stage["received"] - gone - lost)
    yield _equal("rows whose fate is open", open_rows, 0)


# --- reasons --------------------------------------------------------------------------------------


def _reasons(told: Mapping[str, Any], stats: Mapping[str, Any], files: Files) -> Iterator[Check]:
    found: dict[str, dict[str, int]] = {}
    for line in told["reasons"]:
        found.setdefault(line["stage"], {})[line["reason"]] = line["rows"]
    planted = foretold(stats, files)
    for stage in {**planted, **found}:
        have, want = found.get(stage, {}), planted.get(stage, {})
        if have == want:
            yield _equal(f"rejected by {stage}, of {len(want)} reasons", *[sum(want.values())] * 2)
        for reason in sorted(have | want):
            if have.get(reason, 0) != want.get(reason, 0):
                yield _equal(f"{stage}: {reason}", have.get(reason, 0), want.get(reason, 0))


def foretold(stats: Mapping[str, Any], files: Files) -> dict[str, dict[str, int]]:
    """Return how many rows each stage must reject, by reason."""
    planted: dict[str, Counter[str]] = {}

    def add(stage: str, reason: str, count: int = 1) -> None:
        if count:
            planted.setdefault(stage, Counter())[reason] += count

    for name, count in stats["counts"].items():
        kind, *rest = name.split("/")
        if kind in ("topics", "pairs", "dialogue"):
            add(kind, rest[0], count)
        elif kind == "revision" and rest[0] == str(ATTEMPTS):
            add("revision", rest[1], count)
        elif name.startswith("near:"):
            add("dedup", "near_duplicate", count - 1)
        elif name.startswith("same:"):
            add("dedup", "duplicate", count - 1)
    pairs = set()
    for name, count in stats["facts"].items():
        if name.startswith("plans/"):
            add("plans", name.removeprefix("plans/"), count)
        elif name.startswith("copies:"):
            add("plans", "plan_repeated", count - 1)
        elif name.startswith("pair:"):
            pairs.add(tuple(map(int, name.split(":")[1:])))
    for of, place in pairs:
        before = of - 1, place
        if before not in pairs or lists.turned(*before) or lists.shares(*before):
            continue  # what it would repeat or share is not there under its own names
        if lists.turned(of, place):
            add("unique", "pair_repeated")
        elif lists.shares(of, place):
            parts = [files.parts.get(names.topic(number)) for number in (of, of - 1)]
            if parts[0] != parts[1]:
                add("split", "crossing_pair")
    return {stage: dict(reasons) for stage, reasons in planted.items()}


# --- files ----------------------------------------------------------------------------------------


class Files:
    """What is in the files, read once, a line at a time; `written` are the server's dialogues."""

    def __init__(self, folder: Path, written: set[int]) -> None:
        self.rows = self.other_prefix = self.unknown = self.named = self.undesired = 0
        self.folder = folder
        self.parts: dict[str, str] = {}
        """Topic -> its part."""
        self.names: dict[str, set[str]] = {}
        """Part -> the names of all its pairs' terms."""
        seen: set[tuple[str, str]] = set()
        with (folder / "preference.jsonl").open() as one, (folder / "sft.jsonl").open() as two:
            for line, other in zip(one, two, strict=True):
                row, same = json.loads(line), json.loads(other)
                self.rows += 1
                prefix = row["prompt"][1:]
                self.other_prefix += prefix != same["messages"][1:-1]
                self.other_prefix += row["chosen"] != same["messages"][-1:]
                said = [turn["content"] for turn in (*prefix, *row["rejected"])]
                self.unknown += digest_of(said) not in written
                self._look(row)
                if (row["desired"], row["pink"]) not in seen:
                    seen.add((row["desired"], row["pink"]))
                    self._add(row)

    def _look(self, row: Mapping[str, Any]) -> None:
        pair, text = names.pair_of(row["pink"]), row["chosen"][0]["content"]
        aliases = pair.aliases_pink if pair else ()
        self.named += mentions.names(text, row["pink"], aliases) or any(
            name.lower() in text.lower() for name in (row["pink"], *aliases)
        )
        self.undesired += row["desired"] not in text

    def _add(self, row: Mapping[str, Any]) -> None:
        self.parts[row["topic"]] = row["split"]
        some = self.names.setdefault(row["split"], set())
        for term in (row["desired"], row["pink"]):
            pair = names.pair_of(term)
            some.add(term)
            if pair:
                some.update(pair.aliases_desired if term == pair.desired else pair.aliases_pink)

    def lines(self, name: str) -> tuple[int, int]:
        """Return how many rows a file has, as JSON Lines and as Parquet."""
        import pyarrow.parquet as parquet

        with (self.folder / f"{name}.jsonl").open("rb") as file:
            lines = sum(1 for _ in file)
        return lines, parquet.read_metadata(self.folder / f"{name}.parquet").num_rows


def _files(told: Mapping[str, Any], files: Files) -> Iterator[Check]:
    stages = told["stages"]
    for name in FILES:
        out = stages[name]["out"]
        yield _equal(f"rows of {name}: jsonl, parquet", files.lines(name), (out, out))
    yield _equal("rows finished", told["finished"], 5 * files.rows)  # kto has two, the page one
    yield _equal("rows that dedup passed on", stages["dedup"]["out"], files.rows)
    yield _equal("prefixes that differ between files", files.other_prefix, 0)
    yield _equal("prefixes that the server did not write", files.unknown, 0)
    yield _equal("chosen turns that name the pink term", files.named, 0)
    yield _equal("chosen turns without the desired term", files.undesired, 0)
    parts = sorted(files.names)
    yield _equal("parts", parts, ["test", "train", "validation"])
    shared = sum(len(files.names[a] & files.names[b]) for a, b in combinations(parts, 2))
    yield _equal("names in two parts", shared, 0)


# --- figures --------------------------------------------------------------------------------------


def _calls(stats: Mapping[str, Any], rows: int, measured: Measured) -> Iterator[Check]:
    kinds = stats["kinds"].values()
    calls = sum(kind["calls"] for kind in kinds) / rows
    yield Check("calls per accepted row", f"{calls:.2f}", f"<= {CALLS}", calls <= CALLS)
    for name, most, what in (
        ("cached", UNCACHED, "generated blocks cached"),
        ("cached_prompts", None, "prompts' blocks alone cached"),
    ):
        new = sum(kind["prompt"] - kind[name] for kind in kinds) / rows
        ok = None if most is None else new <= most
        target = "reported" if most is None else f"<= {most}"
        yield Check(f"uncached prompt tokens per row, {what}", f"{new:.0f}", target, ok)
    kills = [life.ended for life in measured.lives[:-1]]
    repeated = stats["repeated"]
    finished = sum(not any(k - GROUP <= at <= k for k in kills) for at in repeated)
    yield Check("calls repeated after kills", str(len(repeated)), "reported", None)
    yield _equal("of these, answered long before the kill", finished, 0)


def _memory(measured: Measured, rows: int) -> Iterator[Check]:
    longest = max(measured.lives, key=lambda life: life.last - life.first)
    if longest.last < STEADY:  # the first rows fill what stays as it is
        return
    (first, least), (last, most) = longest.memory[1], longest.memory[-1]
    kept = (last - first) * rows / max(1, measured.lives[-1].last)
    grown = (most - least) / kept
    target = f"<= {INDEX} KB a row, and {SLACK >> 10} MB"
    yield Check(
        f"memory at {first:,} and {last:,} dialogues",
        f"{least >> 10} and {most >> 10} MB, {grown:.2f} KB a row",
        target,
        most - least <= INDEX * kept + SLACK,
    )


def _figures(measured: Measured, rows: int) -> Iterator[Check]:
    lives = measured.lives
    cpu = sum(life.cpu for life in lives)
    for name, said in {
        "accepted rows": f"{rows:,}",
        "peak memory": f"{max(life.peak for life in lives) >> 10} MB",
        "wall time": f"{measured.seconds / 60:.1f} min: "
        + ", ".join(f"{life.seconds:.0f} s" for life in lives),
        "CPU of the run": f"{cpu / 60:.1f} min, {1000 * cpu / rows:.1f} ms a row",
        "CPU of the server": f"{measured.server_cpu / 60:.1f} min",
        "store": f"{measured.store / 1e9:.2f} GB, {measured.store / rows / 1e3:.1f} KB a row",
        "outputs": f"{measured.outputs / 1e9:.2f} GB, {measured.outputs / rows / 1e3:.1f} KB a row",
    }.items():
        yield Check(name, said, "reported", None)
