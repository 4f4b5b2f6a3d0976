"""What a killed run left beside its outputs is cleared up by the next; what is in use is not."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.datasets.places import whole_file, whole_folder

KILLED_IN_A_FILE = """
import os, signal, sys
from pathlib import Path
from engine.datasets.places import whole_file
with whole_file(Path(sys.argv[1])) as new:
    new.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_BETWEEN_RENAMES = """
import os, signal, sys
from pathlib import Path
from engine.datasets.places import whole_folder
def killed(self, target):
    os.rename(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
with whole_folder(Path(sys.argv[1])) as new:
    (new / "rows").write_text("new")
    Path.rename = killed
"""


def killed(program: str, path: Path) -> None:
    command = [sys.executable, "-c", program, str(path)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    killed(KILLED_IN_A_FILE, tmp_path / "rows.jsonl")
    assert len(names(tmp_path)) == 1
    with whole_file(tmp_path / "rows.jsonl") as new:
        new.write_text("whole")
    assert names(tmp_path) == ["rows.jsonl"]


def test_what_another_writes_is_left_alone(tmp_path: Path) -> None:
    with whole_file(tmp_path / "rows.jsonl") as new:
        new.write_text("first")
        with whole_file(tmp_path / "rows.jsonl") as other:
            other.write_text("second")
        assert new.read_text() == "first"
    assert names(tmp_path) == ["rows.jsonl"]
    assert (tmp_path / "rows.jsonl").read_text() == "first"


def test_a_folder_that_was_on_its_way_out_is_put_back(tmp_path: Path) -> None:
    place = tmp_path / "data"
    with whole_folder(place) as new:
        (new / "rows").write_text("old")
    killed(KILLED_BETWEEN_RENAMES, place)
    assert not place.exists()
    with pytest.raises(ZeroDivisionError), whole_folder(place):
        raise ZeroDivisionError
    assert names(tmp_path) == ["data"]
    assert (place / "rows").read_text() == "old"
