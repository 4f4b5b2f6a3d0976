"""What the card counts over all rows, in memory that does not grow with them."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from engine import Row, Text
from engine.rows import Dialogue
from engine_pink_elephant import mentions, naming, prose

__all__ = ["AUDIT", "Carded", "Census", "Spread", "Writer"]

T = TypeVar("T")

ROWS = 400
"""Rows whose texts are looked at; and at most so many"""
PAIRS = 40
"""pairs whose plans are, of each at most"""
PLANS = 50
EXAMPLE = 600
"""Characters of a turn in an example."""
NAMES = 8
"""Shared names that are shown."""
AUDIT = ("natural_shift", "useful_answer", "natural_return", "judged_mention")
_TEXTS = ("plan", "critique", "revision")


class Carded(Row):
    """What is read of a row, as far as it is there."""

    dialogue: Dialogue
    revised: Dialogue = ()
    topic: Text = Text()
    desired: Text = Text()
    pink: Text = Text()
    aliases_desired: tuple[Text, ...] = ()
    aliases_pink: tuple[Text, ...] = ()
    case_sensitive: bool = False
    kind: str | None = None
    pair_origin: str | None = None
    split: str | None = None
    plan: Text = Text()
    critique: Text = Text()
    revision: Text = Text()
    principle: Text = Text()
    origin: str | None = None
    continued: bool | None = None
    verdict: str | None = None
    natural_shift: bool | None = None
    useful_answer: bool | None = None
    natural_return: bool | None = None
    judged_mention: bool | None = None


class Writer(NamedTuple):
    """A model that wrote what is in the rows."""

    stage: str
    name: str
    identity: str


class Spread:
    """Whole numbers, counted: their mean and quantiles."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, value: int) -> None:
        """Count a number."""
        self._counts[value] += 1

    @property
    def mean(self) -> float:
        """The mean; 0 of none."""
        total = self._counts.total()
        return sum(n * count for n, count in self._counts.items()) / total if total else 0.0

    def quantile(self, share: float) -> int:
        """Return the least number that so large a share of all does not exceed; 0 of none."""
        left = share * self._counts.total()
        for value in sorted(self._counts):
            left -= self._counts[value]
            if left <= 0:
                return value
        return 0


class _Drawn(Generic[T]):
    """The items with the least lots, which do not depend on the order of arrival."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[int, str]] = []
        self.items: dict[str, T] = {}

    def admits(self, seed: int, name: str) -> bool:
        """Return whether an item belongs to those drawn so far; forget one if need be.

        What was turned away once is always turned away: the highest lot only falls.
        """
        if name in self.items:
            return True
        digest = hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogatepass"), digest_size=8)
        lot = -int.from_bytes(digest.digest(), "big")
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, (lot, name))
            return True
        _, gone = heapq.heappushpop(self._heap, (lot, name))
        self.items.pop(gone, None)
        return gone != name


class Census:
    """The counts of all rows, and the texts of a few that are drawn by the seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.rows = 0
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        """Field -> its values in the rows -> how many have it."""
        self.audited: dict[str, Counter[bool]] = defaultdict(Counter)
        """Question -> how often the judge says so; `agreement`: it finds what the names find."""
        self.lengths: dict[str, Spread] = defaultdict(Spread)
        self.kept = 0
        """Characters of models that are in the rows."""
        self.writers: dict[Writer, None] = {}
        self.example: tuple[str, ...] = ()
        """The terms, the last question, the original and the revised answer of a row."""
        self._pairs: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self._topics: dict[str, set[str]] = defaultdict(set)
        self._names: dict[str, dict[str, str]] = defaultdict(dict)
        self._dialogues: _Drawn[str] = _Drawn(ROWS)
        self._plans: _Drawn[list[str]] = _Drawn(PAIRS)

    def add(self, row: Carded) -> None:
        """Count a row."""
        self.rows += 1
        for name in ("kind", "pair_origin", "origin", "verdict", "continued", "split"):
            if (value := row[name]) is not None:
                self.counts[name][_value(value)] += 1
        self._part(row)
        self._audit(row)
        said = "\n".join(str(turn.content) for turn in row.dialogue)
        self._measure(row, said)
        name = row.row_id or str(self.rows)
        if self._dialogues.admits(self._seed, name):
            self._dialogues.items[name] = said
            self._wrote(row)
            self._edit(row)
        if row.plan:
            pair = f"{row.desired}\n{row.pink}"
            if self._plans.admits(self._seed, pair):
                plans = self._plans.items.setdefault(pair, [])
                if len(plans) < PLANS and str(row.plan) not in plans:
                    plans.append(str(row.plan))

    @property
    def dialogues(self) -> Sequence[str]:
        """The dialogues that were drawn."""
        return [*self._dialogues.items.values()]

    @property
    def plans(self) -> Sequence[Sequence[str]]:
        """The plans of each pair that was drawn, each plan once."""
        return [plans for plans in self._plans.items.values() if len(plans) > 1]

    @property
    def parts(self) -> Mapping[str, tuple[int, int, int]]:
        """Part ("" where rows have none) -> how many topics, pairs and rows it has."""
        return {
            part: (len(self._topics[part]), len(pairs), self.counts["split"][part] or self.rows)
            for part, pairs in sorted(self._pairs.items(), key=lambda item: _place(item[0]))
        }

    @property
    def shared(self) -> tuple[int, Sequence[str]]:
        """How many names two parts share, and the first few of them."""
        seen: dict[str, str] = {}
        twice: dict[str, str] = {}
        for names in self._names.values():
            twice |= {key: name for key, name in names.items() if key in seen}
            seen |= names
        return len(twice), sorted(twice.values())[:NAMES]

    def _part(self, row: Carded) -> None:
        part = row.split or ""
        pair = (str(row.desired), str(row.pink))
        if row.topic:
            self._topics[part].add(str(row.topic))
        if pair not in self._pairs[part]:
            self._pairs[part].add(pair)
            for name in (row.desired, *row.aliases_desired, row.pink, *row.aliases_pink):
                if name:
                    self._names[part].setdefault(naming.canonical(name), str(name))

    def _audit(self, row: Carded) -> None:
        answers = {name: row[name] for name in AUDIT if row[name] is not None}
        for name, answer in answers.items():
            self.audited[name][answer] += 1
        if "judged_mention" in answers and row.revised and row.kind in (None, "competitor"):
            named = mentions.names(
                row.revised[-1].content,
                row.pink,
                row.aliases_pink,
                case_sensitive=row.case_sensitive,
            )
            self.audited["agreement"][named == answers["judged_mention"]] += 1

    def _measure(self, row: Carded, said: str) -> None:
        self.lengths["turns"].add(len(row.dialogue))
        self.lengths["words of a dialogue"].add(len(said.split()))
        self.kept += len(said) + sum(len(row[name]) for name in _TEXTS)
        for name, turns in (("original", row.dialogue), ("revised", row.revised)):
            if turns:
                words = len(turns[-1].content.split())
                self.lengths[f"words of the last turn, {name}"].add(words)
        if row.principle:
            self.lengths["words of the principle"].add(len(row.principle.split()))

    def _edit(self, row: Carded) -> None:
        """Look at what a revision changed; keep the first that is not long as an example."""
        if len(row.dialogue) < 2 or not row.revised:
            return
        asked, last, new = (turn.content for turn in (*row.dialogue[-2:], row.revised[-1]))
        same = 100 * prose.similarity(last, new)
        self.lengths["per cent of the words of both last turns that stayed"].add(round(same))
        if not self.example and max(map(len, (asked, last, new))) <= EXAMPLE:
            self.example = (row.desired, row.pink, asked, last, new)

    def _wrote(self, row: Carded) -> None:
        """Note the models that a row's texts came from."""
        said = [*(turn.content for turn in row.dialogue[-2:]), row.plan, row.critique, row.revision]
        for leaf in _leaves(said):
            origin = leaf.origin
            if origin is not None and origin.op == "call":
                params = origin.params
                identity = str(params.get("model", ""))
                name = str(params.get("name") or identity)
                self.writers[Writer(str(params.get("stage", "")), name, identity)] = None


def _leaves(texts: Iterable[Text]) -> Iterable[Text]:
    return (span.leaf for text in texts for span in text.spans())


def _value(value: object) -> str:
    return str(value) if isinstance(value, str) else ("no", "yes")[bool(value)]


def _place(part: str) -> tuple[int, str]:
    """Return where a part is listed: train, validation, test, then others."""
    known = ("train", "validation", "test")
    return (known.index(part) if part in known else len(known)), part
