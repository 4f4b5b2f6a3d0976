"""Each pipeline in `bad/` gets the message in its first comment: where, what, and what to do.

`# expect:` is the message, without the file's name where it begins with a line and column;
`# set:` is given as `--set`, and `# env:` stands in the environment.
"""

import shutil
import sys
from pathlib import Path

import pytest

from engine.cli import main

HERE = Path(__file__).parent
BAD = sorted((HERE / "bad").glob("*.yaml"))
UNFINISHED = "from engine import stage\n\n@stage('mine.shout'\nasync def shout() -> None: ...\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a copy of the corpus."""
    copy = tmp_path / "bad"
    shutil.copytree(HERE / "bad", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "unfinished.py").write_text(UNFINISHED)  # no linter could bear with it
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize("name", [file.name for file in BAD])
def test_a_bad_pipeline_is_told_what_is_wrong(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = directives(folder / name)
    for assignment in told.get("env", ()):
        monkeypatch.setenv(*assignment.split("=", 1))
    overrides = [part for given in told.get("set", ()) for part in ("--set", given)]
    before = files(folder)
    monkeypatch.setattr(sys, "argv", ["engine", "run", name, *overrides])
    with pytest.raises(SystemExit) as ended:
        main()
    expected = told["expect"][0]
    place = f"{name}:" if expected[0].isdigit() else ""
    assert capsys.readouterr().err.splitlines() == [f"engine: {place}{expected}"]
    assert ended.value.code == 2
    assert files(folder) == before


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    assert len(BAD) >= 45


def directives(file: Path) -> dict[str, list[str]]:
    """Return what the comments at the top of a file say."""
    found: dict[str, list[str]] = {}
    for line in file.read_text("utf-8", errors="replace").split("\n"):
        if not line.startswith("# "):
            break
        name, _, text = line[2:].partition(": ")
        found.setdefault(name, []).append(text)
    return found


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
