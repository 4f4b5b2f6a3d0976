"""`engine schema`: what an editor gets of the installed plugins."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from engine import shape
from engine.loader import load, loads

Cli = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```yaml[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def schema(cli: Cli) -> Any:
    done = cli("schema")
    assert (done.returncode, done.stderr) == (0, "a module that talks\n")
    return json.loads(done.stdout)


def strange(pipeline: Any, known: list[str]) -> bool:
    """Whether it uses a plugin that is not installed, such as one that an embedder gives."""
    uses = [stage["use"] for stage in pipeline["stages"].values()]
    return any("/" not in use and use.partition(".")[0] not in known for use in uses)


def test_a_schema_is_valid_the_same_each_time_and_of_no_machine(
    cli: Cli, schema: Any, tmp_path: Path
) -> None:
    Draft202012Validator.check_schema(schema)
    again = cli("schema", "-o", "s.json", PYTHONHASHSEED="7")
    assert (again.returncode, again.stdout) == (0, "")
    written = (tmp_path / "s.json").read_text("utf-8")
    assert json.loads(written) == schema
    assert str(tmp_path) not in written
    assert str(ROOT) not in written


def test_a_parameter_has_type_default_and_docs(schema: Any) -> None:
    make = schema["$defs"]["stage:good.make"]["properties"]["with"]["properties"]
    assert make["file"] == {
        "type": "string",
        "description": 'It reads `file`.\n\n`Path`, by default `"st_test_good.py"`',
    }
    assert make["hues"] == {
        "type": "array",
        "items": {"type": "string"},
        "default": ["a", "b"],
        "description": '`frozenset[str]`, by default `["a", "b"]`',
    }
    assert "default" not in make["end"]  # no YAML holds it
    assert make["end"]["description"] == '`float`, by default `"inf"`'
    assert schema["$defs"]["Style"]["properties"]["colour"]["description"] == "The colour."
    size = schema["$defs"]["stage:good.size"]["properties"]["with"]
    assert size["properties"]["most"]["description"] == "The largest size.\n\n`int`, required"
    assert size["required"] == ["box", "most"]
    box = schema["$defs"]["resource:good.box"]["properties"]["with"]["properties"]["width"]
    assert (box["default"], box["type"]) == (1.0, ["number", "string"])


def test_the_pipelines_that_come_along_are_valid(schema: Any) -> None:
    shipped = [*ROOT.glob("pipelines/*.yaml"), *ROOT.glob("examples/*/*.yaml")]
    pages = [page.read_text("utf-8") for page in (ROOT / "docs").glob("*.md")]
    values = [load(path).value for path in shipped]
    values += [loads(body).value for page in pages for body in FENCE.findall(page)]
    known = schema["properties"]["plugins"]["items"]["anyOf"][0]["enum"]
    whole = [value for value in values if "name" in value and not strange(value, known)]
    assert len(whole) >= 5
    for value in whole:
        Draft202012Validator(schema).validate(value)


def test_a_key_is_explained_as_on_the_page(schema: Any) -> None:
    text = (ROOT / "docs" / "pipelines.md").read_text("utf-8")
    for heading, model, part in (
        ("Top-level keys", shape.PipelineModel, schema),
        ("Keys of a resource", shape.ResourceModel, schema["$defs"]["resource"]),
        ("Keys of a stage", shape.StageModel, schema["$defs"]["stage"]),
    ):
        section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
        for name, info in model.model_fields.items():
            key = info.alias or name
            row = next(line for line in section.splitlines() if line.startswith(f"| `{key}` "))
            said = part["properties"][key]
            if said is True:  # the stage or resource chosen says it, too
                said = schema["$defs"][f"{heading.split()[-1]}:other"]["properties"][key]
            if key != "from":  # the page describes it at length
                assert said["description"] == row.strip("| ").rpartition(" | ")[2], key


def test_a_broken_plugin_is_left_out_and_said(cli: Cli) -> None:
    done = cli("schema", broken=True)
    assert done.returncode == 2
    assert "stage:good.size" in json.loads(done.stdout)["$defs"]
    assert "broken" not in done.stdout
    assert "engine: plugin broken is left out: plugin 'broken' (test-broken" in done.stderr
    assert "\x1b" not in done.stderr
