"""A Text as HTML: each phrase painted by the source that it came from, and a legend.

Colours are translucent, so that they do on light and dark pages alike, and each source has a
number, too. Styles stand on the elements: a notebook's sanitiser takes style sheets away. There are
no scripts, nothing is fetched, and all that comes from a text is escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from engine.text.origins import describe, is_literal

if TYPE_CHECKING:
    from engine.text.strings import Text
    from engine.text.walks import Graph

__all__ = ["Sources", "escaped", "graph_html", "table", "text_html"]

LONGEST = 10_000  # characters of one text, and
SPANS = 300  # its phrases: a page must stay quick
SENTENCE = 300  # characters on a source
NODES = 200  # of a graph
EXCERPT = 60  # characters of a node's text in a graph
COLOURS = (  # told apart by the colour-blind, too (Okabe and Ito)
    *("#56b4e9", "#009e73", "#e69f00", "#cc79a7"),
    *("#0072b2", "#d55e00", "#beb414", "#808080"),
)
PAGE = "line-height:1.6;text-align:left"
PROSE = (  # with room for the line below the last line, or a notebook shows a scroll bar
    "line-height:1.6;padding-bottom:3px;white-space:pre-wrap;overflow-wrap:anywhere;"
    "max-height:32em;overflow:auto"
)
SMALL = "font-size:.85em;opacity:.8"
MARK = "font-size:.7em;line-height:0;user-select:none"  # not copied with the text
CELL = "text-align:left;vertical-align:top;line-height:1.6;padding:.15em .8em .15em 0"
LINE = ";border-top:1px solid rgba(128,128,128,.35)"

# What cannot be seen, cannot be encoded, or turns the characters around it.
_UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    """Any characters as HTML that says just them; what cannot be seen shows as its code point."""
    return html.escape(_UNSEEN.sub(lambda m: f"<U+{ord(m[0]):04X}>", str(text)))


def text_html(text: Text) -> str:
    """The text, painted, with its legend: a notebook's view of a Text."""
    sources = Sources()
    painted = sources.paint(text)
    return f'<div style="{PAGE}">{painted}{sources.legend()}</div>'


class Sources:
    """The sources of the texts on a page: each has a number, a colour and a line in the legend."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._said: list[str] = []

    def paint(self, text: Text) -> str:
        """The text as HTML; beyond 10,000 characters or 300 phrases it says what is left out."""
        characters, done, parts = str(text), 0, []
        for span in text.spans(0, LONGEST)[:SPANS]:
            phrase = characters[span.start : span.stop]
            done = span.stop
            if is_literal(span.leaf):
                parts.append(f'<span title="written in the code">{escaped(phrase)}</span>')
                continue
            number = self._number(span.leaf)
            part = f"characters {span.leaf_start} to {span.leaf_stop} of {len(span.leaf)}"
            title = escaped(f"[{number}] {self._said[number - 1]}; {part}")
            seen = phrase.rstrip()  # the number stands before an end of line, not after
            mark = f'<sup style="{MARK}">\u2060[{number}]</sup>' if seen else ""
            inner = escaped(seen) + mark + escaped(phrase[len(seen) :])
            parts.append(f'<span title="{title}" style="{_paint(number)}">{inner}</span>')
        if done < len(text):
            left = f"… {len(text) - done:,} more characters, from [{done}:]"
            parts.append(f'<i style="{SMALL}">{left}</i>')
        return f'<div dir="auto" style="{PROSE}">{"".join(parts)}</div>'

    def legend(self) -> str:
        """One line a source; "" if no text on the page has any."""
        lines = [
            f'<div><span style="{_paint(number)}">[{number}]</span> {escaped(said)}</div>'
            for number, said in enumerate(self._said, 1)
        ]
        style = f"{SMALL};max-height:16em;overflow:auto;margin-top:.4em;overflow-wrap:anywhere"
        return f'<div style="{style}">{"".join(lines)}</div>' if lines else ""

    def _number(self, leaf: Text) -> int:
        number = self._numbers.setdefault(leaf.did, len(self._numbers) + 1)
        if number > len(self._said):
            said = describe(leaf)
            self._said.append(said if len(said) <= SENTENCE else said[:SENTENCE] + "…")
        return number


def _paint(number: int) -> str:
    colour = COLOURS[(number - 1) % len(COLOURS)]
    return f"background:{colour}33;border-bottom:2px solid {colour}"


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, styles: Sequence[str] = ()
) -> str:
    """A table; heads and cells are HTML. Without heads, the first line has no rule above it.

    `styles` are those of the columns, beyond what all have in common.
    """
    lines = [(cells, "td", LINE) for cells in rows]
    if heads:
        lines.insert(0, (heads, "th", ";font-weight:normal;opacity:.7"))
    body = []
    for i, (cells, tag, style) in enumerate(lines):
        each = zip_longest(cells, styles[: len(cells)], fillvalue="")
        rule = style if i or heads else ""
        filled = [f'<{tag} style="{CELL}{own}{rule}">{cell}</{tag}>' for cell, own in each]
        body.append(f'<tr style="background:none">{"".join(filled)}</tr>')
    whole = "border-collapse:collapse;table-layout:auto;margin:.3em 0;font-size:inherit"
    return f'<div style="overflow-x:auto"><table style="{whole}">{"".join(body)}</table></div>'


def graph_html(graph: Graph) -> str:
    """The nodes of a graph, inputs first, as a table: a notebook's view of a Graph."""
    numbers = {node.did: i for i, node in enumerate(graph.nodes, 1)}
    rows = []
    for node in graph.nodes[-NODES:]:
        op = node.op if node.op == node.kind else f"{node.kind} {node.op}"
        text = repr(str(node.text[:EXCERPT])) + ("…" if len(node.text) > EXCERPT else "")
        reads = ", ".join(f"{numbers[did]}" for did in node.inputs)
        rows.append([f"{numbers[node.did]}", escaped(op), reads, escaped(text)])
    left = len(graph.nodes) - len(rows)
    above = f'<div style="{SMALL}">… {left:,} nodes before these</div>' if left else ""
    return f'<div style="{PAGE}">{above}{table(["", "made by", "out of", "text"], rows)}</div>'
