"""The reference names every key of a pipeline file, and no other, with its default."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from engine import shape
from engine.errors import EngineError, InputError, StageError, StoreError
from engine.loader import loads

Pages = Callable[[str], Any]
TABLES = {
    "Top-level keys": shape.PipelineModel,
    "Keys of a resource": shape.ResourceModel,
    "Keys of a stage": shape.StageModel,
}


def shown(default: object) -> str:
    match default:
        case None:
            return "none"
        case str() | int():
            return f"`{default}`"
        case ():
            return "`[]`"
    return "`{}`"


@pytest.mark.parametrize("heading", TABLES)
def test_every_key_is_documented_with_its_default(page: Pages, heading: str) -> None:
    model: type[BaseModel] = TABLES[heading]
    rows = page("pipelines.md").table(heading)
    fields = {info.alias or name: info for name, info in model.model_fields.items()}
    assert list(rows) == list(fields)
    for name, info in fields.items():
        _, default, meaning = rows[name]
        assert meaning.endswith("."), name
        if info.is_required():
            assert default == "required", name
        elif name != "from":  # its default is in words: the stage before
            assert default == shown(info.default), name


def test_the_reserved_limits_are_named(page: Pages) -> None:
    meaning = page("pipelines.md").table("Top-level keys")["limits"][2]
    assert all(f"`{name}`" in meaning for name in shape.LimitsModel.model_fields)


def test_the_exit_codes_are_those_of_the_errors(page: Pages) -> None:
    codes = page("pipelines.md").table("Exit codes")
    assert {str(e.exit_code) for e in (EngineError, StageError, InputError, StoreError)} <= set(
        codes
    )


def test_yaml_is_read_as_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_NAME", "value")
    text = "{a: true, b: no, c: 12:30, d: '5', e: 5, f: $SOME_NAME, g: '$SOME_NAME'}"
    assert loads(text).value == {
        **{"a": True, "b": "no", "c": "12:30", "d": "5", "e": 5},
        **{"f": "value", "g": "$SOME_NAME"},
    }


def test_yaml_blocks_are_yaml(root: Path) -> None:
    for path in (root / "docs").glob("*.md"):
        for body in re.findall(r"^```yaml[^\n]*\n(.*?)^```$", path.read_text("utf-8"), re.M | re.S):
            assert isinstance(loads(body).value, dict)


def test_links_lead_somewhere(root: Path) -> None:
    for path in [*(root / "docs").glob("*.md"), *root.glob("*.md")]:
        prose = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", prose):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
