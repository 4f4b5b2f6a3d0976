"""A training that was killed goes on from its checkpoint, and ends in the same bytes.

`make kill-train` kills each method three times.
"""

import os
from pathlib import Path

import pytest
from kill_training import differing

METHODS = os.environ.get("METHODS", "sft").split()


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_ends_in_the_same_model(method: str, tmp_path: Path) -> None:
    killed, names = differing(tmp_path, method, kills=1)
    assert killed == 1
    assert not names
