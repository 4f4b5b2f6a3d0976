"""How good models are, on the page of `train.report`: in a sentence, a picture and a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from engine_train.curves import Interval, number, whiskers
from engine_train.markup import between, bracketed, count, esc, maybe, percent, points, table

__all__ = ["Measured", "accuracy", "verdict"]


class Measured(NamedTuple):
    """How a model does on a set of pairs; `model` is "" where there is one row."""

    model: str
    of: str
    numbers: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The set, and the model where there are several."""
        return f"{self.of} \u00b7 {self.model}" if self.model else self.of


def verdict(measured: Sequence[Measured]) -> str:
    """Return in a sentence how good the models are on the held-out pairs, or on the first set."""
    names = [m.of for m in measured]
    first = next((name for name in names if _is_held_out(name)), names[0])
    found = [m for m in measured if m.of == first]
    return _one(found[0]) if len(found) == 1 else _several(found)


def _one(one: Measured) -> str:
    numbers = one.numbers
    low, high = numbers.get("low"), numbers.get("high")
    said = (
        f"On {_set(one.of)} the model ranks <b>{percent(numbers['accuracy'])}</b> of "
        f"{count(numbers['n'], 'pair')} right{bracketed(low, high, percent)}"
    )
    if low is not None and low <= 0.5:
        said += ", which does not show that it is better than chance"
    if numbers.get("baseline") is None:
        return said + "."
    said += f"; the baseline {percent(numbers['baseline'])}"
    difference = numbers.get("difference")
    if difference is None:
        return said + "."
    low, high = numbers.get("difference_low"), numbers.get("difference_high")
    said += f", a difference of <b>{points(difference)} points</b>{bracketed(low, high, points)}"
    if low is None or high is None:
        return said + "."
    if low > 0:
        return said + ": the model is better."
    return said + (": the model is worse." if high < 0 else ": neither is shown to be better.")


def _several(found: Sequence[Measured]) -> str:
    shares = [m.numbers["accuracy"] for m in found]
    said = (
        f"{count(len(found), 'model')}; on {_set(found[0].of)} they rank between "
        f"<b>{percent(min(shares))}</b> and <b>{percent(max(shares))}</b> of the pairs right"
    )
    differences = [
        m.numbers["difference"] for m in found if m.numbers.get("difference") is not None
    ]
    if len(differences) == len(found):
        low, high = points(min(differences)), points(max(differences))
        apart = low if low == high else f"{low} to {high}"
        said += f", {apart} points against the baseline"
    return said + "."


def _set(name: str) -> str:
    return "the held-out pairs" if _is_held_out(name) else f"<b>{esc(name)}</b>"


def _is_held_out(name: str) -> bool:
    return name.lower().replace("-", "_").replace(" ", "_") == "held_out"


def accuracy(measured: Sequence[Measured]) -> str:
    """Return the section with a picture and a table; "" where nothing was measured."""
    if not measured:
        return ""
    sets = list(dict.fromkeys(m.of for m in measured))
    measured = sorted(measured, key=lambda m: sets.index(m.of))
    intervals = [
        Interval(
            m.label,
            m.numbers["accuracy"],
            m.numbers.get("low"),
            m.numbers.get("high"),
            m.numbers.get("baseline"),
        )
        for m in measured
    ]
    with_baseline = any(item.baseline is not None for item in intervals)
    head = ["set", *(["model"] if any(m.model for m in measured) else []), "pairs"]
    head += ["ties"] * any("ties" in m.numbers for m in measured)
    head += ["accuracy", "95% interval"]
    head += ["baseline", "difference", "95% interval"] if with_baseline else []
    rows = [list(_measured_row(m, head)) for m in measured]
    picture = whiskers(
        intervals,
        label="Accuracy by set with 95% intervals, and chance at 50%; the table has the numbers.",
    )
    keys = '<span><i class="swatch dot"></i>model, 95% interval</span>'
    keys += '<span><i class="swatch diamond"></i>baseline</span>' if with_baseline else ""
    return (
        '<section><h2>Accuracy</h2><p class="note">Share of pairs of which the chosen reply gets '
        "the higher reward; a tie counts half.</p>"
        f'<div class="beside"><figure><p class="legend">{keys}</p>{picture}</figure>'
        f"{table(head, rows, 'Accuracy by set')}</div></section>\n"
    )


def _measured_row(one: Measured, head: Sequence[str]) -> Iterator[str]:
    numbers = one.numbers
    yield esc(one.of)
    if "model" in head:
        yield esc(one.model)
    yield number(numbers["n"])
    if "ties" in head:
        yield number(numbers["ties"]) if "ties" in numbers else ""
    yield percent(numbers["accuracy"])
    yield between(numbers.get("low"), numbers.get("high"), percent)
    if "baseline" in head:
        yield maybe(numbers.get("baseline"), percent)
        yield maybe(numbers.get("difference"), points)
        yield between(numbers.get("difference_low"), numbers.get("difference_high"), points)
