"""The notebook of `examples/` and the cells of its page run as they stand."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PATH = ROOT / "examples" / "notebook" / "stages.ipynb"
PAGE = ROOT / "docs" / "notebooks.md"
SECONDS = 120  # a guard against hanging, for each cell
Show = Callable[[str], Any]


@pytest.fixture(scope="module")
def nbformat() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # those of the Jupyter packages
        import nbformat
    return nbformat


@pytest.fixture(scope="module")
def executed(nbformat: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The code cells of the notebook, and then those of its page, after a run in one kernel.

    The kernel is a process of its own, on loopback.
    """
    notebook = nbformat.read(PATH, as_version=4)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    notebook.cells += [nbformat.v4.new_code_cell(block) for block in blocks]
    folder = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        warnings.simplefilter("ignore", DeprecationWarning)
        from nbclient import NotebookClient

        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            startup_timeout=SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": str(PATH.parent)}},
        )
        client.execute()  # raises CellExecutionError with the cell's traceback
        yield [cell for cell in notebook.cells if cell.cell_type == "code"]


def pages(cell: Any) -> list[str]:
    return [o["data"]["text/html"] for o in cell.outputs if "text/html" in o.get("data", {})]


def test_it_runs_and_shows_what_it_says(executed: Any, show: Show) -> None:
    outputs = [output for cell in executed for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"execute_result", "display_data"}
    shown = [show(page).words for cell in executed for page in pages(cell)]
    row, prompt, noted, graph, pipeline, run, finished, *summaries = shown
    assert len(summaries) == 3, "the notebook's, and two of the page"
    assert "question" in row
    assert "answerYes, it is.[1] reply of fake in stage answer" in row
    assert prompt.startswith("Answer in one sentence.\n\nQuestion: Is green tea mild?[1] ")
    assert "prompt template my.answer" in prompt
    assert noted.startswith("YES, IT IS. (read by Ada)")
    assert "[2] made by the operation 'upper' out of reply of fake" in noted
    assert "leaf call" in graph
    assert "read → answer" in pipeline
    assert "answermy.answermapquestionanswerllm: writerread" in pipeline
    assert "[2] reply of " in finished
    assert "source questions.jsonl (field question, line 2)" in finished
    for page in (run, *summaries):
        assert page.startswith("answers: done: 2 finished, 1 rejected, 0 dead")
        assert "too_long“Light ones, with a soft sole.”" in page


def test_its_texts_are_painted(executed: Any) -> None:
    painted = [page for cell in executed for page in pages(cell) if "background:#" in page]
    assert len(painted) == 4
    for page in painted:
        assert 'title="[1] ' in page
        assert "<script" not in page


def test_it_is_kept_without_outputs_and_small(nbformat: Any) -> None:
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or not (cell.outputs or cell.execution_count)
    assert PATH.stat().st_size < 10_000
