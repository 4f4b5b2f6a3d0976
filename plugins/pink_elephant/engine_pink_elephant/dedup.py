"""Near-duplicates over all pairs and plans: MinHash says whom to compare, runs of words decide."""

from __future__ import annotations

import re
from array import array
from collections.abc import AsyncIterable, AsyncIterator
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field, PositiveInt

from engine import Estimate, Reject, Row, Text, plan_of, stage
from engine.rows import Dialogue
from engine_pink_elephant import prose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Hashes = NDArray[Any]

__all__ = ["Index", "Repeat", "dedup"]

BANDS, LENGTH = 16, 4
"""Texts are compared if all 4 values of one of 16 bands agree: with a similarity of .7 in 98.8% of
the cases, of .8 in 99.98%; with one of .1 in .16%."""
HASHES = BANDS * LENGTH
CROWD = 32
"""Rows that a band's value may lead to: what more of them share tells nobody apart."""
COMPARED = 32
"""Rows that a row is compared with, the likeliest first."""
SLACK = 0.25
"""How far the estimate of 64 hashes may fall short: four standard errors."""
SKETCH = 400
"""Runs of a text that are kept: of a longer one, the least by hash, whose similarity then has a
standard error of .023."""
SEED = 42
MIX = 0x9E3779B97F4A7C15
MASK = " _ "
_ID, _VALUE = 16, 4  # bytes
_DIGEST = _VALUE * HASHES


class Scripted(Row):
    """A dialogue, and the terms that make it look unlike another one."""

    dialogue: Dialogue
    desired: Text = Text()
    pink: Text = Text()
    aliases_desired: tuple[Text, ...] = ()
    aliases_pink: tuple[Text, ...] = ()
    case_sensitive: bool = False


@stage("pink.dedup")
async def dedup(
    rows: AsyncIterable[Scripted],
    *,
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7,
    words: PositiveInt = 3,
    mask_terms: bool = True,
) -> AsyncIterator[Scripted | Reject]:
    """Keep the first of the dialogues that are nearly the same, over all pairs and plans.

    Put it just before the sinks: it holds about 2 KB of each row that it keeps. Reasons are
    `duplicate` (the very same text) and `near_duplicate`; the span is the id of the row repeated.

    - `threshold`: how similar two dialogues are that count as one: the share of their runs of words
      that both have (Jaccard), from 0 to 1.
    - `words`: how many words a run has.
    - `mask_terms`: whether all terms and aliases of the pair count as one word, so that a script
      that comes back with other names is found.
    """
    index = Index(threshold, words)
    async for row in rows:
        said = "\n".join(str(turn.content) for turn in row.dialogue)
        low = said.casefold()
        repeat = index.add(row.row_id, said, _masked(low, row) if mask_terms else low)
        if repeat is None:
            yield row
        else:
            yield row.reject(repeat.reason, span=repeat.row_id)


@plan_of(dedup)
def dedup_estimate(rows: int) -> Estimate:
    """Return what `pink.dedup` takes; how many rows repeat others nobody knows before."""
    return Estimate(rows)


def _masked(low: str, row: Scripted) -> str:
    """Return a text in small letters with each of the terms masked, also with a plural's s."""
    names = (row.desired, *row.aliases_desired, row.pink, *row.aliases_pink)
    return _pattern(tuple(str(name).casefold() for name in names if name)).sub(MASK, low)


@lru_cache(1024)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    longest = sorted(names, key=len, reverse=True)
    # That no word goes on before a name is asked after its first letter: a search for letters is
    # four times as fast as one for places.
    spelled = [(re.escape(name[0]), re.escape(name[1:])) for name in longest]
    one = "|".join(rf"{first}(?<!\w{first}){rest}" for first, rest in spelled)
    return re.compile(rf"(?:{one})(?:e?s)?(?!\w)" if one else r"(?!)")


class Repeat(NamedTuple):
    """Why a text is not kept."""

    reason: str
    """`duplicate` or `near_duplicate`."""
    row_id: str
    """The row that has it already."""


class Index:
    """The texts kept so far: 64 hashes of each to find it by, and its runs to compare it by."""

    def __init__(self, threshold: float = 0.7, words: int = 3) -> None:
        self._threshold, self._words = threshold, words
        self._ids, self._digests = bytearray(), bytearray()
        self._exact = array("q")
        self._sketches: list[bytes] = []
        self._slots = array("I", bytes(4 << 10))  # a hash table: 0 is free, else a row, from 1

    def __len__(self) -> int:
        return len(self._sketches)

    def add(self, row_id: str, text: str, masked: str) -> Repeat | None:
        """Keep a text and return None, or say what it repeats.

        Texts are compared by what is `masked` of them; if they are alike and the `text`s equal,
        they are duplicates. The first that is alike is the one repeated.
        """
        runs = _runs(masked, self._words)
        digest, sketch = _digest(runs), _sketch(runs)
        exact = hash(text)
        rows, free = self._look(digest)
        for row in self._likely(digest, rows):
            if _similarity(sketch, _read(self._sketches[row])) >= self._threshold:
                reason = "duplicate" if exact == self._exact[row] else "near_duplicate"
                return Repeat(reason, self._ids[_ID * row : _ID * (row + 1)].hex())
        for slot in free:
            self._slots[slot] = len(self) + 1
        self._ids += bytes.fromhex(row_id).ljust(_ID, b"\0")
        self._digests += digest
        self._exact.append(exact)
        self._sketches.append(sketch.tobytes())
        if len(self) * BANDS * 2 > len(self._slots):
            self._grow()
        return None

    def _look(self, digest: bytes) -> tuple[set[int], list[int]]:
        """Return the rows that share a band with a digest, and the slots where it would stand."""
        slots, digests = self._slots, self._digests
        rows: set[int] = set()
        free: list[int] = []
        for at in range(0, _DIGEST, _VALUE * LENGTH):
            stop = at + _VALUE * LENGTH
            value, shared = digest[at:stop], 0
            slot = hash((at, value)) % len(slots)
            while shared < CROWD and (entry := slots[slot]):
                start = (entry - 1) * _DIGEST
                if digests[start + at : start + stop] == value:
                    rows.add(entry - 1)
                    shared += 1
                slot = (slot + 1) % len(slots)
            if shared < CROWD:
                while slots[slot] or slot in free:
                    slot = (slot + 1) % len(slots)
                free.append(slot)
        return rows, free

    def _likely(self, digest: bytes, rows: set[int]) -> list[int]:
        """Return the rows worth a comparison, in order: those with enough equal hashes."""
        import numpy as np

        if not rows:
            return []
        some = sorted(rows)
        own = np.frombuffer(digest, np.uint32)
        all_of_them = np.frombuffer(self._digests, np.uint32).reshape(-1, HASHES)
        agree = (all_of_them[some] == own).mean(axis=1)
        best = np.argsort(-agree, kind="stable")[:COMPARED]
        return sorted(some[i] for i in best if agree[i] >= self._threshold - SLACK)

    def _grow(self) -> None:
        """Make the table twice as big."""
        self._slots = array("I", bytes(2 * _VALUE * len(self._slots)))
        for row in range(len(self)):
            _, free = self._look(bytes(self._digests[row * _DIGEST : (row + 1) * _DIGEST]))
            for slot in free:
                self._slots[slot] = row + 1


def _runs(text: str, words: int) -> Hashes:
    """Return the hashes of the runs of so many words; of a shorter text, one of the whole."""
    import numpy as np
    from rensa import RMinHash

    hashes = np.array(RMinHash.hash_token_sets([prose.words(text)])[0], np.uint64)
    words = min(words, len(hashes))
    runs = np.zeros(len(hashes) - words + 1, np.uint64)
    for at in range(words):  # the order of the words counts
        runs = runs * np.uint64(MIX) + hashes[at : at + len(runs)]
    return runs


def _digest(runs: Hashes) -> bytes:
    from rensa import RMinHash

    rows = RMinHash.digest_matrix_from_flat_token_hashes(runs, [0, len(runs)], HASHES, SEED)
    return array("I", rows.to_rows()[0]).tobytes()


def _sketch(runs: Hashes) -> Hashes:
    """Return the least 32-bit hashes of the runs, each once, in order."""
    import numpy as np

    hashes: Hashes = np.sort((runs >> np.uint64(32)).astype(np.uint32))
    first: Hashes = np.append(True, hashes[1:] != hashes[:-1])
    return hashes[first][:SKETCH]


def _read(sketch: bytes) -> Hashes:
    import numpy as np

    return np.frombuffer(sketch, np.uint32)


def _similarity(a: Hashes, b: Hashes) -> float:
    """Return the Jaccard similarity of two sketches: of all runs, or by the least of both."""
    import numpy as np

    both = np.intersect1d(a, b, assume_unique=True)
    if len(a) < SKETCH and len(b) < SKETCH:
        return len(both) / (len(a) + len(b) - len(both))
    least = np.union1d(a, b)[:SKETCH]
    return int((both <= least[-1]).sum()) / len(least)
