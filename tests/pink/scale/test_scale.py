"""The shipped pipeline on 2,000 plans, killed once: every count is what the model planted."""

from pathlib import Path
from typing import Any

import pytest

from tests.pink.scale.__main__ import scaled, table
from tests.pink.scale.asked import Asked, as_json
from tests.pink.scale.prefixes import BLOCK, Prefixes, tokens
from tests.pink.scale.writer import Writer


def test_two_thousand_plans(tmp_path: Path) -> None:
    checks, _ = scaled(tmp_path / "run", plans=2000, kills=1, seed=7)
    missed = [one for one in checks if one.ok is False]
    assert not missed, table(missed)


def test_blocks_are_read_once() -> None:
    """A conversation that goes on costs what is new in it, down to a block."""
    prefixes = Prefixes(room=10_000)
    asked = [("system", "You are kind. " * 40), ("user", "Say something about tea.")]
    first = prefixes.call(asked, "Tea is warm. " * 30)
    assert (first.cached, first.cached_prompts) == (0, 0)
    going_on = [*asked, ("assistant", "Tea is warm. " * 30), ("user", "And coffee?")]
    second = prefixes.call(going_on, "Hot.")
    assert 0 <= first.prompt - second.cached_prompts < BLOCK
    assert second.prompt - second.cached < len(tokens("And coffee?")) + 2 * BLOCK
    again = prefixes.call(going_on, "Hot.")
    assert again.prompt - again.cached <= BLOCK


def test_what_has_no_room_is_forgotten() -> None:
    prefixes = Prefixes(room=64)
    asked = [("user", "one two three four five six seven " * 12)]
    prefixes.call(asked, "yes")
    prefixes.call([("user", "ten nine eight " * 24)], "no")
    assert prefixes.call(asked, "yes").cached == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_a_reply_hangs_on_its_request_alone(seed: int) -> None:
    """Whatever was asked before, and by whom: a process that is killed loses nothing."""
    schema: dict[str, Any] = {"json_schema": {"schema": {"properties": {"turns": {}}}}}
    content = "Turns: 6. First term: Vibikik. Second term: Fobomor. Plan: They talk."
    body = {
        "messages": [{"role": "user", "content": content}],
        "seed": seed,
        "response_format": schema,
    }
    asked = as_json(body).encode()
    busy = Writer()
    for other in range(20):
        busy(Asked(as_json(body | {"seed": 100 + other}).encode()))
    assert busy(Asked(asked)) == Writer()(Asked(asked))
