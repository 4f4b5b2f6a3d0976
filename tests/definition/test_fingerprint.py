"""What a stage's fingerprint depends on, and what it does not."""

import importlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import DefinitionError, stage
from engine.fingerprint import changes, code_digest, stage_fingerprint
from engine.keys import digest, digest_stream
from engine.loader import loads
from engine.pipeline import read_pipeline
from engine.stages import stage_spec

STAGE = '''
"""A module."""
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel
from engine import Context, InputFile, InputPath, NotResult, OutputPath, Resource, Row, resource, stage


class Made(Row):
    """A row."""

    made: int


class Style(BaseModel):
    words: frozenset[str] = frozenset()
    file: InputFile | None = None


@stage("t.source")
async def source(
    *,
    n: int = 1,
    style: Style | None = None,
    words: frozenset[str] = frozenset(),
    file: InputFile | None = None,
    files: tuple[InputFile, ...] = (),
    model: InputPath | None = None,
    out: OutputPath | None = None,
    shown: Annotated[bool, NotResult] = False,
    size: Annotated[int, NotResult] | None = None,
) -> AsyncIterator[Made]:
    """Make rows."""
    yield Made(n)  # a comment


@stage("t.random")
async def random(*, ctx: Context) -> AsyncIterator[Made]:
    yield Made(1)


@stage("t.versioned", version="2")
async def versioned() -> AsyncIterator[Made]:
    yield Made(1)
'''
numbers = itertools.count()
Print = Callable[..., bytes]


@pytest.fixture
def fingerprint(tmp_path: Path) -> Print:
    """Return the fingerprint of one stage of a pipeline, with `with:`, its code and settings."""

    def fingerprint(
        config: str = "", *, use: str = "source", key: str = "a", code: str = STAGE, more: str = "",
        top: str = "", folder: Path = tmp_path,
    ) -> bytes:  # fmt: skip
        (folder / "stages.py").write_text(code)
        text = f"name: p\n{top}\nstages:\n  {key}:\n    use: ./stages.py:{use}\n"
        text += f"    with: {{{config}}}\n    {more}\n"
        return read_pipeline(loads(text, folder=folder)).stages[key].fingerprint

    return fingerprint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another."""'),
        ('    """Make rows."""\n', ""),
        ('    """A row."""\n\n', ""),
        ("  # a comment", ""),
        ("yield Made(n)", "yield Made(\n        n\n    )"),
    ],
)
def test_docstrings_comments_and_layout_do_not_count(
    fingerprint: Print, old: str, new: str
) -> None:
    assert old in STAGE
    assert fingerprint(code=STAGE.replace(old, new)) == fingerprint()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("yield Made(n)", "yield Made(n + 1)"),
        ("made: int", "made: float"),
        ("n: int = 1", "n: int = 2"),
    ],
)
def test_code_counts(fingerprint: Print, old: str, new: str) -> None:
    assert fingerprint(code=STAGE.replace(old, new)) != fingerprint()


def test_a_version_stands_for_the_code(fingerprint: Print) -> None:
    old = fingerprint(use="versioned")
    assert fingerprint(use="versioned", code=STAGE.replace("Made(1)", "Made(2)")) == old
    assert fingerprint(use="versioned", code=STAGE.replace('"2"', '"3"')) != old


def test_how_it_runs_does_not_count(fingerprint: Print) -> None:
    more = "concurrency: 3\n    timeout: 4\n    retry: 5\n    on_error: fail\n    limit: gpu"
    top = "limits: {gpu: 1}\nmax_dead: 4"
    assert fingerprint(more=more, top=top) == fingerprint()
    assert fingerprint(more="give: {made: n}") == fingerprint()


def test_configuration_and_key_count(fingerprint: Print) -> None:
    prints = [fingerprint(), fingerprint("n: 2"), fingerprint(key="b"), fingerprint("words: [a]")]
    assert len(set(prints)) == 4
    assert fingerprint("n: 1") == fingerprint()
    assert fingerprint("words: [a, b, c]") == fingerprint("words: [c, b, a]")


def test_what_is_no_result_does_not_count(fingerprint: Print) -> None:
    assert fingerprint("shown: true, size: 4, out: x.jsonl") == fingerprint()


def test_files_count_by_content_not_by_name(fingerprint: Print, tmp_path: Path) -> None:
    for name, content in {"a": "1", "b": "1", "c": "2"}.items():
        (tmp_path / name).write_text(content)
    assert fingerprint("file: a") == fingerprint("file: b") != fingerprint("file: c")
    assert fingerprint("files: [a, b]") == fingerprint("files: [b, a]")
    assert fingerprint("files: [a, b]") != fingerprint("files: [a, c]")
    assert fingerprint("style: {file: a}") == fingerprint("style: {file: b}")
    assert fingerprint("style: {file: a}") != fingerprint("style: {file: c}")
    before = fingerprint("file: a")
    (tmp_path / "a").write_text("3")
    assert fingerprint("file: a") != before


def test_a_folder_counts_by_the_files_in_it(fingerprint: Print, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "weights").write_text("1")
        (tmp_path / name / ".cache").write_text(name)
    before = fingerprint("model: a")
    assert before == fingerprint("model: b")
    (tmp_path / "b" / "inner" / "weights").write_text("2")
    assert fingerprint("model: b") != before
    (tmp_path / "a" / "inner" / "weights").rename(tmp_path / "a" / "weights")
    assert fingerprint("model: a") != before


def test_a_file_that_is_read_in_pieces_has_its_digest(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one piece
    (tmp_path / "a").write_bytes(content)
    with (tmp_path / "a").open("rb") as file:
        assert digest_stream("file", file, len(content)) == digest("file", content)


def test_another_folder_changes_nothing(fingerprint: Print, tmp_path: Path) -> None:
    other = tmp_path / "moved"
    other.mkdir()
    for folder in (tmp_path, other):
        (folder / "in").write_text("1")
    config = "file: in, out: out"
    assert fingerprint(config, folder=other) == fingerprint(config)


def test_prompts_beside_a_file_count(fingerprint: Print, tmp_path: Path) -> None:
    def with_prompt(folder: str, name: str, text: str) -> bytes:
        prompts = tmp_path / folder / "prompts"
        prompts.mkdir(parents=True)
        (prompts / name).write_text(text)
        return fingerprint(folder=prompts.parent)

    one = with_prompt("one", "ask.md", "Ask!")
    assert one != fingerprint()
    assert one == with_prompt("two", "ask.md", "Ask!")
    assert one != with_prompt("three", "ask.md", "Ask again!")
    assert one != with_prompt("four", "say.md", "Ask!")


def test_the_seed_counts_where_something_can_draw_from_it(fingerprint: Print) -> None:
    assert fingerprint(top="seed: 7") == fingerprint()
    assert fingerprint(use="random", top="seed: 7") != fingerprint(use="random")


SAY = """
from collections.abc import AsyncIterator
from engine import Row, stage
from engine.chat import Chat

class Said(Row):
    said: str

@stage("t.say")
async def say(*, llm: Chat) -> AsyncIterator[Said]:
    yield Said("")
"""


def test_the_resource_counts_by_identity(tmp_path: Path) -> None:
    def fingerprint(resource: str, reply: str) -> bytes:
        (tmp_path / "r.jsonl").write_text(f'{{"reply": "{reply}"}}\n')
        (tmp_path / "chat.py").write_text(SAY)
        text = (
            f"name: p\nresources: {{{resource}: {{use: fixture.chat, with: {{file: r.jsonl}}}}}}\n"
            f"stages: {{a: {{use: './chat.py:say', with: {{llm: {resource}}}}}}}\n"
        )
        return read_pipeline(loads(text, folder=tmp_path)).stages["a"].fingerprint

    assert fingerprint("writer", "x") == fingerprint("judge", "x")
    assert fingerprint("writer", "x") != fingerprint("writer", "y")


# --- packages, and functions without a file -----------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """Return the code digest of a stage of a package with these files besides."""
    monkeypatch.syspath_prepend(tmp_path)

    def package(**files: str) -> bytes:
        name = f"engine_test_package_{next(numbers)}"
        folder = tmp_path / name
        for path, text in {"__init__": "", "stages": STAGE, **files}.items():
            path = path if "." in path else f"{path}.py"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        return code_digest(importlib.import_module(f"{name}.stages").source)

    return package


def test_the_whole_package_counts_and_its_prompts(package: Callable[..., bytes]) -> None:
    alone = package()
    assert package() == alone
    assert package(helper="X = 1") != alone
    assert package(helper="X = 1") == package(helper='"""Doc."""\nX = 1  # one')
    assert package(helper="X = 1") != package(helper="X = 2")
    assert package(**{"prompts/a.md": "Write."}) != alone
    assert package(**{"prompts/a.md": "Write."}) != package(**{"prompts/a.md": "Write!"})
    assert package(**{"prompts/.DS_Store": "x", "prompts/__pycache__/a.pyc": "x"}) == alone
    assert package(**{"data/a.md": "Write."}) == alone


NOTEBOOK = """
import hashlib, sys
from engine import DefinitionError, stage
from engine.fingerprint import changes, code_digest, stage_fingerprint
source = {source!r}
space = {{"__name__": "cell"}}
exec(compile(source, "<cell>", "exec"), space)
print(code_digest(space["f"]).hex())
"""


def test_a_function_without_a_file_counts_by_its_code() -> None:
    def printed(source: str, seed: str) -> str:
        command = [sys.executable, "-c", NOTEBOOK.format(source=source)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return ran.stdout

    body = "    async def inner(): return x in {'a', 'b', 'c'}\n    return inner\n"
    plain = "async def f(x):\n" + body
    documented = "\n\nasync def f(x):\n    'What it does.'\n" + body
    first = printed(plain, "1")
    assert printed(documented, "2") == first  # another process, place and docstring
    assert printed(plain.replace("'c'", "'d'"), "1") != first


def test_a_notebook_cell_counts_by_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    import linecache

    def digest_of(source: str) -> Any:
        name = f"<cell {next(numbers)}>"
        lines = source.splitlines(keepends=True)
        monkeypatch.setitem(linecache.cache, name, (len(source), None, lines, name))
        space: dict[str, Any] = {"__name__": "no_such_module"}
        exec(compile(source, name, "exec"), space)
        return code_digest(space["f"])

    plain = "async def f(x):\n    return x + 1\n"
    assert digest_of(plain) == digest_of(plain.replace("return", "'Doc.'\n    return"))
    assert digest_of(plain) == digest_of("# a cell\n\n" + plain)
    assert digest_of(plain) != digest_of(plain.replace("1", "2"))


class Opaque:
    """What pydantic does not know."""


def test_a_default_without_a_json_form_is_told() -> None:
    @stage("toy.opaque")
    async def opaque(text: str, *, how: Opaque = Opaque()) -> None:  # noqa: B008 - the case
        """Do nothing."""

    with pytest.raises(
        DefinitionError, match="the default of 'how' is of type Opaque, which has no JSON"
    ):
        stage_fingerprint(stage_spec(opaque), "k", {"how": Opaque()}, {}, 0)


# --- what it is made of -------------------------------------------------------------------------

Parts = Callable[..., Any]


@pytest.fixture
def parts(tmp_path: Path, fingerprint: Print) -> Parts:
    """Return what the fingerprint of one stage is made of; arguments as for `fingerprint`."""

    def parts(config: str = "", **options: Any) -> Any:
        fingerprint(config, **options)  # writes the code
        key, top = options.get("key", "a"), options.get("top", "")
        text = f"name: p\n{top}\nstages:\n  {key}:\n    use: ./stages.py:{options.get('use', 'source')}\n"
        text += f"    with: {{{config}}}\n"
        made_of = read_pipeline(loads(text, folder=tmp_path)).stages[key].made_of
        return json.loads(json.dumps(made_of))

    return parts


def test_what_changed_is_told(parts: Parts, tmp_path: Path) -> None:
    old = parts("n: 2")
    assert changes(old, old) == []
    assert changes(old, parts("n: 3, words: [b, a]")) == ["n: 2 -> 3", 'words: [] -> ["a","b"]']
    code = STAGE.replace("Made(n)", "Made(n + 1)")
    assert changes(old, parts("n: 2", code=code)) == ["code changed in stages.py"]
    plus = STAGE.replace("n: int = 1", "n: int = 1,\n    m: int = 4")
    assert "m: none -> 4" in changes(old, parts("n: 2", code=plus))
    assert changes(old, parts(use="versioned"))[:2] == [
        "use: t.source -> t.versioned",
        "code: counted by its sources -> version 2",
    ]
    three = STAGE.replace('version="2"', 'version="3"')
    versions = parts(use="versioned"), parts(use="versioned", code=three)
    assert changes(*versions) == ["version 2 -> 3"]
    seeds = parts(use="random", top="seed: 7"), parts(use="random", top="seed: 8")
    assert changes(*seeds) == ["seed 7 -> 8"]


def test_what_changed_in_a_file_is_told_by_its_name(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1")
    old = parts("file: a.txt")
    assert old["config"]["file"]["value"] == '"a.txt"'
    (tmp_path / "a.txt").write_text("2")
    assert changes(old, parts("file: a.txt")) == ["file: changed"]


def test_the_files_of_a_package_are_told_apart(tmp_path: Path, package: Callable[..., Any]) -> None:
    from engine.fingerprint import code_parts

    package(helper="X = 1", **{"prompts/a.md": "Write."})
    name = f"engine_test_package_{next(numbers) - 1}"
    found = code_parts(importlib.import_module(f"{name}.stages").source)
    assert set(found) == {"__init__.py", "stages.py", "helper.py", "prompts/a.md"}


def test_what_came_from_the_environment_is_not_told(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "sk-canary")
    old = parts("words: [$CANARY], n: 2")
    assert "canary" not in json.dumps(old).lower()
    monkeypatch.setenv("CANARY", "sk-other")
    new = parts("words: [$CANARY], n: 2")
    assert changes(old, new) == ["words: changed"]
    assert changes(parts("words: [a], n: 2"), new) == [
        'words: ["a"] -> a value from the environment'
    ]


def test_long_values_are_cut(parts: Parts) -> None:
    value = parts(f"words: [{'x' * 500}]")["config"]["words"]["value"]
    assert len(value) == 80
    assert value.endswith("…")
