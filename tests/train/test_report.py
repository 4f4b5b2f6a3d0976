"""`train.report`: one page of trainings, that says first what came out."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from engine_train.curves import Curve, chart, number, smooth, thin
from engine_train.report import report

import engine
from engine.errors import EngineError, PipelineError
from engine.testing import run_stage

pytestmark = pytest.mark.anyio

MADE = '''
import json
from collections.abc import AsyncIterator
from typing import Any

from engine import Artifact, Context, Row, Text, stage


class Trained(Row):
    seed: int
    name: Text
    model: Artifact
    start: Artifact
    accuracy: dict[str, dict[str, float]]
    plain: dict[str, dict[str, float]]


@stage("my.trained")
async def trained(*, rows: list[dict[str, Any]], ctx: Context) -> AsyncIterator[Trained]:
    """Make what trainings leave behind: folders with a `training.json`."""

    def model(record: Any) -> Artifact:
        with ctx.blobs.new("application/x-transformers", folder=True) as folder:
            (folder.path / "config.json").write_text("{}")
            if record is not None:
                text = record if isinstance(record, str) else json.dumps(record)
                (folder.path / "training.json").write_text(text)
        return folder.artifact

    for row in rows:
        found = Trained(
            row["seed"], Text("x"), model(row["model"]), model(row["start"]), row["accuracy"],
            row["plain"],
        )
        yield found.keyed(str(row["seed"]))
'''
JUDGED = {
    "held out": {
        "n": 300,
        "accuracy": 0.663,
        "low": 0.608,
        "high": 0.714,
        "ties": 2,
        "baseline": 0.643,
        "difference": 0.02,
        "difference_low": -0.031,
        "difference_high": 0.071,
    },
    "llmbar": {"n": 100, "accuracy": 0.57, "low": 0.472, "high": 0.663, "ties": 0},
}


def record(method: str = "reward", seed: int = 1, steps: int = 40, **more: Any) -> dict[str, Any]:
    history = [
        {
            "step": step,
            "epoch": step / steps,
            "loss": 0.7 - 0.01 * step,
            "accuracy": 0.5 + 0.2 * step / steps,
            "learning_rate": 1e-5 * (1 - step / steps),
            "grad_norm": 1.0 + step % 5,
        }
        for step in range(1, steps + 1)
    ]
    made = {
        "method": method,
        "base": "org/tiny",
        "layers": 2,
        "tuning": {"tune": "top", "top_layers": 2, "lora": {"r": 16}, "save": "merged"},
        "args": {"learning_rate": 1e-5},
        "options": {"pooling": "mean"},
        "settings": {"learning_rate": 1e-5, "optim": "adamw_torch"},
        "seed": seed,
        "threads": 1,
        "data": {"rows": 1700, "columns": ["prompt", "chosen", "rejected"]},
        "versions": {"trl": "1.16.0"},
        "metrics": {"steps": steps},
        "alarms": [],
        "history": history,
    }
    return made | more


def row(seed: int = 1, model: Any = None, start: Any = None, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "model": model, "start": start, "accuracy": {}, "plain": {}} | more


Write = Callable[..., Path]


async def page_of(pipeline: Write, folder: Path, *rows: dict[str, Any], title: str = "") -> str:
    given = {"path": "out/report.html"} | ({"title": title} if title else {})
    stages = {
        "trained": {"use": "./stages.py:trained", "with": {"rows": rows}},
        "report": {"use": "train.report", "with": given},
    }
    path = pipeline("name: study\nstages: " + json.dumps(stages), stages=MADE)
    await engine.run(path, store=":memory:")
    return (folder / "out" / "report.html").read_text("utf-8")


class Page(HTMLParser):
    """What a reader sees: texts, cells of tables by caption, and what would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.pictures: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self._rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == ["html"] or self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.fetched += [f"{k}={v}" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "line", "circle"):
            self.open.append(tag)
        if tag == "svg" and given.get("role") == "img":
            self.pictures.append(given["aria-label"] or "")
        if given.get("role") == "region":
            self._rows = self.tables.setdefault(given["aria-label"] or "", [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "circle"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & {*self.open}:
            self._rows[-1][-1] += data


async def test_the_page_says_first_how_good_the_model_is(pipeline: Write, tmp_path: Path) -> None:
    text = await page_of(pipeline, tmp_path, row(model=record(), accuracy=JUDGED))
    said = re.sub("<[^>]+>", "", text[text.index('class="verdict">') + 16 :].partition("</p>")[0])
    assert said == (
        "On the held-out pairs the model ranks 66.3% of 300 pairs right (60.8% to 71.4%); the "
        "baseline 64.3%, a difference of +2.0 points (\u22123.1 to +7.1): neither is shown to be better."
    )
    page = Page(text)
    assert page.tables["Accuracy by set"] == [
        [
            "set",
            "pairs",
            "ties",
            "accuracy",
            "95% interval",
            "baseline",
            "difference",
            "95% interval",
        ],
        ["held out", "300", "2", "66.3%", "60.8% to 71.4%", "64.3%", "+2.0", "\u22123.1 to +7.1"],
        ["llmbar", "100", "0", "57.0%", "47.2% to 66.3%", "", "", ""],
    ]
    assert page.tables["Settings"][:4] == [
        ["setting", "model"],
        ["method", "reward"],
        ["base", "org/tiny"],
        ["layers", "2"],
    ]
    assert ["learning_rate", "1e-05"] in page.tables["Settings"]
    assert ["optim", "adamw_torch"] in page.tables["All other settings"]
    assert page.tables["Data"][1] == ["model", "1,700", "40", "prompt, chosen, rejected"]
    loss = page.tables["Loss"][1]
    assert loss[0] == "model"
    assert loss[1:] == ["0.69", "0.315", "0.3", "0.69"]  # first, last tenth, lowest, highest
    assert any(label.startswith("Loss by step. model: 0.69 to 0.3") for label in page.pictures)
    assert '<circle class="dot"' in text


async def test_the_page_fetches_nothing_and_is_the_same_each_time(
    pipeline: Write, tmp_path: Path
) -> None:
    rows = [row(model=record(), start=record("sft"), accuracy=JUDGED)]
    text = await page_of(pipeline, tmp_path, *rows)
    page = Page(text)
    assert page.fetched == []
    assert not {"script", "link", "img", "iframe", "object"} & page.tags
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert str(tmp_path) not in text
    place = tmp_path / "out" / "report.html"
    inode = place.stat().st_ino
    assert await page_of(pipeline, tmp_path, *rows) == text
    assert place.stat().st_ino == inode  # left alone
    assert [p.name for p in place.parent.iterdir()] == ["report.html"]
    assert await page_of(pipeline, tmp_path, *rows, title="Other") != text


async def test_what_comes_from_data_is_text(pipeline: Write, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    model = record(
        base=bad,
        args={bad: bad},
        alarms=[f"{bad} `{bad}`"],
        data={"rows": 1, "columns": [bad]},
        history=[{"step": i, "loss": 1.0, bad: float(i)} for i in (1, 2)],
    )
    judged = {bad: {"n": 3, "accuracy": 0.5}}
    text = await page_of(pipeline, tmp_path, row(model=model, accuracy=judged), title=bad)
    page = Page(text)
    assert "script" not in page.tags
    assert text.count("&lt;script&gt;") >= 8
    assert page.tables["Accuracy by set"][1][0] == bad
    assert any(label.startswith(f"{bad} by step.") for label in page.pictures)


async def test_trainings_of_one_method_share_charts_and_alarms_are_in_view(
    pipeline: Write, tmp_path: Path
) -> None:
    start = record("sft", history=[{"step": i, "loss": 3.0 / i} for i in range(1, 5)])
    rows = [
        row(seed, record(seed=seed, alarms=[f"alarm {seed}"]), start, accuracy=JUDGED)
        for seed in (1, 2)
    ]
    text = await page_of(pipeline, tmp_path, *rows)
    page = Page(text)
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Alarms",
        "Accuracy",
        "Learning curves: Reward model",
        "Learning curves: Supervised fine-tuning",
        "Settings",
        "Data",
    ]
    assert "<b>model, seed 1</b>: alarm 1" in text
    assert "<b>model, seed 2</b>: alarm 2" in text
    assert page.tables["Settings"][0] == ["setting", "model, seed 1", "start", "model, seed 2"]
    assert page.tables["Settings"][1] == ["method", "reward", "sft", "reward"]  # differs: first
    assert [r[0] for r in page.tables["Accuracy"][1:]] == ["model, seed 1", "model, seed 2"]
    assert [r[:2] for r in page.tables["Accuracy by set"][1:]] == [
        ["held out", "seed 1"],
        ["held out", "seed 2"],
        ["llmbar", "seed 1"],
        ["llmbar", "seed 2"],
    ]
    assert "2 models; on the held-out pairs they rank between" in text
    loss = next(p for p in page.pictures if p.startswith("Loss by step. model, seed 1"))
    assert "; model, seed 2: " in loss


async def test_each_model_of_a_row_has_an_accuracy_of_its_own(
    pipeline: Write, tmp_path: Path
) -> None:
    judged = {"held out": JUDGED["held out"]}
    text = await page_of(pipeline, tmp_path, row(accuracy=judged, plain=judged))
    assert [r[:3] for r in Page(text).tables["Accuracy by set"][1:]] == [
        ["held out", "", "300"],
        ["held out", "plain", "300"],
    ]


async def test_without_pairs_it_says_how_the_loss_fell(pipeline: Write, tmp_path: Path) -> None:
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.75}]
    text = await page_of(pipeline, tmp_path, row(model=record("sft", history=history)))
    assert "The loss goes from 2 to <b>1.5</b>" in text
    assert "on held-out rows it is 1.75." in text
    assert "<h2>Accuracy</h2>" not in text


async def test_what_is_no_number_leaves_a_gap(pipeline: Write, tmp_path: Path) -> None:
    history = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": 1.0},
    ]
    text = await page_of(pipeline, tmp_path, row(model=json.dumps(record("sft", history=history))))
    assert "nan" not in text.lower()
    assert Page(text).tables["Loss"][1] == ["model", "2", "1", "1", "2"]


async def test_a_comparison_says_what_it_shows() -> None:
    for low, high, said in (
        (0.01, 0.05, "the model is better"),
        (-0.05, -0.01, "the model is worse"),
        (0.0, 0.05, "neither is shown to be better"),
    ):
        judged = JUDGED["held out"] | {"difference_low": low, "difference_high": high}
        assert said in verdict_of({"held_out": judged})
    assert "does not show that it is better than chance" in verdict_of({"a": JUDGED["llmbar"]})


def verdict_of(judged: dict[str, Any]) -> str:
    from engine_train.judging import Measured, verdict

    return verdict([Measured("", name, numbers) for name, numbers in judged.items()])


async def test_bad_input_gets_a_clear_error(pipeline: Write, tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match="no row has a trained model or what `train.evaluate` gives, so"
    ):
        await page_of(pipeline, tmp_path, row())
    with pytest.raises(EngineError, match=r"row \w+, model: the model's training.json is no JSON"):
        await page_of(pipeline, tmp_path, row(model="{"))
    with pytest.raises(EngineError, match="does not say its `method`: it was not written by"):
        await page_of(pipeline, tmp_path, row(model={"a": 1}))
    with pytest.raises(
        EngineError, match="`accuracy` has no `n` and `accuracy` for 'x': give what"
    ):
        await page_of(pipeline, tmp_path, row(model=record(), accuracy={"x": {"share": 1.0}}))
    assert not (tmp_path / "out").exists()
    with pytest.raises(PipelineError, match="path: 'report.pdf' is no page: end it in .html"):
        await run_stage(report, [{"accuracy": JUDGED}], path=tmp_path / "report.pdf")
    (tmp_path / "texts.jsonl").write_text('{"text": "x"}\n')
    stages = {
        "read": {"use": "dataset.read", "with": {"path": "texts.jsonl"}},
        "report": {"use": "train.report", "with": {"path": "report.html"}},
    }
    with pytest.raises(PipelineError, match=r"no row has a model, an Artifact \(rows have: text\)"):
        await engine.run(pipeline("stages: " + json.dumps(stages)), store=":memory:")
    (tmp_path / "a.html").mkdir()
    with pytest.raises(EngineError, match="a.html is a folder: name a file in it"):
        await run_stage(report, [{"accuracy": JUDGED}], path=tmp_path / "a.html")


def test_a_smoothed_line_keeps_a_slope_and_thinning_keeps_the_peaks() -> None:
    line = [(float(i), 2.0 * i) for i in range(300)]
    assert smooth(line) == [(step, pytest.approx(2 * step)) for step, _ in smooth(line)]
    assert smooth(line[:10]) == line[:10]
    noisy = [(float(i), float(i % 2)) for i in range(300)]
    assert all(0.4 < value < 0.6 for _, value in smooth(noisy))
    peak = [(float(i), 9.0 if i == 777 else 0.0) for i in range(10_000)]
    kept = thin(peak)
    assert len(kept) <= 240
    assert (777.0, 9.0) in kept
    assert [step for step, _ in kept] == sorted(step for step, _ in kept)


def test_charts_can_be_drawn_of_anything() -> None:
    for points in (
        [(1.0, 0.0)],
        [(1.0, 5.0), (2.0, 5.0)],
        [(1.0, -1e9), (2.0, 1e9)],
        [(1.0, 1e-12), (900_000.0, 3e-12)],
        [(float(i), 10.0 ** (i % 5)) for i in range(50)],
    ):
        for log in (False, True):
            text = chart([Curve("a", points)], label="l", log=log)
            numbers = [float(n) for n in re.findall(r' c?[xy][12]?="([^"]+)"', text)]
            assert all(-1 <= n <= 360 for n in numbers)
            assert text.count("<svg") == text.count("</svg>") == 1


def test_numbers_are_short() -> None:
    given = [0, 0.69315, 12.3456, 1234.5, 2e-5, -0.5, 123.4, 100.0, 3.2e8]
    assert [number(n) for n in given] == [
        *("0", "0.693", "12.3", "1,234", "2e\u22125", "\u22120.5", "123", "100", "3.2e8"),
    ]
