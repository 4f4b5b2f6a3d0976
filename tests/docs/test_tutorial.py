"""The tutorial's files and commands, run as they stand; what it shows is what one sees."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.pipeline import read_pipeline

SET_UP = {"make run", ". .venv/bin/activate"}
Pages = Callable[[str], Any]


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


def test_the_tutorial_does_what_it_shows(page: Pages, tmp_path: Path) -> None:
    shown = 0
    for block in page("tutorial.md").blocks():
        if block.file:
            (tmp_path / block.file).write_text(block.body, "utf-8")
        if block.language != "console":
            continue
        for command, lines in commands(block.body):
            said = plain(ran(command, tmp_path))
            assert re.fullmatch(pattern(lines), said), f"$ {command}\n{said}"
            shown += 1
    assert shown >= 10


def test_each_block_is_a_file_a_console_or_the_set_up(page: Pages) -> None:
    for block in page("tutorial.md").blocks():
        match block.language:
            case "sh":
                for line in block.body.splitlines():
                    assert line in SET_UP or line.startswith("engine trace pipelines/pink.yaml")
            case "console":
                assert block.body.startswith("$ ")
            case _:
                assert block.file, f"a {block.language} block without a file name"


def test_what_the_set_up_names_exists(page: Pages, root: Path) -> None:
    assert re.search(r"^run:", (root / "Makefile").read_text("utf-8"), re.MULTILINE)
    text = (root / "pipelines" / "pink.yaml").read_text("utf-8")
    for name in ("out/pink.jsonl", "out/pink.parquet", "origin"):
        assert name in text
        assert name in page("tutorial.md").text
    read_pipeline(root / "pipelines" / "pink.yaml", overrides=EMBEDDED_BY_FIXTURE)


EMBEDDED_BY_FIXTURE = (
    f"resources.writer={{use: fixture.chat, with: {{file: "
    f"{Path(__file__).parents[2] / 'examples/questions/replies.jsonl'}}}}}",
)


def test_the_readmes_stage_is_the_examples(root: Path) -> None:
    shown = (root / "README.md").read_text("utf-8").split("```python\n", 1)[1].split("```")[0]
    example = (root / "examples/questions/my_stages.py").read_text("utf-8")
    assert shown.partition("@stage")[2] == example.partition("@stage")[2]
