"""Rows, pipelines and runs in a notebook: what stands there, and that it is never markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import engine
from engine import Artifact, Message, Row, Text
from engine.errors import StageError
from engine.pipeline import read_pipeline
from engine.services import Counters, Usage
from engine.views import clock

Show = Callable[[str], Any]
Write = Callable[..., Path]
SCRIPT = "<script>alert(1)</script>"
nasty = st.sampled_from([SCRIPT, '"><img src=x>', "</td>", "&lt;", "\ud800", "\0", "'"]) | st.text(
    max_size=5
)

STAGES = '''
from collections.abc import AsyncIterator
import anyio
from engine import Reject, Row, Text, stage

class Line(Row):
    line: Text

class Loud(Row):
    loud: Text

class Both(Row):
    both: Text

@stage("t.lines")
async def lines(*, count: int = 3) -> AsyncIterator[Line]:
    """Make <lines>, and "lines"."""
    for i in range(count):
        yield Line(f"line {i}")

@stage("t.loud")
async def loud(line: Text) -> Loud:
    """Say it louder."""
    if line == "line 1":
        raise Reject("<b>dull</b>", span=line)
    return Loud(line.upper())

@stage("t.held")
async def held(line: Text) -> Loud:
    """Wait for ever."""
    await anyio.sleep_forever()

@stage("t.fails")
async def fails(line: Text) -> Loud:
    """Fail."""
    raise ValueError("<i>broken</i>")

@stage("t.both")
async def both(loud: Text, quiet: Text, extra: Text = Text("")) -> Both:
    """Put both together."""
    return Both(loud + quiet)
'''
FORK = """
name: fork
stages:
  lines: {use: ./stages.py:lines}
  loud:  {use: ./stages.py:loud}
  quiet: {use: ./stages.py:loud, from: lines, give: {loud: quiet}}
  both:  {use: ./stages.py:both, from: {all: [loud, quiet]}}
  more:  {use: ./stages.py:loud, take: {line: both}, give: {loud: more}}
"""


class Pair(Row):
    prompt: Text
    turns: tuple[Message, ...]


class Inner(BaseModel):
    quote: Text
    score: float


def test_a_row_is_a_table_of_its_fields(show: Show) -> None:
    said = Text.leaf("Which?", "source:q.jsonl", params={"line": 1})
    reply = Text.leaf("That one.", "stage:answer")
    row = Pair.of(
        {
            "prompt": said,
            "turns": (Message(role="user", content=said), {"role": "assistant", "content": reply}),
            "numbers": [1, 2.5, None, True],
            "inner": Inner(quote=reply[:4], score=0.5),
            "several": (said, "plain"),
            "none": None,
            "bytes": b"abc",
            "empty": [],
            "weights": Artifact("9f3a", "application/x-safetensors", 269_123_456, True),
            "drawing": Artifact("77c0", "image/svg+xml", 812),
            "odd": object,
        },
        b"\x12\x34" * 8,
    )
    shown = show(row._repr_html_()).words
    for part in (
        "Pair 123412341234",
        "promptWhich?",
        "turnsuserWhich?assistantThat one.",
        "numbers[1, 2.5, None, True]",
        "innerquoteThatscore0.5",
        "several0Which?1plain",
        "noneNone",
        "bytes3 bytes",
        "empty",
        "application/x-safetensors, folder, 269.1 MB digest 9f3a",
        "image/svg+xml, 812 bytes digest 77c0",
        "odd<class 'object'>",
        "[1] source q.jsonl (line 1)[2] stage answer",
    ):
        assert part in shown
    assert row._repr_html_().count("[1]</sup>") == 3, "one number for a source in all fields"


@given(st.dictionaries(nasty, nasty, max_size=3), nasty)
@settings(max_examples=150, deadline=None, database=None)
def test_no_field_can_be_markup(show: Show, fields: dict[str, str], value: str) -> None:
    texts = {f"{name}t": Text.leaf(text, f"s:{value}") for name, text in fields.items()}
    nested = {"deep": [fields, {"role": value, "content": texts}], "odd": [Odd(value, value)]}
    nested["turns"] = [{"role": value, "content": value}]
    shown = show(Row.of(fields | texts | nested)._repr_html_())
    assert SCRIPT not in value or SCRIPT in shown.words
    assert not value.isalnum() or value in shown.words


class Odd:
    """Neither a mapping nor a model; its repr is markup."""

    def __init__(self, role: str, content: str) -> None:
        self.role, self.content = role, content

    def __repr__(self) -> str:
        return f"<Odd {self.role} {SCRIPT}>"


def test_what_is_long_or_deep_is_cut_and_said(show: Show) -> None:
    deep: Any = "end"
    for _ in range(50):
        deep = {"in": deep}
    turns = tuple(Message(role="user", content=Text(f"turn {i}")) for i in range(25))
    row = Row.of(
        {"many": [f"item {i}" for i in range(25)], "deep": deep, "turns": turns, "s": "x" * 10_009}
    )
    shown = show(row._repr_html_()).words
    assert "item 19" in shown
    assert "item 20" not in shown
    assert "… 5 more" in shown
    assert "turn 19… 5 more turns" in shown
    assert "… 9 more characters" in shown
    assert shown.count("in{'in'") == 1


def test_a_pipeline_is_a_table_of_stages_and_its_ways(
    pipeline: Write, tmp_path: Path, show: Show
) -> None:
    shown = show(read_pipeline(pipeline(FORK, stages=STAGES))._repr_html_())
    assert shown.words.startswith("fork ")
    for part in (
        "lines → loudlines → quietloud, quiet → both → more",
        "stageusekindreadsaddsresourcesfrom",
        "lines./stages.py:linessourceline",
        "quiet./stages.py:loudmaplinequietlines",
        "both./stages.py:bothmaploud, quiet, extra?bothall of loud, quiet",
        "more./stages.py:loudmapboth as linemoreboth",
        "note: ",
    ):
        assert part in shown.words
    assert 'Make <lines>, and "lines".' in shown.titles


def test_resources_and_sinks_are_named(root: Path, show: Show) -> None:
    page = read_pipeline(root / "examples/questions/questions.yaml")._repr_html_()
    shown = show(page).words
    assert "read → answer → write" in shown
    assert "answer./my_stages.py:answermapquestionanswerllm: writerread" in shown
    assert "write" in shown
    assert "sinkall fieldsanswer" in shown
    assert "resources: writer (fixture.chat)" in shown


@pytest.fixture
def root() -> Path:
    return Path(__file__).parents[2]


@pytest.mark.anyio
async def test_a_run_tells_its_counts_and_its_reasons(pipeline: Write, show: Show) -> None:
    path = pipeline(
        "stages: {lines: {use: ./stages.py:lines}, loud: {use: ./stages.py:loud}}", stages=STAGES
    )
    async with engine.open(path, store=":memory:") as run:
        await run.finish()
    page = run._repr_html_()
    assert page == run.summary._repr_html_()
    shown = show(page).words
    assert re.match(r"test: done: 2 finished, 1 rejected, 0 dead, \d+s", shown)
    assert "stageinoutrejecteddeadreusedlines3loud321" in shown
    assert "loud: 1 x <b>dull</b>“line 1”" in shown


@pytest.mark.anyio
async def test_a_run_is_live(pipeline: Write, show: Show) -> None:
    path = pipeline(
        "stages: {lines: {use: ./stages.py:lines}, held: {use: ./stages.py:held}}", stages=STAGES
    )
    run = engine.open(path, store=":memory:")
    assert "0 finished" in show(run._repr_html_()).words
    async with run:
        with anyio.fail_after(30):
            while run.counters["held"].in_flight < 3 or not run.counters["lines"].done:
                await anyio.lowlevel.checkpoint()
        shown = show(run._repr_html_()).words
        assert shown.startswith("test: running: 0 finished")
        assert "reusedrunning" in shown
        assert "✓ lines3" in shown
        assert "· held33" in shown, "three came in, three are in flight"
    assert show(run._repr_html_()).words.startswith("test: cancelled")


@pytest.mark.anyio
async def test_an_error_is_told(pipeline: Write, show: Show) -> None:
    path = pipeline(
        "stages: {lines: {use: ./stages.py:lines}, "
        "fails: {use: ./stages.py:fails, on_error: fail, retry: 1}}",
        stages=STAGES,
    )
    with pytest.raises(StageError):
        async with engine.open(path, store=":memory:") as run:
            await run.finish()
    shown = show(run._repr_html_()).words
    assert shown.startswith("test: failed")
    assert "error: " in shown
    assert "<i>broken</i>" in shown


@given(nasty, nasty, nasty)
@settings(max_examples=80, deadline=None, database=None)
def test_nothing_of_a_run_can_be_markup(show: Show, key: str, reason: str, value: str) -> None:
    counters = Counters("map", received=1234, rejected=1, replayed=2)
    counters.spend(Usage(1500, 20, 3, 0.5), value)
    counters.reject(reason, value)
    counters.sanitised[value] = 1
    summary = engine.Summary(
        pipeline=key,
        status="failed",
        finished=0,
        rejected=1,
        dead=0,
        seconds=61,
        stages={key: counters},
        tally={reason: {value: 3}},
        max_dead=0,
        error=value,
    )
    shown = show(summary._repr_html_()).words
    assert "1,234" in shown
    assert "1m01s" in shown
    assert "1 calls: 1,500 new and 20 cached tokens in, 3 out, cost 0.5000" in shown
    assert "2 calls were answered from the store" in shown


def test_many_reasons_and_values_are_cut_and_said(show: Show) -> None:
    counters = Counters("map", rejected=25)
    for i in range(25):
        counters.reject(f"reason {i}", "")
    summary = engine.Summary(
        pipeline="p",
        status="done",
        finished=0,
        rejected=25,
        dead=0,
        seconds=0,
        stages={"s": counters},
        tally={"origin": {f"value {i}": 1 for i in range(25)}},
        max_dead=0,
    )
    shown = show(summary._repr_html_()).words
    assert "reason 19" in shown
    assert "reason 20" not in shown
    assert "s: … 5 more reasons" in shown
    assert "value 19 1, … 5 more values" in shown


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0s"), (59.6, "1m00s"), (185, "3m05s"), (7620, "2h07m")]
)
def test_seconds_are_said_as_people_do(seconds: float, said: str) -> None:
    assert clock(seconds) == said
