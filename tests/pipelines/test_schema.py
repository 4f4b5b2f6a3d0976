"""The schema refuses no pipeline that the engine takes, and those that are misshapen."""

import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from engine.errors import EngineError
from engine.loader import load

FILES = sorted((Path(__file__).parent / "bad").glob("*.yaml"))
MISSHAPEN = re.compile(
    r"a pipeline (is a|has) |(it|`from:`) should be |unknown key|the key '\w+' is missing"
    r"|at least one stage|is no stage key|has no (parameter|stage|resource) '|needs (a resource )?`"
    r"|no YAML gives|is no name|no function|no plugin named|plugin '\w+' .*cannot be imported"
    r"|is a source:|is a (stage|resource), not|(reads|adds) no field|no field can be"
    r"|`from:` (is|names) a stage|is a join of two"
)
"""What the messages say of faults that a schema can express."""
INHERITED = "join_without_from"  # a join after a sink that is a join reads what that one read


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_misshapen_pipeline_is_refused(file: Path, validator: Draft202012Validator) -> None:
    try:
        document = load(file)
    except EngineError:
        return  # no YAML, as the editor's own parser says, or no value in the environment
    told = next(line for line in file.read_text("utf-8").splitlines() if "# expect: " in line)
    if MISSHAPEN.search(told) and "--set" not in told and file.stem != INHERITED:
        assert not validator.is_valid(document.value), told


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        ({"stages": {"a": {"use": "toy.numbers", "with": {"count": "$N"}}}}, ""),
        ({"seed": "$SEED", "stages": {"a": {"use": "$STAGE", "with": {"x": 1}}}}, ""),
        ({"stages": {"a": {"use": "./a.py:f", "with": {"x": [1]}, "from": {"x": "a"}}}}, ""),
        ({"stages": {"a": {"use": "toy.numbers", "with": {"count": "N"}}}}, "does not match"),
        ({"stages": {"a": {"use": "toy.nmbers"}}}, "is not valid under any of the given"),
        ({"stages": {"a": {"use": "./a.py"}}}, "is not valid under any of the given"),
        ({"stages": {"a": {"use": "toy.half", "take": {"m": "x"}}}}, "'m' was unexpected"),
    ],
)
def test_values_of_the_environment_and_local_stages_are_open(
    validator: Draft202012Validator, pipeline: dict[str, Any], said: str
) -> None:
    errors = [error.message for error in validator.iter_errors({"name": "p", **pipeline})]
    assert len(errors) == bool(said)
    assert not said or said in errors[0]


def test_what_a_node_may_hold_is_what_its_signature_says(validator: Draft202012Validator) -> None:
    parts = validator.schema["$defs"]
    boxed = parts["stage:toy.boxed"]["properties"]
    assert boxed["with"]["properties"] == {
        "box": {"type": "string", "description": "the key of a resource, `Box`"},
        "spare": {"type": ["string", "null"], "description": "the key of a resource, `Lamp`"},
    }
    assert boxed["with"]["required"] == ["box"]
    assert boxed["take"]["properties"] == {"n": {"type": "string", "description": "`int`"}}
    assert list(boxed["give"]["properties"]) == ["doubled"]
    pairs = parts["stage:toy.pairs"]["properties"]["from"]
    assert pairs["required"] == ["left", "right"]
    numbers = parts["stage:toy.numbers"]["properties"]["with"]["properties"]
    assert numbers["count"]["type"] == ["integer", "string"]
    assert (numbers["count"]["exclusiveMinimum"], numbers["count"]["default"]) == (0, 3)
    assert numbers["label"]["description"] == '`str`, by default `"number"`'
    assert "opaque" not in parts["stage:toy.strange"]["properties"]["with"]["properties"]
    assert parts["Style"]["properties"]["colour"]["default"] == "red"


def test_a_broken_plugin_offers_nothing(validator: Draft202012Validator) -> None:
    assert validator.schema["properties"]["plugins"]["items"]["anyOf"][0]["enum"] == [
        "dataset",
        "toy",
    ]
