"""What is said of a parameter: its description, or the sentences that name it in backticks."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Self

import pytest
from pydantic import Field

from engine import Resource, Row, Text, resource, stage
from engine.docstrings import parameter_docs, summary
from engine.resources import resource_spec
from engine.stages import stage_spec


class Made(Row):
    made: Text


@resource("docs.lamp")
class Lamp(Resource):
    """A lamp of `watts` watts. It shines, e.g. `watts=3`, at night."""

    def __init__(self, *, watts: int = 1, colour: str = "red", cord: float = 1.0) -> None:
        """Choose a lamp.

        - `colour`: a word
          of CSS.
        - `cord: 2` is in metres.
        """

    @property
    def identity(self) -> str:
        return "lamp"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: Any) -> None: ...


@stage("docs.make")
async def make(
    *,
    light: Lamp,
    size: int,
    sizes: int = 2,
    silent: bool = False,
    told: Annotated[int, Field(description="How many.")] = 1,
    perhaps: Annotated[int, Field(description="Or none.")] | None = None,
) -> AsyncIterator[Made]:
    """Make rows of `size` letters. That is all of `size`, and not
    of `sizes.part`.

    Light comes from `light` (a lamp)! `told` stands in the hint.
    """
    yield Made(Text("x" * size))


def test_a_description_goes_before_the_sentences_that_name_a_parameter() -> None:
    assert parameter_docs(stage_spec(make)) == {
        "light": "Light comes from `light` (a lamp)!",
        "size": "Make rows of `size` letters. That is all of `size`, and not of `sizes.part`.",
        "sizes": "",
        "silent": "",
        "told": "How many.",
        "perhaps": "Or none.",
    }


def test_a_resource_is_documented_by_its_class_and_its_constructor() -> None:
    assert parameter_docs(resource_spec(Lamp)) == {
        "watts": "A lamp of `watts` watts. It shines, e.g. `watts=3`, at night.",
        "colour": "a word of CSS.",
        "cord": "`cord: 2` is in metres.",
    }


@pytest.mark.parametrize(
    ("doc", "said"),
    [
        ("", ""),
        ("One.", "One."),
        ("\nOne\n two.\n\nThree.", "One two."),
        ("One.\nTwo.", "One. Two."),
    ],
)
def test_a_summary_is_the_first_paragraph(doc: str, said: str) -> None:
    assert summary(doc) == said
