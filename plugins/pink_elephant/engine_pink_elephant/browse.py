"""`pink.browse`: rows to read in one HTML file, each phrase telling where it came from."""

from __future__ import annotations

import base64
import hashlib
import heapq
import html
import json
import re
from collections.abc import AsyncIterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from engine import Context, OutputPath, Row, Text, stage
from engine.rows import Dialogue
from engine_pink_elephant import mentions

__all__ = ["browse", "page"]

ROOM = 30_000
"""Characters that the sources of one row may add to the page: what is further up is left out."""
LONGEST = 20_000  # characters of one text
PIECES = 400  # of one text
LITTLE = 2  # words between two changes that make one
COMPARED = 1_000  # words of a turn; longer ones are not compared word by word
AUDIT = ("natural_shift", "useful_answer", "natural_return", "judged_mention")
_TOKEN = re.compile(r"\w+|[^\w\s]")

Piece = str | tuple[int, int, int]
"""Characters written in the code; or (leaf, start, stop) of the page's leaves."""
Marks = list[tuple[int, int, str]]
"""(start, stop, what it is): `pink`, `quote`, `del` or `ins`."""


class Browsed(Row):
    """What is shown of a row, as far as it is there."""

    dialogue: Dialogue
    revised: Dialogue = ()
    topic: Text = Text()
    desired: Text = Text()
    pink: Text = Text()
    aliases_pink: tuple[Text, ...] = ()
    case_sensitive: bool = False
    kind: str = ""
    split: str = ""
    plan: Text = Text()
    principle: Text = Text()
    critique: Text = Text()
    quotes: tuple[Text, ...] = ()
    origin: str = ""
    verdict: str = ""
    natural_shift: bool | None = None
    useful_answer: bool | None = None
    natural_return: bool | None = None
    judged_mention: bool | None = None


@stage("pink.browse")
async def browse(
    rows: AsyncIterable[Browsed],
    *,
    path: OutputPath,
    sample: PositiveInt = 300,
    title: str | None = None,
    ctx: Context,
) -> None:
    """Write a page to read rows on: one HTML file that fetches nothing.

    It shows the plan, the conversation, the principle, the critique, and what the revision changed
    in the last turn, word by word. A click on a phrase tells which prompt, text or call of a model
    it came from, and from there on upwards. A row takes some 10 KB; of its sources, what is beyond
    30,000 characters is left out, and the page says so.

    - `path`: the file, which appears when it is complete.
    - `sample`: how many rows to show, drawn over the whole input by the pipeline's seed.
    - `title`: what stands above; left out, the pipeline's name.
    """
    drawn: list[tuple[int, int, Browsed]] = []
    count = 0
    async for row in rows:
        item = (-_lot(ctx.seed, row.row_id or str(count)), count, row)
        if len(drawn) < sample:
            heapq.heappush(drawn, item)
        else:
            heapq.heappushpop(drawn, item)
        count += 1
    shown = [row for _, _, row in sorted(drawn, key=lambda item: item[1])]
    name = title or ctx.pipeline or "Pink Elephant"
    _write(path, page(shown, title=name, of=count, stage=ctx.stage_key))


def page(rows: Sequence[Browsed], *, title: str, of: int, stage: str = "browse") -> bytes:
    """Return the page of these rows, drawn out of `of`; it depends on its arguments alone."""
    leaves = _Leaves()
    told = [_row(row, leaves) for row in rows]
    data = {"title": title, "of": of, "stage": stage, "rows": told, "leaves": leaves.table}
    blank = files(__package__).joinpath("browse.html").read_text("utf-8")
    script = re.search(r"<script>(.*?)</script>", blank, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    filled = {
        "{{title}}": html.escape(title),
        "{{script}}": f"'sha256-{digest}'",
        "{{data}}": json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        .replace("&", "\\u0026")
        .replace("<", "\\u003c")
        .replace(">", "\\u003e"),
    }
    parts = re.split(r"(\{\{\w+\}\})", blank)  # at once: what is filled in is not looked at again
    return "".join(filled.get(part, part) for part in parts).encode("utf-8", "replace")


def _lot(seed: int, row_id: str) -> int:
    """Return a number that draws a row whatever the order and the others are."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{row_id}".encode(), digest_size=8).digest())


def _write(path: Path, content: bytes) -> None:
    """Put a file in its place, whole or not at all; one that holds this already is left alone."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


# --- a row ----------------------------------------------------------------------------------------


def _row(row: Browsed, leaves: _Leaves) -> dict[str, Any]:
    """Return a row as the page's script reads it."""
    leaves.room = ROOM
    last = row.dialogue[-1].content if row.dialogue else Text()
    new = row.revised[-1].content if row.revised else Text()
    told: dict[str, Any] = {
        "id": row.row_id,
        **{
            name: str(row[name])
            for name in ("topic", "desired", "pink", "kind", "split", "origin", "verdict")
        },
        "turns": [[turn.role, leaves.pieces(turn.content)] for turn in row.dialogue],
        "revised": leaves.pieces(new),
        **{name: leaves.pieces(row[name]) for name in ("plan", "principle", "critique")},
        "marks": [*_named(row, last), *_quoted(row.quotes, last)],
        "changed": [],
        "audit": {name: row[name] for name in AUDIT if row[name] is not None},
    }
    if new:
        old, changed = _changes(last, new)
        told["marks"] = [*old, *told["marks"]]
        told["changed"] = [*changed, *_named(row, new)]
    return {name: value for name, value in told.items() if value not in ("", [], {})}


def _named(row: Browsed, text: Text) -> Marks:
    """Return where a text names the pink term."""
    found = mentions.find(text, row.pink, row.aliases_pink, case_sensitive=row.case_sensitive)
    return [(mention.start, mention.stop, "pink") for mention in found]


def _quoted(quotes: Sequence[Text], text: Text) -> Marks:
    """Return where the quotes of the critique stand."""
    places = [(text.find(quote), len(quote)) for quote in quotes if quote]
    return [(start, start + length, "quote") for start, length in places if start >= 0]


def _changes(old: str, new: str) -> tuple[Marks, Marks]:
    """Return which words of the old text are gone, and which of the new one have come."""
    a, b = list(_TOKEN.finditer(str(old))), list(_TOKEN.finditer(str(new)))
    if max(len(a), len(b)) > COMPARED:
        return [(0, len(old), "del")], [(0, len(new), "ins")]
    gone: Marks = []
    come: Marks = []
    for a0, a1, b0, b1 in _stretches([m[0] for m in a], [m[0] for m in b]):
        if a1 > a0:
            gone.append((a[a0].start(), a[a1 - 1].end(), "del"))
        if b1 > b0:
            come.append((b[b0].start(), b[b1 - 1].end(), "ins"))
    return gone, come


def _stretches(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Return the stretches that differ, as places in both.

    Two that are longer than the one or two words between them are one: an "and" that both texts
    have is not what stayed of a sentence.
    """
    found: list[tuple[int, int, int, int]] = []
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        if tag == "equal":
            continue
        if found:
            c0, c1, d0, d1 = found[-1]
            between = a0 - c1
            longer = min(max(c1 - c0, d1 - d0), max(a1 - a0, b1 - b0)) > between
            if between <= LITTLE and longer:
                found[-1] = c0, a1, d0, b1
                continue
        found.append((a0, a1, b0, b1))
    return found


# --- where it came from ---------------------------------------------------------------------------


class _Leaves:
    """The leaves of all texts on the page, each once: texts are told as pieces of them.

    A prompt file is so held once, however many calls were made with it.
    """

    def __init__(self) -> None:
        self.table: list[dict[str, Any]] = []
        self.room = ROOM
        self._numbers: dict[bytes, int] = {}

    def pieces(self, text: Text) -> list[Piece]:
        """Return a text as the pieces of leaves that it is made of."""
        found: list[Piece] = []
        spans = text.spans(0, LONGEST)
        for span in spans[:PIECES]:
            origin = span.leaf.origin
            if (origin is not None and origin.op == "literal") or span.leaf_stop > LONGEST:
                found.append(str(text[span.start : span.stop]))
                self.room -= span.stop - span.start
            else:
                found.append((self._number(span.leaf), span.leaf_start, span.leaf_stop))
        if (shown := spans[PIECES - 1].stop if len(spans) > PIECES else LONGEST) < len(text):
            found.append(f" … {len(text) - shown:,} more characters")
        return found

    def _number(self, leaf: Text) -> int:
        """Return a leaf's number; the first time, put down what it is and what it was made of."""
        if leaf.did in self._numbers:
            return self._numbers[leaf.did]
        number = self._numbers[leaf.did] = len(self.table)
        entry: dict[str, Any] = {"text": str(leaf[:LONGEST])}
        self.table.append(entry)
        self.room -= len(entry["text"])
        entry |= _told(leaf)
        inputs = entry.pop("inputs", ())
        if inputs and self.room <= 0:
            entry["cut"] = True
        elif inputs:
            entry["in"] = [self.pieces(text) for text in inputs]
        return number


def _told(leaf: Text) -> Mapping[str, Any]:
    """Return how a leaf came to be; `inputs` are the texts that it was made of."""
    if (origin := leaf.origin) is None:  # characters that an operation made
        *before, node = leaf.graph().nodes
        named = {other.did: other.text for other in before}
        return {
            "kind": "made",
            "op": node.op,
            "inputs": [named[did] for did in node.inputs if did in named],
        }
    params = dict(origin.params)
    if origin.op == "call":
        name = params.pop("name", "") or str(params.get("model", "")).partition(", ")[0]
        told = {"kind": "call", "name": name, "roles": params.pop("roles", [])}
        return {**told, "params": dict(_flat(params)), "inputs": origin.inputs}
    if origin.op == "template":
        return {"kind": "template", "params": params, "inputs": ()}
    kind = "source" if origin.op.startswith("source") else "made"
    return {"kind": kind, "op": origin.op, "params": dict(_flat(params)), "inputs": origin.inputs}


def _flat(params: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of parameters, those in `sampling` under their own names."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield name, list(value) if isinstance(value, tuple) else value
