"""The tutorial's files and commands, run as they stand; what it shows is what one sees."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from engine.pipeline import read_pipeline

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
SET_UP = {"make run", ". .venv/bin/activate"}


class Block(NamedTuple):
    language: str
    file: str
    body: str


def blocks() -> list[Block]:
    text = TUTORIAL.read_text("utf-8")
    return [
        Block(m["info"].partition(" ")[0], m["info"].partition(" ")[2], m["body"])
        for m in FENCE.finditer(text)
    ]


def commands(body: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines that it shows."""
    found: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def ran(command: str, folder: Path) -> str:
    words = shlex.split(command)
    prefix = {"engine": [sys.executable, "-m", "engine"], "python": [sys.executable]}
    done = subprocess.run(
        [*prefix.get(words[0], words[:1]), *words[1:]],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    return done.stdout.decode()


def plain(text: str) -> str:
    """Without what differs from run to run: durations and spaces at ends of lines."""
    text = re.sub(r"(?m)[ \t]+$", "", text).strip()
    return re.sub(r"(?m)\b\d+s$", "0s", text)


def pattern(lines: list[str]) -> str:
    return ".*".join(map(re.escape, plain("\n".join(lines)).split("...")))


def test_the_tutorial_does_what_it_shows(tmp_path: Path) -> None:
    shown = 0
    for block in blocks():
        if block.file:
            (tmp_path / block.file).write_text(block.body, "utf-8")
        if block.language != "console":
            continue
        for command, lines in commands(block.body):
            said = plain(ran(command, tmp_path))
            assert re.fullmatch(pattern(lines), said), f"$ {command}\n{said}"
            shown += 1
    assert shown >= 10


def test_each_block_is_a_file_a_console_or_the_set_up() -> None:
    for block in blocks():
        match block.language:
            case "sh":
                for line in block.body.splitlines():
                    assert line in SET_UP or line.startswith("engine trace pipelines/pink.yaml")
            case "console":
                assert block.body.startswith("$ ")
            case _:
                assert block.file, f"a {block.language} block without a file name"


def test_what_the_set_up_names_exists() -> None:
    assert re.search(r"^run:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = (ROOT / "pipelines" / "pink.yaml").read_text("utf-8")
    for name in ("out/pink.jsonl", "out/pink.parquet", "origin"):
        assert name in text
        assert name in TUTORIAL.read_text("utf-8")
    read_pipeline(ROOT / "pipelines" / "pink.yaml")
