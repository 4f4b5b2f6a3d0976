"""The other pages: their Python runs as it stands, and their tables say what the code says."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from engine_train.chats import TransformersChat

import engine
from engine.chat import Sampling
from engine.chat.embedded_chat import EmbeddedChat
from engine.chat.fixture_chat import FixtureChat
from engine.chat.openai_chat import OpenAIChat
from engine.chat.protocol import Chat, Feature
from engine.text import LOSSES

Pages = Callable[[str], Any]

KINDS = """
name: kinds
stages:
  topics:   {use: ./kinds.py:topics, with: {names: [kayak, green tea, boats and ships]}}
  measure:  {use: ./kinds.py:measure}
  rank:     {use: ./kinds.py:rank}
  letters:  {use: ./kinds.py:letters}
  distinct: {use: ./kinds.py:distinct}
  numbered: {use: ./kinds.py:numbered}
  draw:     {use: ./kinds.py:draw}
"""


@pytest.fixture
def kinds(page: Pages, tmp_path: Path) -> Path:
    """The examples of stages.md as one file."""
    file = tmp_path / "kinds.py"
    bodies = [block.body for block in page("stages.md").blocks("python")]
    file.write_text("\n\n".join(bodies), "utf-8")
    return file


@pytest.mark.anyio
async def test_the_examples_of_stages_run(kinds: Path) -> None:
    path = kinds.with_name("kinds.yaml")
    path.write_text(KINDS, "utf-8")
    async with engine.open(path, store=":memory:") as run:
        rows = [row async for row in run]
    assert "".join(row["letter"] for row in sorted(rows, key=lambda r: r["place"])) == "kaygrent"
    assert all(row["drawing"].media_type == "image/svg+xml" for row in rows)
    stages = run.summary.stages
    assert stages["measure"].reasons == {"too_long": 1}
    assert stages["letters"].reasons == {"space": 1}
    assert stages["distinct"].reasons == {"repeated": 5}
    path.write_text(
        "name: c\nstages: {c: {use: ./kinds.py:constant, with: {name: n, value: 3}}}", "utf-8"
    )
    async with engine.open(path, store=None) as run:
        assert [row["n"] async for row in run] == [3]
        assert run.pipeline.stages["c"].fields == {"n": int}


@pytest.mark.anyio
async def test_the_tests_of_stages_pass(kinds: Path) -> None:
    spec = importlib.util.spec_from_file_location("docs_kinds", kinds)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["docs_kinds"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        tests = [value for name, value in vars(module).items() if name.startswith("test_")]
        assert tests
        for test in tests:
            await test()
    finally:
        del sys.modules["docs_kinds"]


def test_the_examples_of_text_run(
    page: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts").mkdir()
    (prompt,) = page("text.md").blocks("markdown")
    (tmp_path / "prompts" / "answer.md").write_text(prompt.body, "utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs_text"}
    for block in page("text.md").blocks("python"):
        exec(block.body, names)


def test_the_lost_idioms_are_the_codes(page: Pages) -> None:
    assert list(page("text.md").table("Keeping the graph")) == list(LOSSES)


@pytest.mark.parametrize(
    ("heading", "cls"),
    [
        ("`embedded.chat`", EmbeddedChat),
        ("`openai.chat`", OpenAIChat),
        ("`fixture.chat`", FixtureChat),
        ("`transformers.chat`", TransformersChat),
    ],
)
def test_the_parameters_of_a_chat_are_documented(page: Pages, heading: str, cls: type) -> None:
    rows = page("models.md").table(heading)
    for pair in (("rpm", "tpm"), ("input_tpm", "output_tpm")):
        rows |= dict.fromkeys(pair, rows.pop("`, `".join(pair), []))
    parameters = inspect.signature(cls).parameters
    rows = {name: cells for name, cells in rows.items() if cells}
    assert set(rows) == set(parameters)
    for name, parameter in parameters.items():
        match parameter.default:
            case None:
                expected = "none"
            case inspect.Parameter.empty:
                expected = "required"
            case tuple() as values:
                expected = ", ".join(f"`{value}`" for value in values)
            case Sampling():
                continue
            case default:
                expected = f"`{default}`"
        assert rows[name][0] == expected, name


def test_the_features_and_samplings_are_documented(page: Pages) -> None:
    text = page("models.md")
    assert set(text.table("`can`")) == set(get_args(Feature))
    call = next(line for line in text.text.splitlines() if "llm.complete(messages" in line)
    for name in list(inspect.signature(Chat.complete).parameters)[2:]:
        assert f"{name}=" in call
    line = next(line for line in text.text.splitlines() if "`Sampling(" in line)
    assert line.split("Sampling(")[1].split(")")[0].split(", ") == list(Sampling.model_fields)


@pytest.mark.anyio
async def test_the_example_runs(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    async with engine.open(
        root / "examples/questions/questions.yaml",
        store=":memory:",
        set=[f"stages.write.with.path={out}"],
    ) as run:
        summary = await run.finish()
    assert (summary.exit_code, summary.finished) == (0, 3)
    assert len(out.read_text("utf-8").splitlines()) == 3
