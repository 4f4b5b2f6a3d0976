"""Small parts of an HTML page: tables, shares and ranges; all that comes from data is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from engine_train.curves import number

__all__ = ["between", "bracketed", "count", "esc", "maybe", "percent", "points", "prose", "table"]


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, text: bool = False
) -> str:
    """Return a table that scrolls where it is too wide; cells are HTML."""
    tops = "".join(f'<th scope="col">{esc(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    kind = ' class="text"' if text else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}">'
        f"<table{kind}><thead><tr>{tops}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def maybe(value: Any, show: Callable[[float], str]) -> str:
    """A number as `show` says it; "" for none."""
    return "" if value is None else show(value)


def between(low: Any, high: Any, show: Callable[[float], str]) -> str:
    """`low to high`; "" where one is missing."""
    return "" if low is None or high is None else f"{show(low)} to {show(high)}"


def bracketed(low: Any, high: Any, show: Callable[[float], str]) -> str:
    """` (low to high)`; "" where one is missing."""
    said = between(low, high, show)
    return f" ({said})" if said else ""


def percent(share: float) -> str:
    """A share in per cent."""
    return f"{100 * share:.1f}%"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "\u2212")


def count(many: float, what: str) -> str:
    """How many of what."""
    return f"{number(many)} {what}{'' if many == 1 else 's'}"


def esc(text: str) -> str:
    """Any text as HTML that says just this text."""
    return html.escape(str(text))


def prose(text: str) -> str:
    """A sentence as HTML; what stands between `backticks` is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", esc(text))
