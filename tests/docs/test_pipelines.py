"""The reference names every key of a pipeline file, and no other, with its default."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from engine import shape
from engine.errors import EngineError, InputError, StageError, StoreError

PAGE = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text("utf-8")
TABLES = {
    "Top-level keys": shape.PipelineModel,
    "Keys of a resource": shape.ResourceModel,
    "Keys of a stage": shape.StageModel,
}


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading: first cell -> the other cells."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


def shown(default: object) -> str:
    match default:
        case str() | bool():
            return f"`{default}`"
        case int():
            return f"`{default}`"
        case None:
            return "none"
        case ():
            return "`[]`"
    return "`{}`"


@pytest.mark.parametrize("heading", TABLES)
def test_every_key_is_documented_with_its_default(heading: str) -> None:
    model: type[BaseModel] = TABLES[heading]
    rows = table(heading)
    fields = {info.alias or name: info for name, info in model.model_fields.items()}
    assert list(rows) == list(fields)
    for name, info in fields.items():
        _, default, meaning = rows[name]
        assert meaning.endswith("."), name
        if info.is_required() or info.default is PydanticUndefined:
            assert default == "required", name
        elif name != "from":  # its default is in words: the stage before
            assert default == shown(info.default), name


def test_the_reserved_limits_are_named() -> None:
    for name in shape.LimitsModel.model_fields:
        assert f"`{name}`" in table("Top-level keys")["limits"][2]


def test_the_exit_codes_are_those_of_the_errors() -> None:
    codes = table("Exit codes")
    for error in (EngineError, StageError, InputError, StoreError):
        assert str(error.exit_code) in codes


def test_links_lead_somewhere() -> None:
    docs = Path(__file__).parents[2] / "docs"
    for page in [*docs.glob("*.md"), *docs.parent.glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
