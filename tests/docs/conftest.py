"""What the tests of the pages share: fenced blocks, tables, and consoles that are run."""

import os
import re
import shlex
import subprocess
import sys
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


Run = Callable[[list[str], Path], str]


def in_folder(words: list[str], folder: Path, **environment: str) -> str:
    """What a command says, on both streams."""
    prefix = {"engine": [sys.executable, "-m", "engine"], "python": [sys.executable]}
    prefix["pytest"] = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*prefix.get(words[0], words[:1]), *words[1:]],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    return done.stdout.decode()


def commands(body: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines that it shows."""
    found: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def plain(text: str) -> str:
    """Without what differs from run to run: durations and spaces at ends of lines."""
    text = re.sub(r"(?m)[ \t]+$", "", text).strip()
    return re.sub(r"(?m)\b\d+s$", "0s", text)


def pattern(lines: list[str]) -> str:
    return ".*".join(map(re.escape, plain("\n".join(lines)).split("...")))


@pytest.fixture(scope="session")
def play() -> Callable[..., int]:
    """Write a page's files, run its commands, and compare what they say with what it shows."""

    def play(page: Page, folder: Path, run: Run = in_folder) -> int:
        shown = 0
        for block in page.blocks():
            if block.file:
                (folder / block.file).write_text(block.body, "utf-8")
            if block.language != "console":
                continue
            for command, lines in commands(block.body):
                said = plain(run(shlex.split(command), folder))
                assert re.fullmatch(pattern(lines), said, re.DOTALL), f"$ {command}\n{said}"
                shown += 1
        return shown

    return play


@pytest.fixture(scope="session")
def console() -> Callable[..., str]:
    return in_folder
