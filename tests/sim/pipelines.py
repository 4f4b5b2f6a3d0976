"""Random pipelines for the simulation, and the list model that works out what must come of them.

It extends the generator of tests/executor with chats, limits, timeouts and edits. Two pipelines of
one seed have the same structure, whatever the edit; so what an edit changes can be worked out.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.executor.test_random_pipelines import KEEPS_IDS, Known, Made, Pipeline, children, passed
from tests.sim import stages
from tests.sim.server import BAD, is_poison, value_of

CHATS = ("ask", "talk", "slow", "inquires", "rates", "judge")
STREAMS = ("backwards", "some", "placed", "pairs", "zipped", "judge")
BATCHES = ("scores", "rates")
SPEAKS = ("ask", "talk", "slow", "rates", "judge")
SALTED = ("cheap", "steps", "naps", "ask", "splits", "scores")
USES = (
    *("ask", "ask", "ask", "talk", "slow", "rates", "judge", "inquires"),
    *("steps", "cheap", "naps", "gate", "splits", "scores"),
    *("backwards", "some", "placed", "pairs", "zipped"),
)
KEEPS = {*KEEPS_IDS, "steps", "naps", "ask", "talk", "slow", "rates", "scores", "judge"}


@dataclass(frozen=True)
class Edit:
    """One change of a pipeline: at a stage, or of the whole."""

    kind: Literal["none", "salt", "idle", "settings", "insert", "identity", "limit"] = "none"
    stage: str = ""
    limit: int | None = None


@dataclass
class Stage(Made):
    """A stage, what it reads, and what becomes of that."""

    read: list[Known] = field(default_factory=list)
    rejected: int = 0
    dead: int = 0
    rejected_children: int = 0
    second: list[Known] = field(default_factory=list)
    """The other input of a join."""

    @property
    def configuration(self) -> str:
        """Return what stands in its fingerprint, the resources' identities aside."""
        config = {k: v for k, v in self.yaml.get("with", {}).items() if k != "most"}
        return json.dumps([self.use, config], sort_keys=True)


class SimPipeline(Pipeline):
    """A random pipeline: its YAML, and what must come of it."""

    made: list[Stage]  # type: ignore[assignment]

    def __init__(self, seed: int, edit: Edit = Edit(), largest: int = 14) -> None:
        self.seed, self.edit = seed, edit
        self.settings = random.Random(f"{seed}/settings/{edit.kind == 'settings'}")
        super().__init__(seed, largest)

    # --- making it ------------------------------------------------------------------------------

    def _source(self, largest: int) -> None:
        rng, key = self.rng, f"s{len(self.made)}"
        keyed = rng.random() < 0.5
        values = rng.sample(range(40), k=0 if rng.random() < 0.1 else rng.randint(3, largest))
        if not keyed:
            values = [value % 17 for value in values]
        if self.edit == Edit("insert", key):
            values.insert(len(values) // 2, 45 if keyed else 16)
        rows: list[Known] = []
        seen: Counter[int] = Counter()
        rejected = 0
        for value in values:
            if len(rows) == self.edit.limit:
                break
            if value % 9 == 4:
                rejected += 1
            else:
                rows.append(((key, value, seen[value]), {"n": value}))
                seen[value] += 1
        yaml = {"use": "sim.rows", "with": {"values": values, "keyed": keyed}}
        made = Stage(key, "rows", yaml, rows, frozenset({"n"}), key, rejected_children=rejected)
        self.made.append(made)

    def _stage(self) -> None:
        rng, key = self.rng, f"s{len(self.made)}"
        use = rng.choice(USES)
        config: dict[str, Any] = {}
        yaml: dict[str, Any] = {"use": f"sim.{use}", "with": config}
        made = Stage(key, use, yaml, [], frozenset({"n"}), key)
        if use == "zipped":
            a, b = rng.choices(self.made, k=2)
            yaml |= {"from": {"a": a.key, "b": b.key}, "give": {"value": "n"}}
            made.read, made.second = a.rows, b.rows
        else:
            read, fields, ids, yaml["from"] = self._input(key)
            made.read = read
            made.rejected = self._missing(yaml["from"])
            if use in KEEPS:
                made.fields, made.ids = fields, ids
            elif use in ("splits", "inquires"):
                made.fields = fields
            if use in SPEAKS:
                yaml["give"] = {"value": key, "text": f"{key}t"}
                made.fields |= {key, f"{key}t"}
            elif use in ("cheap", "steps", "naps", "scores", "placed"):
                yaml["give"] = {"value": key}
                made.fields |= {key}
            elif use == "pairs":
                yaml["give"] = {"value": "n"}
        self._configure(made, config)
        self._model(made)
        self.made.append(made)

    def _configure(self, made: Stage, config: dict[str, Any]) -> None:
        use, yaml, rng, settings = made.use, made.yaml, self.rng, self.settings
        concurrency = settings.choice((1, 2, 5))
        samples, memo = rng.choice((1, 1, 2)), rng.random() < 0.4
        if use in CHATS:
            config["llm"] = "llm"
        if use == "ask":
            config["samples"] = samples
        if use not in STREAMS:
            yaml["concurrency"] = concurrency
        if use not in (*STREAMS, *BATCHES, "cheap"):
            config["most"] = concurrency
        if use in BATCHES:
            yaml |= {"retry": 1, "batch": settings.randint(1, 4)}
        if use in ("slow", "naps"):
            yaml["timeout"] = settings.choice((40, 60))
        if use == "naps":
            yaml["limit"] = "gpu"
        if use == "cheap" and memo:
            yaml["memo"] = True
        if self.edit.stage == made.key and self.edit.kind in ("salt", "idle"):
            config[self.edit.kind] = 1

    def _missing(self, source: Any) -> int:
        """Return how many rows a union rejects."""
        if not isinstance(source, dict):
            return 0
        ids = [{i for i, _ in m.rows} for m in self.made if m.key in source["all"]]
        return len(set.union(*ids)) - len(set.intersection(*ids))

    # --- working it out -------------------------------------------------------------------------

    def _model(self, made: Stage) -> None:
        key, use = made.key, made.use
        salt = made.yaml["with"].get("salt", 0)
        if use in ("backwards", "some", "placed", "pairs", "zipped"):
            if use == "zipped":
                pairs = zip(made.read, made.second, strict=False)
                sums = [(x[1]["n"] + 2 * y[1]["n"]) % 100 for x, y in pairs]
                made.rows = [((key, at), {"n": n}) for at, n in enumerate(sums)]
            else:
                made.rows = passed(use, made.read, key, made.yaml)
            if use == "backwards":
                made.rejected += sum(f["n"] % 6 == 1 for _, f in made.read)
            return
        if use in ("splits", "inquires"):
            for i, f in made.read:
                self._expand(made, i, f, salt)
            return
        for i, f in made.read:
            fate = FATES[use](f["n"], made.yaml["with"])
            if fate == "reject":
                made.rejected += 1
            elif fate == "dead":
                made.dead += 1
            elif fate is None:
                made.rows.append((i, f))
            else:
                made.rows.append((i, {**f, key: fate}))

    def _expand(self, made: Stage, i: object, f: dict[str, int], salt: int) -> None:
        n = f["n"]
        if made.use == "inquires":
            found: list[int | None] = [(value_of(n, 0) + at) % 50 for at in range(n % 3)]
        else:
            found = [None if c is None else stages.salted(c, n, salt) for c in children(n)]
            made.rejected += n % 5 == 3
            made.dead += n % 5 != 3 and n % 11 == 6
        for ordinal, child in enumerate(found):
            if child is None:
                made.rejected_children += 1
            else:
                made.rows.append(((i, made.key, ordinal), {**f, "n": child}))

    # --- what it says ---------------------------------------------------------------------------

    def text(self) -> str:
        """Return the pipeline file."""
        lines = [
            "name: sim",
            f"limits: {{gpu: {stages.GPUS}}}",
            "resources: {llm: {use: sim.chat}}",
        ]
        lines += ["stages:", *(f"  {m.key}: {json.dumps(m.yaml)}" for m in self.made)]
        for at, (name, made) in enumerate(self.sinks.items()):
            sink = {"use": "sim.collect", "from": made.key, "with": {"place": name}}
            lines.append(f"  sink{at}: {json.dumps(sink)}")
        return "\n".join(lines) + "\n"

    @property
    def identity(self) -> str:
        """The model's name."""
        return "another" if self.edit.kind == "identity" else "sim"

    def paid(self) -> Counter[tuple[str, Any, str]]:
        """Return what must be paid for: (stage, row, what is asked of it) -> calls."""
        paid: Counter[tuple[str, Any, str]] = Counter()
        for made in self.made:
            if made.use not in CHATS:
                continue
            for i, f in made.read:
                n = f["n"]
                calls = 1
                match made.use:
                    case "ask":
                        drawn, _ = drawing(n, made.yaml["with"]["samples"])
                        calls = 0 if is_poison(n) else len(drawn)
                    case "talk":
                        calls = 2
                    case "judge":
                        calls = int(n % 6 != 5)
                    case "inquires":
                        calls = 0
                        for child in range(n % 3):
                            paid[made.key, i, f"{n}|{child}@{self.identity}"] = 1
                paid[made.key, i, f"{n}@{self.identity}"] = calls
        return +paid


def drawing(n: int, samples: int, attempts: int = 3) -> tuple[set[int], tuple[int, ...]]:
    """Return the samples that are drawn, and those of the attempt that is content with all."""
    refused: set[int] = set()
    drawn: set[int] = set()
    for _ in range(attempts):
        chosen = [s for s in range(samples + len(refused)) if s not in refused][:samples]
        drawn |= set(chosen)
        bad = [s for s in chosen if s in BAD[n % 5]]
        if not bad:
            return drawn, tuple(chosen)
        refused.add(bad[0])
    return drawn, ()


def _twice(n: int, config: dict[str, Any]) -> Any:
    if n % 9 == 2:
        return "reject"
    return "dead" if n % 23 == 5 else stages.salted(2 * n, n, config.get("salt", 0))


def _ask(n: int, config: dict[str, Any]) -> Any:
    if is_poison(n):
        return "dead"
    _, good = drawing(n, config["samples"])
    if not good:
        return "reject"
    return stages.salted(sum(value_of(n, s) for s in good), n, config.get("salt", 0))


def _scores(n: int, config: dict[str, Any]) -> Any:
    if n % 13 == 6:
        return "dead"
    return "reject" if n % 8 == 7 else stages.salted(n + 1, n, config.get("salt", 0))


FATES: dict[str, Callable[[int, dict[str, Any]], Any]] = {
    "cheap": _twice,
    "steps": _twice,
    "naps": lambda n, c: "dead" if n % 13 == 11 else stages.salted(n, n, c.get("salt", 0)),
    "gate": lambda n, _: "reject" if n % 4 == 3 else None,
    "ask": _ask,
    "talk": lambda n, _: 2 * value_of(n, 0),
    "slow": lambda n, _: value_of(n, 0),
    "scores": _scores,
    "rates": lambda n, _: "dead" if n % 13 == 6 else value_of(n, 0),
    "judge": lambda n, _: "reject" if n % 6 == 5 else value_of(n, 0),
}
"""What becomes of a row in a stage: a value, `reject`, `dead`, or None where nothing is added."""
