"""What the plans of a pipeline's stages say together, from its sources to its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.errors import EngineError
from engine.estimates import Estimate, estimate_of
from engine.resources import Resource
from engine.wiring import WiredStage

__all__ = ["Forecast", "asked", "forecast", "prices_of"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is thought of a stage beforehand. None: not known."""

    rows_in: float | None
    rows: float | None
    """Rows passed on."""
    takes: Estimate | None
    """What its plan says, if it has one and the rows that reach it are known."""
    cost: float | None
    """By the prices of its chat, if that has any."""
    kind: str = ""
    """The stage's kind, or `sink`."""
    calls: bool = False
    """Whether it takes a resource, so that there may be something to pay."""


def forecast(
    stages: Mapping[str, WiredStage],
    order: Iterable[str],
    resources: Mapping[str, Resource],
    counts: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> dict[str, Forecast]:
    """Return what the stages' plans say, upstream first.

    `counts` are the rows of sources that are known; `limit` is that of a run. A stage without a
    plan is thought to pass on as many rows as it gets, an expand an unknown number of them. Where
    the number of rows that reach a stage is unknown, its plan is asked for none, for its errors
    alone. Raises PipelineError where a plan raises ValueError, or fails.
    """
    found: dict[str, Forecast] = {}
    for key in order:
        wired = stages[key]
        rows_in = _reaching(wired, [found[name].rows for name in wired.upstream])
        said = asked(wired, rows_in or 0)
        rows: float | None = None
        if wired.kind == "source":
            rows = (counts or {}).get(key, said.rows if said is not None else None)
            rows = rows if limit is None or rows is None else min(rows, limit)
        elif rows_in is None:
            said = None
        elif said is not None:
            rows = said.rows
        elif wired.kind != "expand" and not wired.spec.is_sink and not wired.spec.is_join:
            rows = rows_in
        found[key] = Forecast(
            rows_in,
            0 if wired.spec.is_sink else rows,
            said,
            _cost(said, prices_of(wired, resources)),
            "sink" if wired.spec.is_sink else wired.kind,
            bool(wired.resources),
        )
    return found


def prices_of(
    wired: WiredStage, resources: Mapping[str, Resource]
) -> tuple[float, float, float] | None:
    """Return the prices of the first chat of a stage that has some."""
    for key in wired.resources.values():
        prices: tuple[float, float, float] | None = getattr(resources[key], "prices", None)
        if prices is not None:
            return prices
    return None


def _reaching(wired: WiredStage, passed: list[float | None]) -> float | None:
    known = [rows for rows in passed if rows is not None]
    if wired.source is None or len(known) < len(passed):
        return None
    return min(known) if wired.source.form == "all" else sum(known)


def asked(wired: WiredStage, rows: float) -> Estimate | None:
    """Return what a stage's plan says of so many rows; None if it has none.

    Raises PipelineError where the plan raises ValueError, or fails.
    """
    lacking = dict.fromkeys(wired.spec.resources)
    try:
        return estimate_of(wired.spec.func, rows, wired.config | lacking | wired.resources)
    except (EngineError, ValueError, OSError) as error:
        raise (wired.place / "with").error(f"{wired.label}: {error}", key=True) from error
    except Exception as error:
        raise wired.place.error(
            f"{wired.label}: its plan failed: {type(error).__name__}: {error}", key=True
        ) from error


def _cost(takes: Estimate | None, prices: tuple[float, float, float] | None) -> float | None:
    if takes is None or prices is None:
        return None
    tokens = (takes.new, takes.cached, takes.out)
    return sum(price * count / 1e6 for price, count in zip(prices, tokens, strict=True))
