"""The page of `train.report`: HTML without scripts that fetches nothing and is light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from engine_train import told
from engine_train.curves import (
    COLOURS,
    DASHES,
    Curve,
    Points,
    chart,
    number,
    series,
)
from engine_train.history import TAIL, final
from engine_train.judging import Measured, accuracy, verdict
from engine_train.markup import count, esc, maybe, prose, table

__all__ = ["METHODS", "Training", "page"]

METHODS = {
    "sft": "Supervised fine-tuning",
    "reward": "Reward model",
    "dpo": "Direct preference optimisation",
    "grpo": "Group-relative policy optimisation",
}


class Training(NamedTuple):
    """A model's name on the page, and its `training.json`."""

    label: str
    record: Mapping[str, Any]

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """What was logged."""
        return self.record.get("history") or ()


class Figure(NamedTuple):
    """A chart: its title, what it shows, and (key of the history, what it is called)."""

    title: str
    note: str
    keys: Sequence[tuple[str, str]]
    log: bool = False
    smoothed: bool = True


FIGURES = (
    Figure("Loss", "What is minimised.", (("loss", "training"), ("eval_loss", "held out"))),
    Figure(
        "Accuracy",
        "Share of pairs of which the chosen reply gets the higher reward.",
        (
            ("accuracy", "training"),
            ("eval_accuracy", "held out"),
            ("rewards/accuracies", "training"),
            ("eval_rewards/accuracies", "held out"),
        ),
    ),
    Figure(
        "Token accuracy",
        "Share of tokens that the model would have written itself.",
        (("mean_token_accuracy", "training"), ("eval_mean_token_accuracy", "held out")),
    ),
    Figure(
        "Margin",
        "Reward of the chosen reply less that of the rejected one.",
        (
            ("margin", "training"),
            ("eval_margin", "held out"),
            ("rewards/margins", "training"),
            ("eval_rewards/margins", "held out"),
        ),
    ),
    Figure(
        "Log-probability",
        "Of the replies. Where the chosen one falls, too, the model unlearns what it should do.",
        (("logps/chosen", "chosen"), ("logps/rejected", "rejected")),
    ),
    Figure(
        "Rewards",
        "Implicit ones of DPO: how much likelier a reply is than under the reference.",
        (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")),
    ),
    Figure("Reward", "Mean over a batch.", (("reward", "training"), ("mean_reward", "mean"))),
    Figure("Learning rate", "", (("learning_rate", "learning rate"),), smoothed=False),
    Figure("Gradient norm", "Before it is clipped.", (("grad_norm", "norm"),), log=True),
)
FEW = 2
"""Steps at which a number was logged for a curve to be worth drawing."""


def page(
    trainings: Sequence[Training], measured: Sequence[Measured], *, title: str, stage: str
) -> str:
    """Return the whole page; it depends on its arguments alone."""
    style = files("engine_train").joinpath("report.css").read_text("utf-8")
    alarms = [(t.label, str(alarm)) for t in trainings for alarm in t.record.get("alarms", ())]
    said = verdict(measured) if measured else _trained(trainings)
    sections = [
        _alarms(alarms),
        accuracy(measured),
        *_curves(trainings),
        _settings(trainings),
        _data(trainings),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{esc(title)}</title>\n<style>\n{style}</style>\n<main>\n"
        f'<header><h1>{esc(title)}</h1>\n<p class="verdict">{said}</p>'
        f"</header>\n{''.join(section for section in sections if section)}"
        f"<footer>Written by the stage <code>{esc(stage)}</code> (<code>train.report</code>). "
        "Intervals are 95%.</footer>\n</main>\n</html>\n"
    )


def _trained(trainings: Sequence[Training]) -> str:
    """Return in a sentence how the loss fell, or, where replies are rewarded, the reward rose."""
    told = "reward" if all(series(t.history, "reward") for t in trainings) else "loss"
    logged = [t for t in trainings if series(t.history, told)]
    if not logged:
        return f"{count(len(trainings), 'model')}, with nothing logged."
    tail = "(mean over the last tenth of what was logged)"
    ends = [final(t.history)[told] for t in logged]
    if len(logged) > 1:
        return (
            f"{count(len(logged), 'training')}; the {told} ends between <b>{number(min(ends))}</b> "
            f"and <b>{number(max(ends))}</b> {tail}."
        )
    first = next(record[told] for record in logged[0].history if told in record)
    held_out = final(logged[0].history).get(f"eval_{told}")
    held = f"; on held-out rows it is {number(held_out)}" if held_out is not None else ""
    return f"The {told} goes from {number(first)} to <b>{number(ends[0])}</b> {tail}{held}."


def _alarms(alarms: Sequence[tuple[str, str]]) -> str:
    if not alarms:
        return ""
    items = "".join(f"<li>{_named(label)}{prose(said)}</li>" for label, said in alarms)
    return f'<section class="alarms" role="note"><h2>Alarms</h2><ul>{items}</ul></section>\n'


def _named(label: str) -> str:
    return f"<b>{esc(label)}</b>: " if label else ""


# --- curves ---------------------------------------------------------------------------------------


def _curves(trainings: Sequence[Training]) -> Iterator[str]:
    """Yield a section a method: losses of two methods do not compare."""
    methods = dict.fromkeys(str(t.record.get("method")) for t in trainings)
    for method in methods:
        mine = [t for t in trainings if str(t.record.get("method")) == method]
        known = {key for figure in FIGURES for key, _ in figure.keys}
        drawn = [_figure(figure, mine) for figure in FIGURES]
        others = [
            _figure(Figure(key, "", ((key, key),)), mine)
            for key in dict.fromkeys(k for t in mine for r in t.history for k in r)
            if key not in known and key not in ("step", "epoch")
        ]
        legend = ""
        if len(mine) > 1:
            legend = '<p class="legend">' + "".join(
                f'<span><i class="swatch k{at % COLOURS}"></i>{esc(t.label)}</span>'
                for at, t in enumerate(mine)
            )
            legend += "</p>"
        body = "".join(drawn)
        more = "".join(others)
        if more:
            more = (
                "<details><summary>More that was logged</summary>"
                f'<div class="charts">{more}</div></details>'
            )
        if not body and not more:
            continue
        title = f"Learning curves: {METHODS.get(method, method)}"
        note = "By step, as logged."
        if 'class="raw' in body + more:
            note = "Pale lines are what was logged, strong ones a mean over neighbouring steps."
        yield (
            f'<section><h2>{esc(title)}</h2><p class="note">{note}</p>{legend}'
            f'<div class="charts">{body}</div>{more}</section>\n'
        )


def _figure(figure: Figure, trainings: Sequence[Training]) -> str:
    """Return a chart with its numbers; "" where too little was logged."""
    drawn: list[tuple[Training, str, Curve]] = []
    names = dict.fromkeys(
        name for key, name in figure.keys if any(series(t.history, key) for t in trainings)
    )
    for at, training in enumerate(trainings):
        for key, name in figure.keys:
            if points := series(training.history, key):
                place = list(names).index(name)
                colour = at if len(trainings) > 1 else place
                parts = [training.label] if len(names) == 1 else [training.label, name]
                label = ", ".join(filter(None, parts)) or name
                drawn.append((training, name, Curve(label, points, colour, place, figure.smoothed)))
    if not any(len(curve.points) >= FEW for _, _, curve in drawn):
        return ""
    legend = ""
    if len(names) > 1:
        alone = len(trainings) == 1
        legend = '<p class="legend">' + "".join(
            f"<span>{_sample(at if alone else None, at)}{esc(name)}</span>"
            for at, name in enumerate(names)
        )
        legend += "</p>"
    label = f"{figure.title} by step. " + "; ".join(
        f"{curve.label}: {number(curve.points[0][1])} to {number(curve.points[-1][1])}"
        for _, _, curve in drawn[:COLOURS]
    )
    note = f'<p class="note">{figure.note}</p>' if figure.note else ""
    picture = chart([curve for _, _, curve in drawn], label=label, log=figure.log)
    head = ["", "first", "last tenth", "lowest", "highest"]
    rows = [[esc(curve.label), *map(number, _told(curve.points))] for _, _, curve in drawn]
    return (
        f"<figure><figcaption><h3>{esc(figure.title)}</h3>{note}{legend}</figcaption>{picture}"
        f"<details><summary>Numbers</summary>{table(head, rows, figure.title)}</details></figure>"
    )


def _told(points: Points) -> tuple[float, ...]:
    values = [value for _, value in points]
    tail = values[-max(1, len(values) // TAIL) :]
    return values[0], sum(tail) / len(tail), min(values), max(values)


def _sample(colour: int | None, dash: int) -> str:
    drawn = f' stroke-dasharray="{DASHES[dash % len(DASHES)]}"' if dash % len(DASHES) else ""
    name = "plain" if colour is None else f"c{colour % COLOURS}"
    return (
        f'<svg class="sample" viewBox="0 0 24 8" aria-hidden="true"><path class="curve {name}" '
        f'd="M0 4h24"{drawn}/></svg>'
    )


# --- settings and data ----------------------------------------------------------------------------


def _settings(trainings: Sequence[Training]) -> str:
    """Return what the trainings were told: first where they differ, then what was given."""
    if not trainings:
        return ""
    chosen = [told.given(t.record) for t in trainings]
    every = [told.every(t.record) for t in trainings]
    names = list(dict.fromkeys(name for settings in chosen for name in settings))
    differ = [n for n in names if len({s.get(n, "") for s in chosen}) > 1]
    names = differ + [n for n in names if n not in differ]
    rest = [n for n in dict.fromkeys(n for s in every for n in s) if n not in names]
    head = ["setting", *(t.label or "value" for t in trainings)]
    note = "What was given" + (
        "; what differs between the trainings comes first." if differ else "; all else is as usual."
    )
    more = ""
    if rest:
        others = table(head, _rows(rest, every), "All other settings", text=True)
        more = f"<details><summary>All other settings</summary>{others}</details>"
    return (
        f'<section><h2>Settings</h2><p class="note">{note}</p>'
        f"{table(head, _rows(names, chosen), 'Settings', text=True)}{more}</section>\n"
    )


def _rows(names: Iterable[str], of: Sequence[Mapping[str, str]]) -> list[list[str]]:
    return [[f"<code>{esc(n)}</code>", *(esc(s.get(n, "\u2013")) for s in of)] for n in names]


def _data(trainings: Sequence[Training]) -> str:
    if not trainings:
        return ""
    head = ["model", "rows", "steps", "columns"]
    rows = [
        [
            esc(t.label or "model"),
            maybe((t.record.get("data") or {}).get("rows"), number),
            maybe((t.record.get("metrics") or {}).get("steps"), number),
            esc(", ".join((t.record.get("data") or {}).get("columns", ()))),
        ]
        for t in trainings
    ]
    return f"<section><h2>Data</h2>{table(head, rows, 'Data', text=True)}</section>\n"
