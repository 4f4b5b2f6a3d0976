"""The tutorial's files and commands, run as they stand; what it shows is what one sees."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.pipeline import read_pipeline

SET_UP = {"make run", ". .venv/bin/activate"}
Pages = Callable[[str], Any]


def test_the_tutorial_does_what_it_shows(
    page: Pages, play: Callable[..., int], tmp_path: Path
) -> None:
    assert play(page("tutorial.md"), tmp_path) >= 10


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
