"""What a good pipeline becomes: order, inputs, fields, ids, configuration, notes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from engine import PipelineError, Text
from engine.loader import loads, override
from engine.pipeline import Pipeline, Source, read_pipeline

Wire = Callable[..., Pipeline]


@pytest.fixture
def wire(tmp_path: Path, validator: Draft202012Validator) -> Wire:
    """Read a pipeline; the schema takes what the engine takes."""

    def wire(stages: str, *, top: str = "", **options: Any) -> Pipeline:
        document = loads(f"name: good\n{top}\nstages:\n{stages}", folder=tmp_path)
        made = read_pipeline(document, **options)
        for keys, name in document.environment.items():  # as the file has it
            document = override(document, f"{'.'.join(map(str, keys))}='${name}'")
        validator.validate(document.value)
        return made

    return wire


BRANCHES = """
  numbers: {use: toy.numbers}
  double: {use: toy.double}
  half: {use: toy.half, from: numbers}
"""


# --- from ---------------------------------------------------------------------------------------


def test_the_order_of_the_file_is_the_wiring(wire: Wire) -> None:
    made = wire(
        "  numbers: {use: toy.numbers}\n  double: {use: toy.double}\n  a: {use: toy.half}\n"
    )
    assert made.order == ("numbers", "double", "a")
    assert [wired.source for wired in made.stages.values()] == [
        None,
        Source("one", ("numbers",)),
        Source("one", ("double",)),
    ]
    assert made.stages["a"].inputs == {"": {"n": int, "label": Text, "doubled": int}}
    assert made.stages["a"].fields == {"n": int, "label": Text, "doubled": int, "half": float}
    assert made.readers("numbers") == ["double"]


def test_from_may_name_a_stage_that_stands_below(wire: Wire) -> None:
    made = wire(
        "  half: {use: toy.half, from: double}\n  numbers: {use: toy.numbers}\n"
        "  double: {use: toy.double}\n"
    )
    assert made.order == ("numbers", "double", "half")
    assert list(made.stages) == ["half", "numbers", "double"]


def test_a_list_passes_on_what_all_have(wire: Wire) -> None:
    made = wire(BRANCHES + "  both: {use: toy.sink, from: [double, half]}\n")
    assert made.stages["both"].source == Source("concat", ("double", "half"))
    assert made.stages["both"].inputs == {"": {"n": int, "label": Text}}


def test_a_list_unites_the_types_of_a_field(wire: Wire) -> None:
    made = wire(
        BRANCHES
        + "  a: {use: toy.stamp, from: numbers, give: {label: half}}\n"
        + "  both: {use: toy.sink, from: [a, half]}\n"
    )
    assert made.stages["both"].inputs[""]["half"] == Text | float


def test_all_unites_the_fields_of_branches(wire: Wire) -> None:
    made = wire(BRANCHES + "  both: {use: toy.sink, from: {all: [double, half]}}\n")
    assert made.stages["both"].source == Source("all", ("double", "half"))
    assert made.stages["both"].inputs[""] == {
        "n": int,
        "label": Text,
        "doubled": int,
        "half": float,
    }


def test_all_takes_the_newer_version_of_a_field(wire: Wire) -> None:
    made = wire(
        "  numbers: {use: toy.numbers}\n  changed: {use: toy.relabel}\n"
        "  half: {use: toy.half, from: numbers}\n"
        "  both: {use: toy.relabel, from: {all: [half, changed]}}\n"
    )
    assert made.stages["both"].ids == "numbers"
    assert made.stages["both"].writers == {"n": "numbers", "label": "both", "half": "half"}


def test_branches_of_one_list_meet(wire: Wire) -> None:
    lists = """
  more: {use: toy.numbers}
  a: {use: toy.double, from: [numbers, more]}
  b: {use: toy.half, from: [more, numbers]}
  both: {use: toy.sink, from: {all: [a, b]}}
"""
    made = wire("  numbers: {use: toy.numbers}" + lists)
    assert set(made.stages["both"].inputs[""]) == {"n", "label", "doubled", "half"}


def test_a_join_keeps_its_streams_apart(wire: Wire) -> None:
    made = wire(BRANCHES + "  pairs: {use: toy.pairs, from: {right: half, left: double}}\n")
    pairs = made.stages["pairs"]
    assert pairs.source == Source("join", ("double", "half"), ("left", "right"))
    assert set(pairs.inputs["left"]) == {"n", "label", "doubled"}
    assert set(pairs.inputs["right"]) == {"n", "label", "half"}
    assert pairs.fields == {"left": int, "right": float}
    assert pairs.ids == "pairs"


@pytest.mark.parametrize(
    ("stage", "fields", "ids"),
    [
        ("toy.double", {"n", "label", "doubled"}, "numbers"),
        ("toy.scored", {"n", "label", "half"}, "numbers"),
        ("toy.sorted", {"n", "label"}, "numbers"),
        ("toy.ranked", {"n", "label", "half"}, "numbers"),
        ("toy.children", {"n", "label", "child"}, "a"),
        ("toy.total", {"sum"}, "a"),
    ],
)
def test_what_each_kind_passes_on(wire: Wire, stage: str, fields: set[str], ids: str) -> None:
    made = wire(f"  numbers: {{use: toy.numbers}}\n  a: {{use: {stage}}}\n").stages["a"]
    assert (set(made.fields), made.ids) == (fields, ids)


# --- sinks --------------------------------------------------------------------------------------


def test_a_stage_after_a_sink_reads_what_the_sink_read(wire: Wire) -> None:
    made = wire(
        BRANCHES
        + "  out: {use: toy.sink, from: double}\n  too: {use: toy.sink}\n  a: {use: toy.half}\n"
    )
    assert [made.stages[key].source for key in ("out", "too", "a")] == [
        Source("one", ("double",))
    ] * 3


def test_a_stage_after_a_sink_of_many_reads_them_all(wire: Wire) -> None:
    made = wire(
        BRANCHES + "  out: {use: toy.sink, from: {all: [double, half]}}\n  a: {use: toy.relabel}\n"
    )
    assert made.stages["a"].source == Source("all", ("double", "half"))
    assert set(made.stages["a"].fields) == {"n", "label", "doubled", "half"}


def test_from_wins_over_a_sink_before(wire: Wire) -> None:
    made = wire(BRANCHES + "  out: {use: toy.sink}\n  a: {use: toy.relabel, from: numbers}\n")
    assert made.stages["a"].source == Source("one", ("numbers",))


# --- take and give ------------------------------------------------------------------------------


def test_take_and_give_rename(wire: Wire) -> None:
    made = wire(
        "  numbers: {use: toy.numbers}\n"
        "  a: {use: toy.double, give: {doubled: twice}}\n"
        "  b: {use: toy.double, take: {n: twice}}\n"
    )
    assert made.stages["b"].fields == {"n": int, "label": Text, "twice": int, "doubled": int}
    assert (made.stages["b"].taken("n"), made.stages["a"].given("doubled")) == ("twice", "twice")


@pytest.mark.parametrize(
    "stage", ["{use: toy.relabel}", "{use: toy.stamp, give: {label: label}}"], ids=["reads", "give"]
)
def test_a_field_may_be_replaced_knowingly(wire: Wire, stage: str) -> None:
    made = wire(f"  numbers: {{use: toy.numbers}}\n  a: {stage}\n")
    assert made.stages["a"].writers == {"n": "numbers", "label": "a"}


def test_give_renames_fields_that_depend_on_configuration(wire: Wire) -> None:
    made = wire("  table: {use: toy.table, with: {columns: [a, b]}, give: {a: c}}\n")
    assert made.stages["table"].fields == {"c": int, "b": int}


def test_a_narrower_type_fits(wire: Wire) -> None:
    assert wire("  numbers: {use: toy.numbers}\n  a: {use: toy.half}\n").stages["a"].fields["half"]


def test_optional_fields_that_nothing_makes_are_noted(wire: Wire) -> None:
    notes = "  numbers: {use: toy.numbers, give: {label: notes}}\n  a: {use: toy.maybe}\n"
    assert wire(notes).notes == [
        "stage a (toy.maybe): the optional field 'note' (did you mean 'notes'?) is made by "
        "nothing upstream"
    ]
    assert wire(notes.replace("toy.maybe", "toy.maybe, take: {note: notes}")).notes == []


def test_settings_without_effect_are_noted(wire: Wire) -> None:
    made = wire(
        "  numbers: {use: toy.numbers, concurrency: 4}\n"
        "  a: {use: toy.double, batch: 4, memo: true}\n"
        "  b: {use: toy.sorted, memo: false}\n"
    )
    assert made.notes == [
        "stage numbers (toy.numbers): `concurrency:` has no effect: a source is one task",
        "stage a (toy.double): `batch:` has no effect: it is a map",
        "stage b (toy.sorted): `memo:` has no effect: its results are always recorded",
    ]


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["no", "on", "Off", "012", "0o14", "0x1F", "12:30", "1_000", "~x"])
def test_what_yaml_1_1_took_for_something_else_is_text(wire: Wire, text: str) -> None:
    made = wire(f"  numbers: {{use: toy.numbers, with: {{label: {text}}}}}\n")
    assert made.stages["numbers"].config == {"count": 3, "label": text}


def test_configuration_is_typed(wire: Wire) -> None:
    made = wire(
        "  numbers: {use: toy.numbers}\n"
        "  a:\n    use: toy.styled\n"
        "    with: {style: {width: 2, layers: [1, 2]}, times: few, strict: true}\n"
    )
    config = made.stages["a"].config
    assert (config["style"].width, config["style"].layers, config["style"].colour) == (
        2,
        (1, 2),
        "red",
    )
    assert (config["times"], config["strict"]) == ("few", True)


def test_the_environment_gives_whole_values_of_any_type(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_TEST_N", "7")
    made = wire(
        "  numbers: {use: toy.numbers, with: {count: $ENGINE_TEST_N, label: $ENGINE_TEST_N},"
        " retry: $ENGINE_TEST_N}\n",
        top="seed: $ENGINE_TEST_N",
    )
    assert made.stages["numbers"].config == {"count": 7, "label": "7"}
    assert (made.model.seed, made.stages["numbers"].model.retry) == (7, 7)
    assert wire("  a: {use: toy.numbers, with: {label: '$HOME'}}\n").stages["a"].config[
        "label"
    ] == ("$HOME")


def test_limits_hold_names_and_bounds(wire: Wire) -> None:
    made = wire(
        "  numbers: {use: toy.numbers, limit: gpu}\n",
        top="limits: {gpu: 1, hours: 0.5, disk: 10GB, cost: 2}",
    )
    limits = made.model.limits
    assert limits.named == {"gpu": 1}
    assert (limits.hours, limits.disk, limits.cost) == (0.5, 10**10, 2)


def test_resources_are_chosen_by_key(wire: Wire) -> None:
    made = wire(
        "  numbers: {use: toy.numbers}\n  a: {use: toy.boxed, with: {box: lamp}}\n"
        "  b: {use: toy.grammatical, from: numbers, with: {box: box}}\n",
        top="resources:\n  lamp: {use: toy.lamp}\n"
        "  box: {use: toy.box, with: {can: [grammar, schema]}}",
    )
    assert made.stages["a"].resources == {"box": "lamp"}  # a lamp is a box; the spare is optional
    assert made.stages["b"].resources == {"box": "box"}


# --- paths --------------------------------------------------------------------------------------


def test_relative_paths_begin_at_the_file(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    made = wire("  file: {use: toy.file, with: {path: a.txt, more: [a.txt]}}\n")
    assert made.stages["file"].config == {
        "path": tmp_path / "a.txt",
        "more": (tmp_path / "a.txt",),
        "place": tmp_path / "here",  # a default is relative to the file, too
        "model": None,
    }


def test_relative_paths_of_set_begin_where_one_stands(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.txt").touch()
    (tmp_path / "a.txt").touch()
    monkeypatch.chdir(elsewhere)
    stages = "  file: {use: toy.file, with: {path: a.txt}}\n"
    made = wire(stages, overrides=["stages.file.with.path=b.txt"])
    assert made.stages["file"].config["path"] == elsewhere / "b.txt"
    assert made.stages["file"].config["place"] == tmp_path / "here"
    made = wire(stages, overrides=["stages.file.with={path: b.txt, more: [b.txt]}"])
    assert made.stages["file"].config["more"] == (elsewhere / "b.txt",)


# --- --set --------------------------------------------------------------------------------------


def test_set_reads_yaml_and_makes_what_may_be_absent(wire: Wire) -> None:
    made = wire(
        "  numbers: {use: toy.numbers}\n  a: {use: toy.double}\n",
        overrides=[
            "stages.numbers.with.count=5",
            "stages.numbers.with.label='5'",
            "stages.a.give.doubled=twice",
            "seed=3",
            "limits.gpu=2",
            "stages.numbers.with.count=6",
        ],
    )
    assert made.stages["numbers"].config == {"count": 6, "label": "5"}
    assert made.stages["a"].fields["twice"] is int
    assert (made.model.seed, made.model.limits.named) == (3, {"gpu": 2})


def test_set_leaves_the_document_as_it_was(tmp_path: Path) -> None:
    document = loads("name: good\nstages: {numbers: {use: toy.numbers}}", folder=tmp_path)
    changed = read_pipeline(document, overrides=["stages.numbers.with.count=9"])
    assert changed.stages["numbers"].config["count"] == 9
    assert read_pipeline(document).stages["numbers"].config["count"] == 3


# --- inputs -------------------------------------------------------------------------------------


def test_inputs_replace_a_stage_and_what_fed_it_alone(wire: Wire) -> None:
    stages = BRANCHES + "  more: {use: toy.relabel, from: double}\n"
    made = wire(stages, replaced="double")
    assert set(made.stages) == {"numbers", "double", "half", "more"}  # numbers feed half, too
    made = wire(stages.replace("from: numbers", "from: double"), replaced="double")
    assert made.order[0] == "double"
    assert "numbers" not in made.stages
    assert made.stages["more"].inputs == {"": {"n": int, "label": Text, "doubled": int}}
    assert made.stages["double"].source is None


def test_inputs_into_no_stage_or_a_sink(wire: Wire) -> None:
    stages = "  numbers: {use: toy.numbers}\n  out: {use: toy.sink}\n"
    with pytest.raises(PipelineError, match=r"no stage 'nubmers' to put .*did you mean 'numbers'?"):
        wire(stages, replaced="nubmers")
    with pytest.raises(
        PipelineError, match=r"5:3: stage out \(toy.sink\) is a sink: it has no out"
    ):
        wire(stages, replaced="out")


def test_ids_of_inputs_do_not_meet_those_of_other_branches(wire: Wire) -> None:
    stages = BRANCHES + "  both: {use: toy.sink, from: {all: [double, half]}}\n"
    with pytest.raises(PipelineError, match="cannot meet: those of double are made by double"):
        wire(stages, replaced="double")
