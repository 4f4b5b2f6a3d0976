"""docs/embedding.md: its Python runs, and its table says what the code says."""

import inspect
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

import engine

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
VARIES = {
    r"^\d\.\d{3,}\S*": "SECONDS",
    r"^\d \d 0\.0$": "COUNTS",
    r"^(A narrow boat|I do not know)\.$": "ANSWER",  # whichever came first
}
PRINTED = [  # by each block, its lines sorted: rows come as they finish
    ["Jean I do not know.", "done 2", "nobody A narrow boat."],
    [
        "stage questions: inputs=, row 1 (the first is 0): "
        "the field 'question' should be Text, not int 5"
    ],
    ["cancelled"],
    ["COUNTS", "SECONDS 0 0 0"],
    ["['A narrow boat.', 'I do not know.']"],
    ["ANSWER"],
    ["ANSWER"],
]


@pytest.fixture
def anyio_backend() -> None:
    """The blocks run loops of their own."""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_its_python_runs(
    backend: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs_embedding"}
    scripts = []
    for language, file, body in FENCE.findall(PAGE.read_text("utf-8")):
        if file:
            Path(file).write_text(body, "utf-8")
        elif language == "python":
            scripts.append(body)
    run = anyio.run
    monkeypatch.setattr(anyio, "run", lambda main: run(main, backend=backend))
    printed = []
    for script in scripts:
        assert script.rstrip().endswith("anyio.run(main)")
        exec(compile(script, "docs/embedding.md", "exec"), names)
        shown = capsys.readouterr().out
        for pattern, word in VARIES.items():
            shown = re.sub(pattern, word, shown, flags=re.MULTILINE)
        printed.append(sorted(shown.splitlines()))
    assert printed == PRINTED


def test_its_table_of_options_is_the_signature() -> None:
    section = PAGE.read_text("utf-8").split("## Options\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE)
    parameters = inspect.signature(engine.open).parameters
    assert [name for name, _ in rows] == list(parameters)
    for name, shown in rows:
        default = parameters[name].default
        expected = "required" if default is inspect.Parameter.empty else f"`{default!r}`"
        assert shown.replace('"', "'") == expected, name


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+\.md)", PAGE.read_text("utf-8"))
    assert len(links) == 4
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
