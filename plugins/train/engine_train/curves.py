"""Curves and intervals as inline SVG: colours and fonts are the page's, nothing is fetched."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "COLOURS",
    "DASHES",
    "Curve",
    "Interval",
    "Points",
    "chart",
    "number",
    "series",
    "smooth",
    "thin",
    "whiskers",
]

Points = Sequence[tuple[float, float]]

COLOURS = 8
"""How many colours the page has for curves, `--c0` and on; further curves begin again."""
DASHES = ("", "5 3", "1.5 3")
WIDTH, HEIGHT = 360, 216
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 34
MOST = 240
"""Points of one curve that are told apart in so small a picture."""
SMOOTHED = 20
"""Points that a curve needs for a smoothed line to be worth drawing."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    label: str
    points: Points
    """(step, value) in the order of steps; values are finite."""
    colour: int = 0
    dash: int = 0
    smoothed: bool = True
    """Whether to draw a smoothed line over what was logged; a schedule has no noise."""


@dataclass(frozen=True)
class Interval:
    """One line of a dot-and-whisker plot: a share, its interval, and what it is held against."""

    label: str
    share: float
    low: float | None = None
    high: float | None = None
    baseline: float | None = None


def smooth(points: Points) -> Points:
    """Return the mean over about a fifteenth of the points around each; few points as they are.

    The window is even on both sides, so that a slope stays where it is: it narrows towards both
    ends, and where only noise would be left, there is no point.
    """
    if len(points) < SMOOTHED:
        return points
    half = max(1, len(points) // 30)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    smoothed = []
    for i, (step, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        if 2 * reach >= half:
            mean = (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)
            smoothed.append((step, mean))
    return smoothed


def thin(points: Points, most: int = MOST) -> Points:
    """Return at most `most` points that look the same: of each stretch the lowest and highest."""
    if len(points) <= most:
        return points
    count = most // 2
    kept = []
    for part in range(count):
        stretch = points[part * len(points) // count : (part + 1) * len(points) // count]
        ends = (min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1]))
        kept += sorted(set(ends))
    return kept


def number(value: float) -> str:
    """Return a number as a person reads it: three digits that count."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    size = abs(value)
    if size < 1e-3 or size >= 1e7:
        mantissa, _, power = f"{value:.2e}".partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    elif size >= 1000:
        text = f"{value:,.0f}"
    else:
        digits = max(0, 2 - math.floor(math.log10(size)))
        text = f"{value:.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "\u2212")


def chart(curves: Sequence[Curve], *, label: str, log: bool = False) -> str:
    """Return curves over the steps of a training; `label` says it to who cannot see it.

    `log` wants a logarithmic scale; it is one where all values are positive and far apart.
    """
    steps = [step for curve in curves for step, _ in curve.points]
    values = [value for curve in curves for _, value in curve.points]
    scale = _Scale.of(values, log=log)
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        share = 0.5 if last == first else (step - first) / (last - first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (1 - scale.share(value)) * (HEIGHT - TOP - BOTTOM)

    def path(points: Points) -> str:
        return "M" + "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in points)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(t) + 3.5:.1f}" text-anchor="end">'
        f"{_tick(t)}</text>"
        for t in scale.ticks
    ]
    parts += [
        f'<text class="tick" x="{x(t):.1f}" y="{HEIGHT - BOTTOM + 15}" '
        f'text-anchor="middle">{_tick(t)}</text>'
        for t in _steps(first, last)
    ]
    parts.append(
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">step</text>'
    )
    noisy = [c for c in curves if c.smoothed and len(c.points) >= SMOOTHED]
    pale = "raw faint" if len(noisy) > 4 else "raw"
    parts += [_line(pale, curve, path(thin(curve.points))) for curve in noisy]
    for curve in curves:
        line = thin(scale.smooth(curve.points) if curve in noisy else curve.points)
        if len(line) > 1:
            parts.append(_line("curve", curve, path(line)))
        if len(line) < SMOOTHED:
            parts += [
                f'<circle class="k{curve.colour % COLOURS}" cx="{x(step):.1f}" '
                f'cy="{y(value):.1f}" r="2.6"/>'
                for step, value in line
            ]
    return _svg(HEIGHT, label, parts)


def whiskers(intervals: Sequence[Interval], *, label: str, chance: float = 0.5) -> str:
    """Return shares with their intervals, a dot and a whisker each, and the line of chance."""
    every = [chance]
    for item in intervals:
        given = (item.share, item.low, item.high, item.baseline)
        every += [value for value in given if value is not None]
    low = max(0.0, math.floor(min(every) * 20 - 0.2) / 20)
    high = min(1.0, math.ceil(max(every) * 20 + 0.2) / 20)
    row, top, left = 40, 18, 12
    height = top + row * len(intervals) + 22

    def x(share: float) -> float:
        return left + (share - low) / (high - low) * (WIDTH - 2 * left)

    bottom = height - 20
    parts = [
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{top}" y2="{bottom}"/>'
        f'<text class="tick" x="{x(t):.1f}" y="{height - 6}" text-anchor="middle">'
        f"{100 * t:.0f}%</text>"
        for t in _ticks(low, high, 5)
    ]
    parts.append(
        f'<line class="chance" x1="{x(chance):.1f}" x2="{x(chance):.1f}" y1="{top - 4}" '
        f'y2="{bottom}"/><text class="tick" x="{x(chance):.1f}" y="10" text-anchor="middle">'
        "chance</text>"
    )
    for place, item in enumerate(intervals):
        at = top + row * place + 28
        parts.append(f'<text class="name" x="{left}" y="{at - 13}">{_cut(item.label)}</text>')
        if item.low is not None and item.high is not None:
            ends = "".join(
                f'<line class="whisker" x1="{x(end):.1f}" x2="{x(end):.1f}" y1="{at - 4}" '
                f'y2="{at + 4}"/>'
                for end in (item.low, item.high)
            )
            parts.append(
                f'<line class="whisker" x1="{x(item.low):.1f}" x2="{x(item.high):.1f}" '
                f'y1="{at}" y2="{at}"/>{ends}'
            )
        if item.baseline is not None:
            across = x(item.baseline)
            parts.append(f'<path class="baseline" d="M{across:.1f} {at - 5}l5 5l-5 5l-5 -5z"/>')
        parts.append(f'<circle class="dot" cx="{x(item.share):.1f}" cy="{at}" r="4"/>')
    return _svg(height, label, parts)


@dataclass(frozen=True)
class _Scale:
    """A vertical scale, straight or logarithmic."""

    low: float
    high: float
    ticks: Sequence[float]
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], *, log: bool) -> _Scale:
        low, high = min(values), max(values)
        if log and low > 0 and high / low > 50:
            low, high = math.log10(low), math.log10(high)
            powers = range(math.ceil(low), math.floor(high) + 1)
            return cls(low, high, [10.0**p for p in powers], True)
        if high - low <= 1e-12 * max(abs(low), abs(high)):
            room = abs(low) / 2 or 1.0
            low, high = low - room, high + room
        else:
            room = (high - low) * 0.04
            low = 0.0 if 0 <= low < room else low - room
            high += room
        return cls(low, high, list(_ticks(low, high, 4)), False)

    def smooth(self, points: Points) -> Points:
        """Return a smoothed line: of a logarithmic scale a mean of logarithms, for it has peaks."""
        if not self.log:
            return smooth(points)
        logs = smooth([(step, math.log10(value)) for step, value in points])
        return [(step, 10.0**value) for step, value in logs]

    def share(self, value: float) -> float:
        """Return how high a value stands, from 0 to 1."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)


def _ticks(low: float, high: float, count: int) -> Iterator[float]:
    """Yield round numbers, about so many, from low to high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= rough * 0.999)
    for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        yield i * step


def _steps(first: float, last: float) -> Iterable[float]:
    if first == last:
        return [first]
    return [t for t in _ticks(first, last, 4) if t == int(t)]


def _tick(value: float) -> str:
    return f"{number(value / 1000)}k" if 1e4 <= abs(value) < 1e6 else number(round(value, 12))


def _line(kind: str, curve: Curve, path: str) -> str:
    dash = DASHES[curve.dash % len(DASHES)] if kind == "curve" else ""
    drawn = f' stroke-dasharray="{dash}"' if dash else ""
    tip = f"<title>{html.escape(curve.label)}</title>" if kind == "curve" else ""
    return f'<path class="{kind} c{curve.colour % COLOURS}" d="{path}"{drawn}>{tip}</path>'


def _cut(text: str, most: int = 52) -> str:
    return html.escape(text if len(text) <= most else text[: most - 1] + "\u2026")


def _svg(height: float, label: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def series(history: Iterable[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    """Return what was logged under a key, as (step, value); what is no number is left out."""
    found = ((record.get("step"), record.get(key)) for record in history)
    return [
        (float(step), float(value))
        for step, value in found
        if isinstance(step, (int, float))
        and isinstance(value, (int, float))
        and math.isfinite(value)
    ]
