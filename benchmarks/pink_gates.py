"""CPU of all gates of the pink pipeline for each row, beside a plain pass over the same texts.

The gates: what `pink.dialogue`, `pink.critique_revision` and `pink.dedup` ask of an accepted row,
outside of the calls, on the texts that their parsers give: roles, prose, leaks, mentions and what
must not be there in each turn; the critique's quotes; the revision's mentions, bands, language; the
search for near-duplicates. The plain pass, on the row's whole text: one regex of the pink term and
its aliases, one py3langid classification, one MinHash (rensa, 128 hashes) of its runs of three
words. Rows from the generator of `tests/pink/scale`: 40 pairs, 6 turns; both in turns, least CPU of
some repeats. Reported: the share of each gate, and of each part of the plain pass.
Command: `python -m benchmarks.pink_gates [--short]`; with `--rows FILE`, on the rows of a
preference file (JSON Lines).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from engine_pink_elephant import dedup, gates, prose
from engine_pink_elephant.rows import Pair

from benchmarks.common import Result, least, show
from engine import Text
from engine.rows import Message

TARGET = 2 / 3
SHORT = 0.8
"""What the short form lets pass: the fewer repeats, the more a busy machine is in them."""
BANDS = gates.Bands((0.1, 0.95), (0.4, 2.5))
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Case:
    """An accepted row, as its stages have it."""

    pair: Pair
    roles: Sequence[str]
    turns: Sequence[Text]
    quotes: Sequence[str]
    critique: Text
    revision: Text

    @property
    def whole(self) -> str:
        """All that a plain pass looks at."""
        return "\n".join(map(str, (*self.turns, self.revision)))


def measure(short: bool) -> list[Result]:
    """Return how the gates' CPU compares with the plain pass's."""
    if short:
        return compared(list(generated(500)), 3, SHORT)
    return compared(list(generated(2000)), 5)


def compared(cases: Sequence[Case], repeats: int, most: float = TARGET) -> list[Result]:
    """Return the ratio, and what each part takes."""
    gating, plain = Gating(cases), Plain(cases)
    for case in cases[:: max(1, len(cases) // 50)]:
        gating.check(case)
    works = [gating.all, plain.all, *gating.parts.values(), *plain.parts.values()]
    every, reference, *each = least(repeats, *works)
    names = [*gating.parts, *(f"plain: {name}" for name in plain.parts)]
    micro = 1e6 / len(cases)
    told = ", ".join(
        f"{name} {cost * micro:.0f} us ({cost / whole:.0%})"
        for name, cost, whole in zip(
            names, each, [every] * len(gating.parts) + [reference] * len(plain.parts), strict=True
        )
    )
    ratio = every / reference
    return [
        Result(
            f"pink_gates ({len(cases):,} rows)",
            f"{ratio:.2f} ({every * micro:.0f} us a row, plain {reference * micro:.0f})",
            f"<= {most:.2f} of a plain pass",
            ratio <= most,
            told,
        )
    ]


class Gating:
    """The gates, each on all rows."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = cases
        self._scripted = [scripted(case, at) for at, case in enumerate(cases)]
        self.parts: dict[str, Callable[[], object]] = {
            "turns": lambda: [self.turns(case) for case in cases],
            "critique": lambda: [self.critique(case) for case in cases],
            "revision": lambda: [self.revision(case) for case in cases],
            "language": lambda: [self.language(case) for case in cases],
            "dedup": self.near,
        }

    def all(self) -> None:
        """Gate all rows, each by one gate after the other."""
        for case in self._cases:
            self.turns(case)
            self.critique(case)
            self.revision(case)
            self.language(case)
        self.near()

    def check(self, case: Case) -> None:
        """Raise RuntimeError where a gate refuses a row: then less was done than it takes."""
        gated = (self.turns, self.critique, self.revision, self.language)
        if faults := [fault for gate in gated for fault in gate(case) if fault]:
            raise RuntimeError(f"a row that was accepted is refused: {faults[0]}")

    @staticmethod
    def turns(case: Case) -> list[gates.Fault | None]:
        last = len(case.turns)
        return [
            gates.roles(case.roles),
            gates.opening(case.turns, case.pair),
            *(gates.turn(text, at, last, case.pair) for at, text in enumerate(case.turns)),
        ]

    @staticmethod
    def critique(case: Case) -> list[gates.Fault | None]:
        quotes = [prose.locate(quote, case.turns[-1]) for quote in case.quotes]
        return [gates.critique(case.critique, quotes, case.pair)]

    @staticmethod
    def revision(case: Case) -> list[gates.Fault | None]:
        *before, last = case.turns
        return [gates.revision(case.revision, last, before[1::2], case.pair, BANDS, language="en")]

    @staticmethod
    def language(case: Case) -> list[gates.Fault | None]:
        return [gates.wrong_language(" ".join(case.turns), "en")]

    def near(self) -> None:
        anyio.run(self._near)

    async def _near(self) -> None:
        async for _ in dedup.dedup(self._some()):
            pass

    async def _some(self) -> AsyncIterator[dedup.Scripted]:
        for row in self._scripted:
            yield row


class Plain:
    """The plain pass, and its parts."""

    def __init__(self, cases: Sequence[Case]) -> None:
        import py3langid

        self._classify = py3langid.classify
        self._classify("to load the model")
        self._texts = [case.whole for case in cases]
        self._regexes = [_regex(case.pair) for case in cases]
        self.parts: dict[str, Callable[[], object]] = {
            "regex": lambda: [
                r.findall(t) for r, t in zip(self._regexes, self._texts, strict=True)
            ],
            "langid": lambda: [self._classify(text) for text in self._texts],
            "minhash": lambda: [minhash(text) for text in self._texts],
        }

    def all(self) -> None:
        for regex, text in zip(self._regexes, self._texts, strict=True):
            regex.findall(text)
            self._classify(text)
            minhash(text)


def scripted(case: Case, at: int) -> dedup.Scripted:
    """Return a row as `pink.dedup` reads it."""
    said = tuple(
        Message(role="assistant" if at % 2 else "user", content=text)
        for at, text in enumerate(case.turns)
    )
    pair = case.pair
    fields = {
        "dialogue": said,
        "desired": pair.desired,
        "pink": pair.pink,
        "aliases_desired": pair.aliases_desired,
        "aliases_pink": pair.aliases_pink,
        "case_sensitive": False,
    }
    return dedup.Scripted.of(fields, at.to_bytes(16, "big"))


def _regex(pair: Pair) -> re.Pattern[str]:
    names = "|".join(map(re.escape, map(str, (pair.pink, *pair.aliases_pink))))
    return re.compile(rf"\b(?:{names})\b", re.IGNORECASE)


def minhash(text: str) -> Any:
    """Return the MinHash of a text's runs of three words."""
    from rensa import RMinHash

    words = _WORD.findall(text.casefold())
    made = RMinHash(num_perm=128, seed=42)
    made.update([" ".join(run) for run in zip(words, words[1:], words[2:], strict=False)])
    return made.digest()


# --- rows -----------------------------------------------------------------------------------------


def generated(count: int) -> Iterator[Case]:
    """Yield rows as the model of the scale run writes them."""
    from tests.pink.scale import dialogues, names, revisions

    rng = random.Random(7)
    for at in range(count):
        made = names.pair(at // 50 % 32, 1 + at // 1600)
        pair = pair_of(made.desired, made.pink, made.aliases_desired, made.aliases_pink)
        turns = dialogues.turns(6, made.desired, made.pink, rng)
        roles, texts = zip(*turns, strict=True)
        draft = revisions.drafted(list(texts), made.desired, made.pink, rng)
        yield Case(
            pair,
            roles,
            _parsed(texts),
            draft.quotes,
            *_parsed([draft.critique, draft.revision]),
        )


def read(file: Path) -> Iterator[Case]:
    """Yield the rows of a preference file, without the critique, which it has not."""
    for line in file.read_text().splitlines():
        row = json.loads(line)
        turns = [Message(**turn) for turn in (*row["prompt"][1:], *row["rejected"])]
        texts = _parsed([str(turn.content) for turn in turns])
        pair = pair_of(row["desired"], row["pink"], (), ())
        place = pair.pink_in(texts[-1])
        quote = prose.sentence_at(texts[-1], place[0].start if place else 0)
        [revision] = _parsed([row["chosen"][0]["content"]])
        yield Case(pair, [turn.role for turn in turns], texts, [quote], quote, revision)


def pair_of(
    desired: str, pink: str, aliases_desired: Sequence[str], aliases_pink: Sequence[str]
) -> Pair:
    return Pair(
        desired=Text(desired),
        pink=Text(pink),
        aliases_desired=tuple(map(Text, aliases_desired)),
        aliases_pink=tuple(map(Text, aliases_pink)),
        case_sensitive=False,
        ambiguous=False,
        kind="competitor",
        why=Text(),
        pair_origin="model",
    )


def _parsed(texts: Sequence[str]) -> list[Text]:
    """Return texts as a parser gives them: parts of a reply."""
    reply = Text.leaf("\n".join(texts), "call")
    made, at = [], 0
    for text in texts:
        made.append(reply[at : at + len(text)])
        at += len(text) + 1
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="fewer rows and repeats")
    parser.add_argument("--rows", type=Path, help="a preference file as JSON Lines")
    options = parser.parse_args()
    if options.rows is None:
        sys.exit(show(measure(options.short)))
    sys.exit(show(compared(list(read(options.rows)), 5)))


if __name__ == "__main__":
    main()
