"""Intervals of proportions, and of paired differences between two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["Z", "difference", "wilson"]

Z = 1.959964
"""Standard deviations of a 95% interval."""


def wilson(wins: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of the proportion `wins / count`; ties may count half.

    It stays within 0 and 1, and has a width where all or none were won. Of nothing, (0, 1).
    """
    if count == 0:
        return 0.0, 1.0
    share, z2 = wins / count, Z * Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired differences and its 95% interval, of scores from 0 to 1.

    Each pair is one thing that both were tried on. The interval is Bonett and Price's: a pair more
    for each side, so that it has a width where both never differ. Of nothing, (0, -1, 1).
    """
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    count = len(apart)
    if count == 0:
        return 0.0, -1.0, 1.0
    mean = sum(apart) / (count + 2)
    square = (sum(d * d for d in apart) + 2) / (count + 2)
    half = Z * math.sqrt(max(0.0, square - mean * mean) / (count + 2))
    return sum(apart) / count, max(-1.0, mean - half), min(1.0, mean + half)
