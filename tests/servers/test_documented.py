"""What docs/models.md says of servers is what the code does."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from engine.chat.protocol import Feature
from engine.chat.servers import SERVERS, ServerName
from engine.loader import loads
from engine.pipeline import read_pipeline

PAGE = (Path(__file__).parents[2] / "docs/models.md").read_text("utf-8")
BLOCKS = [
    block
    for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    if "resources:" in block
]
STAGES = "stages: {questions: {use: dataset.read, with: {path: rows.jsonl}}}\n"


def resources(block: str) -> str:
    return block.partition("stages:")[0]


@pytest.mark.parametrize(
    "block", BLOCKS, ids=lambda block: block.split("model: ")[1].split("\n")[0]
)
def test_each_resource_builds(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY"):
        monkeypatch.setenv(name, "k")
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / "config.json").write_text("{}")
    path = tmp_path / "p.yaml"
    path.write_text("name: p\n" + resources(block) + STAGES)
    assert read_pipeline(path).resources


def test_each_kind_of_server_has_a_block_and_is_in_the_table() -> None:
    used = set()
    for block in BLOCKS:
        declared: Any = loads(resources(block)).value
        for resource in declared["resources"].values():
            if resource["use"] == "openai.chat":
                config = resource["with"]
                used.add(config.get("server", "other" if "base_url" in config else "openai"))
    assert used == set(SERVERS) == set(get_args(ServerName))
    rows = {cells[0]: cells[1:] for cells in tables() if cells[0] in SERVERS}
    assert set(rows) == set(SERVERS)
    settings = ("top_k", "min_p", "repeat_penalty")
    for name, (features, sent, limit, *_) in rows.items():
        server = SERVERS[name]  # type: ignore[index]
        every = set(server.features) == set(get_args(Feature))
        assert features == ("all" if every else ", ".join(sorted(server.features)))
        assert sent == (
            ", ".join(server.settings[s] for s in settings if server.settings) or "none"
        )
        assert limit == server.limit


def tables() -> list[list[str]]:
    return [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith("| `")
    ]
