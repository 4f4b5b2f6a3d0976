"""What the tests of the pages share: fenced blocks and tables."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    language: str
    file: str
    body: str


class Page:
    """A page of the documentation."""

    def __init__(self, name: str) -> None:
        self.text = (ROOT / "docs" / name).read_text("utf-8")

    def blocks(self, language: str = "") -> list[Block]:
        found = []
        for match in FENCE.finditer(self.text):
            name, _, file = match["info"].partition(" ")
            if language in ("", name):
                found.append(Block(name, file, match["body"]))
        return found

    def table(self, heading: str) -> dict[str, list[str]]:
        """The rows of the first table under a heading: first cell -> the other cells."""
        section = self.text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
            for line in section.splitlines()
            if line.startswith("|")
        ]
        return {row[0].strip("`"): row[1:] for row in rows[2:]}


@pytest.fixture(scope="session")
def page() -> Callable[[str], Page]:
    return Page


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
