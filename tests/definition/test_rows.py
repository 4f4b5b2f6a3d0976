"""The laws of rows: frozen, open, equal by type and fields."""

import copy
import dataclasses
import pickle
import subprocess
import sys
from dataclasses import field
from pathlib import Path
from typing import Annotated

import pytest

from engine import Added, DefinitionError, Reject, Row, Text
from engine.rows import RESERVED, Read, row_fields


class Question(Row):
    question: str
    tags: tuple[str, ...] = ()


class Sourced(Question):
    source: str = "unknown"
    notes: list[str] = field(default_factory=list)


def test_a_row_is_made_by_position_or_name() -> None:
    assert Question("why", ("a",)) == Question(question="why", tags=("a",))
    assert Question("why").tags == ()
    with pytest.raises(TypeError, match="question"):
        Question()  # type: ignore[call-arg]


def test_a_row_never_changes() -> None:
    row = Question("why")
    for change in (
        lambda: setattr(row, "question", "how"),
        lambda: setattr(row, "new", 1),
        lambda: delattr(row, "question"),
    ):
        with pytest.raises(
            dataclasses.FrozenInstanceError, match=r"cannot (assign to|delete) field"
        ):
            change()
    row.fields["question"] = "how"  # type: ignore[index]  # a copy
    assert row.question == "why"


def test_rows_are_open() -> None:
    row = Question.of({"question": "why", "depth": 3}, b"\x01", (2, 5))
    assert (row["question"], row["depth"]) == ("why", 3)
    assert ("depth" in row, "tags" in row, "depht" in row) == (True, False, False)
    assert row["tags"] == row.tags == ()  # declared, with a default
    assert list(row) == ["question", "depth"]
    assert row.fields == {"question": "why", "depth": 3}
    assert (row.row_id, Question("why").row_id) == ("01", "")
    with pytest.raises(KeyError, match="depht"):
        row["depht"]


def test_rows_are_equal_by_type_and_fields_not_by_id() -> None:
    assert Question.of({"question": "why", "tags": ()}, b"\x01") == Question("why")
    assert Question("why") != Question("how")
    assert Question("why") != Question.of({"question": "why", "tags": (), "depth": 1})
    assert Row.of({"question": "why", "tags": ()}) != Question("why")
    assert Question("why") != "why"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Question("why"))


def test_rows_inherit_fields_and_defaults() -> None:
    assert Sourced("why", source="web") == Sourced("why", (), "web", [])
    assert Sourced("why").notes is not Sourced("why").notes
    assert [(r.name, r.required, r.default) for r in row_fields(Sourced)] == [
        ("question", True, None),
        ("tags", False, ()),
        ("source", False, "unknown"),
        ("notes", False, []),
    ]
    assert row_fields(Question) == (
        Read("question", str),
        Read("tags", tuple[str, ...], False, ()),
    )
    assert row_fields(Row) == ()


def test_hints_keep_their_annotations() -> None:
    class Marked(Row):
        size: Annotated[int, "bytes"]

    assert row_fields(Marked) == (Read("size", Annotated[int, "bytes"]),)


def test_what_a_stage_makes_of_a_row() -> None:
    row = Question("why")
    added = row.add(Sourced("how"))
    assert isinstance(added, Added)
    assert (added.row, added.added) == (row, Sourced("how"))
    rejected = row.reject("dull")
    assert isinstance(rejected, Reject)
    assert (rejected.reason, rejected.row, rejected.span) == ("dull", row, None)
    keyed = row.keyed("k")
    assert (keyed, type(keyed), keyed is row) == (row, Question, False)
    assert Reject("bad", span="x").span == "x"
    assert dataclasses.replace(row, question="how") == Question("how")


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_a_copy_is_the_same_row(again: object) -> None:
    row = Sourced.of({"question": "why", "notes": ["a"], "extra": 1}, b"\x02", (1,))
    same = again(row)  # type: ignore[operator]
    assert (same, same.row_id, type(same)) == (row, "02", Sourced)


def test_repr_shows_every_field() -> None:
    assert repr(Row.of({"a": 1, "b": "x"})) == "Row(a=1, b='x')"
    assert repr(Question("why")) == "Question(question='why', tags=())"


@pytest.mark.parametrize("name", [*sorted(RESERVED), "_hidden"])
def test_reserved_names_are_refused_with_their_place(name: str) -> None:
    with pytest.raises(DefinitionError, match=rf"Bad.* a row cannot have a field named '{name}'"):
        type("Bad", (Row,), {"__annotations__": {name: int}})


def test_a_row_class_that_python_refuses_is_named() -> None:
    with pytest.raises(
        DefinitionError,
        match=r"^test_a_row.*\.Late \(.*test_rows.py:\d+\): non-default argument 'late' follows",
    ):

        class Late(Question):
            late: int

    with pytest.raises(DefinitionError, match=r"Shared \(.*\): mutable default .* use default_fac"):

        class Shared(Row):
            shared: list[str] = []  # noqa: RUF012


TYPED = """
from engine import Added, Row, Text

class Question(Row):
    question: Text
    tags: tuple[str, ...] = ()

row = Question(Text("why"), tags=("a",))
reveal_type(row.question)
reveal_type(row.keyed("k"))
reveal_type(row.add(Question(Text("how"))))
row.question = Text("how")
Question("why")
Question()
Question(Text("why"), ())
"""


def test_a_type_checker_knows_the_fields(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "typed.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == [
        'typed.py:9: note: Revealed type is "engine.text.strings.Text"',
        'typed.py:10: note: Revealed type is "typed.Question"',
        'typed.py:11: note: Revealed type is "engine.rows.Added[typed.Question]"',
        'typed.py:12: error: Property "question" defined in "Question" is read-only  [misc]',
        'typed.py:13: error: Argument 1 to "Question" has incompatible type "str"; '
        'expected "Text"  [arg-type]',
        'typed.py:14: error: Missing positional argument "question" in call to "Question"  '
        "[call-arg]",
    ]
    assert Text("x") == "x"
