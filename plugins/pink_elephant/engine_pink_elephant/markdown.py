"""Small parts of a Markdown page: tables, shares and intervals; nothing in a cell breaks out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

__all__ = ["bullets", "count", "line", "percent", "size", "table", "wilson"]

Z = 1.959964
"""Standard deviations of a 95% interval."""
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")


def wilson(yes: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of the share `yes / total`; of nothing, (0, 1).

    Wilson 1927; it has a width where all or none say yes.
    """
    if not total:
        return 0.0, 1.0
    share, z2 = yes / total, Z * Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def size(rows: int) -> str:
    """Return the Hub's size category."""
    at = sum(rows >= 10 ** (3 + i) for i in range(len(SIZES)))
    if at in (0, len(SIZES)):
        return "n<1K" if not at else "n>1B"
    return f"{SIZES[at - 1]}<n<{SIZES[at]}"


def percent(part: int, whole: int) -> str:
    """Return a share in per cent; "" of nothing."""
    return f"{100 * part / whole:.1f}%" if whole else ""


def count(many: int, what: str) -> str:
    """Return how many of what."""
    plural = {"term or alias": "terms or aliases", "reply": "replies"}.get(what, f"{what}s")
    return f"{many:,} {what if many == 1 else plural}"


def bullets(lines: Iterable[str]) -> str:
    """Return a list."""
    return "\n".join(f"- {one}" for one in lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, whose columns of numbers stand on the right."""
    body = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    rules = [
        "---:"
        if any(row[at] for row in body) and all(_is_number(row[at]) for row in body)
        else "---"
        for at in range(len(head))
    ]
    return "\n".join(f"| {' | '.join(one)} |" for one in [list(head), rules, *body])


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[\d.,]*%?", cell) is not None


def line(text: object) -> str:
    """Return any text as one line in which no Markdown or HTML can hide, in `code` or outside."""
    return re.sub(r"[`<>*\[\]\\]", "", " ".join(str(text).split()))
