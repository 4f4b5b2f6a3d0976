"""What is installed: `engine plugins` and `engine stages`."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from engine.contracts import LAWS

Cli = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]


def cannot_steer(text: str) -> bool:
    return not [c for c in text if c < " " and c not in "\n\t"]


def test_plugins_are_listed_with_what_they_register(cli: Cli) -> None:
    done = cli("plugins")
    assert done.returncode == 0
    block = done.stdout.split("\ngood  ")[1].split("\n")[:4]
    assert block == [
        "test-good 1.0, st_test_good",
        "  stages     make, size, out",
        "  resources  box",
        "  hooks      engine_resources, engine_stages",
    ]
    for name in ("dataset", "embedded", "pink", "mcts", "sae", "train"):
        assert re.search(rf"^{name}  st-engine.* 0\.1\.0, ", done.stdout, re.MULTILINE)
    assert done.stderr == "a module that talks\n"


def test_a_broken_plugin_shows_its_traceback_and_the_others_are_listed(cli: Cli) -> None:
    done = cli("plugins", broken=True)
    assert done.returncode == 2
    assert "broken  test-broken 1.0, st_test_broken  broken\n" in done.stdout
    assert "good  test-good 1.0" in done.stdout
    assert "engine: plugin broken is broken: plugin 'broken' (test-broken" in done.stderr
    assert 'st_test_broken.py", line 4, in <module>' in done.stderr
    assert done.stderr.rstrip().endswith("RuntimeError: \\x1b[2J no luck")
    assert cannot_steer(done.stdout + done.stderr)


def test_plugins_as_json(cli: Cli) -> None:
    done = cli("plugins", "--json", broken=True)
    assert done.returncode == 2
    found = {plugin.pop("name"): plugin for plugin in json.loads(done.stdout)}
    assert found["good"] == {
        "distribution": "test-good",
        "version": "1.0",
        "module": "st_test_good",
        "stages": ["good.make", "good.size", "good.out"],
        "resources": ["good.box"],
        "hooks": ["engine_resources", "engine_stages"],
        "error": None,
    }
    assert found["broken"]["stages"] == []
    assert "RuntimeError" in found["broken"]["error"]


def test_stages_are_a_line_each(cli: Cli) -> None:
    done = cli("stages", broken=True)
    assert done.returncode == 2
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert re.fullmatch(
        r"good.make +source +Make \\x1b\[31mred\\x07 rows \| and more.", lines["good.make"]
    )
    assert lines["good.out"].split()[1] == "sink"
    assert lines["good.box"].split(None, 2)[1:] == ["resource", "A box of `width` metres."]
    assert {"pink.revision", "dataset.write", "openai.chat"} <= set(lines)
    assert "engine: plugin broken is left out: plugin 'broken'" in done.stderr
    assert cannot_steer(done.stdout + done.stderr)
    only = cli("stages", "good")
    assert (only.returncode, len(only.stdout.splitlines())) == (0, 4)


PAGE = """\
good.size
  kind        map
  counts      in = out + rejected + dead
  defined in  site/st_test_good.py:LINE
  version     the digest of its sources
  context     taken, as `ctx`

Reads
  made  Text  required
  note  Text | None  = null

Adds
  size  int

Resources
  box    Box  required
         It needs: lid.
  spare  Box | None  = null

Configuration
  most  int  required
        The largest size.

In a pipeline
  size: {use: good.size, with: {box: RESOURCE, most: MOST}}
"""


def test_a_stage_has_a_page(cli: Cli, tmp_path: Path) -> None:
    done = cli("stages", "good.size", broken=True)
    assert done.returncode == 0  # another plugin's fault is not this page's
    code = (tmp_path / "site" / "st_test_good.py").read_text()
    line = 1 + code.partition('@stage("good.size")')[0].count("\n")
    assert done.stdout == PAGE.replace("LINE", str(line))
    made = cli("stages", "good.make").stdout
    assert "  Make \\x1b[31mred\\x07 rows | and more.\n\n  It reads `file`." in made
    assert '  file   Path  = "st_test_good.py"\n         It reads `file`.\n' in made
    assert "version     3" in made


def test_a_page_as_markdown(cli: Cli) -> None:
    page = cli("stages", "good.size", "--format", "markdown").stdout
    assert page.startswith("# `good.size`\n\n- kind: map\n")
    assert "| `note` | `Text \\| None` | `null` |\n" in page
    assert "| `most` | `int` | required | The largest size. |\n" in page


def test_a_resource_and_a_function_of_a_file_have_pages(cli: Cli, tmp_path: Path) -> None:
    done = cli("stages", "good.box")
    assert "defined as  Box (" in done.stdout
    assert "  width  float  = 1.0\n         A box of `width` metres.\n" in done.stdout
    assert done.stdout.endswith("  box: {use: good.box}\n")
    (tmp_path / "mine.py").write_text((tmp_path / "site" / "st_test_good.py").read_text())
    done = cli("stages", "./mine.py:out")
    assert done.returncode == 0
    assert done.stdout.startswith("good.out\n  kind        sink\n")
    assert done.stdout.endswith("  out: {use: ./mine.py:out}\n")


def test_a_name_that_is_none_is_told_the_nearest(cli: Cli) -> None:
    for name, said in (
        ("good.sise", "plugin 'good' has no 'good.sise'; did you mean 'good.size'? (it has: "),
        ("godo.size", "no plugin named 'godo' is installed; did you mean 'good'?"),
        ("./mine.py", "'./mine.py' names no function: write ./file.py:function"),
        ("./mine.py:x", "no such file: mine.py"),
    ):
        done = cli("stages", name)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"engine: {said}" in done.stderr


def test_the_laws_are_those_of_the_page() -> None:
    text = (ROOT / "docs" / "stages.md").read_text("utf-8").split("## The five kinds\n")[1]
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in text.splitlines()[:8]]
    assert {row[0]: row[-1] for row in rows if row[0] in LAWS} == LAWS
