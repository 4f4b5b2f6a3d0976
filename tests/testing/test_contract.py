"""`PluginContract` finds what is wrong with a plugin, and says how to mend it."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from engine.testing import Example, FakeChat, PluginContract

HEAD = """
from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated, Any
from pydantic import Field
from engine import Artifact, Context, InputFile, OutputPath, Reject, Row, Text, hookimpl, stage
from engine.chat import Chat, Message

class Made(Row):
    made: Text
"""
TAIL = """
@hookimpl
def engine_stages() -> list[Any]:
    return [value for value in globals().values() if hasattr(value, "__engine_stage__")]
"""
Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Install a plugin `toyish` of these stages, as pip leaves it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(stages: str) -> None:
        info = tmp_path / "engine_toyish-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: engine-toyish\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[engine]\ntoyish = engine_toyish\n")
        (tmp_path / "engine_toyish.py").write_text(HEAD + stages + TAIL)

    yield write
    sys.modules.pop("engine_toyish", None)


class Contract(PluginContract):
    plugin = "toyish"

    def __init__(self, **examples: Example) -> None:
        self._examples = {f"toyish.{name}": example for name, example in examples.items()}

    def examples(self, folder: Path) -> Mapping[str, Example]:
        return self._examples


GOOD = '''
@stage("toyish.make")
async def make(*, count: int = 2) -> AsyncIterator[Made]:
    """Make `count` rows."""
    for _ in range(count):
        yield Made(Text("made"))

@stage("toyish.ask")
async def ask(made: Text, *, llm: Chat, out: OutputPath,
              words: Annotated[int, Field(gt=0, description="How many words.")]) -> Made:
    """Ask, and write to `out`."""
    (reply,) = await llm.complete([Message(role="user", content=made)])
    return Made(reply.text)

@stage("toyish.read")
async def read(*, file: InputFile) -> AsyncIterator[Made]:
    """Read `file`."""
    yield Made(Text(file.read_text()))

@stage("toyish.weigh")
async def weigh(file: Artifact, more: tuple[Artifact, ...], rare: Artifact | None = None, *,
                ctx: Context) -> Made:
    """Read artifacts, and make one."""
    (ctx.workdir / "kept").write_text("here")
    texts = [ctx.blobs.path(one).read_text() for one in (file, *more, rare)]
    return Made(Text(" ".join(texts)))

@stage("toyish.gate")
async def gate(made: Text) -> None:
    """Let what is brief pass."""
    if len(made) > 3:
        raise Reject("too_long")
'''


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_good_plugin_passes(write: Write, tmp_path: Path, loop: str) -> None:
    write(GOOD)
    (tmp_path / "text").write_text("read")
    contract = Contract(
        read=Example(file=tmp_path / "text"),
        gate=Example([{"made": "a"}, {"made": "abcd"}]),
        ask=Example(llm=FakeChat(["yes"] * 3)),
    )
    contract.test_it_is_installed_and_registers_something()
    contract.test_loading_it_imports_nothing_heavy()
    for name in ("toyish.make", "toyish.ask", "toyish.read", "toyish.gate", "toyish.weigh"):
        contract.test_docs_say_what_it_does_and_takes(name)
        contract.test_the_schema_can_be_made(name)
        contract.test_it_runs_on_fakes(name, loop, tmp_path)
        contract.test_cancellation_is_clean(name, loop, tmp_path)


def stage(name: str, body: str, doc: str = '"""Do it."""', takes: str = "made: Text") -> str:
    return f'@stage("toyish.{name}")\nasync def {name}({takes}) -> Made:\n    {doc}\n    {body}\n'


ASKED = "await llm.complete([Message(role='user', content=made)])"
CHAT = "made: Text, *, llm: Chat"
BAD = {
    "no doc": (stage("a", "return Made(made)", doc="..."), "docs", "toyish.a has no docstring"),
    "no sentence": (
        stage("a", "return Made(made)", doc='"""do it"""'),
        "docs",
        "first line is no sentence: 'do it'",
    ),
    "a silent parameter": (
        stage("a", "return Made(made)", takes="made: Text, *, marks: int = 1"),
        "docs",
        "toyish.a: not described: marks",
    ),
    "a default of another type": (
        stage("a", "return Made(made)", takes="made: Text, *, marks: int = 'x'"),
        "schema",
        "toyish.a, marks: int = 'x'",
    ),
    "a type without a schema": (
        stage("a", "return Made(made)", takes="made: Text, *, how: type(iter(())) = None"),
        "schema",
        "toyish.a, how: ",
    ),
    "nothing comes out": (
        stage("a", 'raise Reject("bad")'),
        "runs",
        "of made-up rows nothing came out of toyish.a (rejected: 3 x bad): give an example",
    ),
    "it fails": (
        stage("a", "return Made(1 / 0)"),
        "runs",
        "toyish.a failed on made-up rows: stage a, row",
    ),
    "a file": (
        stage("a", "return Made(made)", takes="made: Text, *, file: InputFile"),
        "runs",
        "toyish.a: file is a file to be read; give an example: in `examples`, 'toyish.a'",
    ),
    "an artifact": (
        stage("a", "raise ValueError('no model')", takes="made: Artifact"),
        "runs",
        "in a); if it needs better ones, give an example",
    ),
    "a swallowed cancellation": (
        stage("a", f"try:\n        {ASKED}\n    except BaseException: pass\n    return Made(made)",
              takes=CHAT),
        "cancelled",
        "toyish.a went on after it was cancelled",
    ),
    "a cancellation made an error": (
        stage(
            "a",
            f"try:\n        {ASKED}\n    except BaseException:\n        raise ValueError('x')\n"
            "    return Made(made)",
            takes=CHAT,
        ),
        "cancelled",
        "toyish.a made an error of its cancellation: stage a, row",
    ),
    "a heavy import": ("import numpy\n", "heavy", "imports numpy: import them inside"),
    "it cannot be loaded": ("import no_such_module\n", "heavy", "cannot be loaded"),
    "nothing is registered": ("", "installed", "registers nothing: mark engine_stages()"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_what_is_wrong_is_told(write: Write, tmp_path: Path, case: str, loop: str) -> None:
    stages, test, said = BAD[case]
    write(stages)
    contract, name = Contract(), "toyish.a"
    with pytest.raises(AssertionError) as raised:
        match test:
            case "docs":
                contract.test_docs_say_what_it_does_and_takes(name)
            case "schema":
                contract.test_the_schema_can_be_made(name)
            case "runs":
                contract.test_it_runs_on_fakes(name, loop, tmp_path)
            case "cancelled":
                contract.test_cancellation_is_clean(name, loop, tmp_path)
            case "heavy":
                contract.test_loading_it_imports_nothing_heavy()
            case "installed":
                contract.test_it_is_installed_and_registers_something()
    assert said in str(raised.value)


def test_a_task_left_behind_is_found(write: Write, tmp_path: Path) -> None:
    leave = (
        f"import asyncio\n    global task\n    task = asyncio.create_task({ASKED[6:]})\n    {ASKED}"
    )
    write(stage("a", f"{leave}\n    return Made(made)", takes=CHAT))
    with pytest.raises(AssertionError, match="toyish.a left 3 tasks: use a task group"):
        Contract().test_cancellation_is_clean("toyish.a", "asyncio", tmp_path)


def test_examples_and_the_plugin_must_be_named_rightly(write: Write, tmp_path: Path) -> None:
    write(GOOD)
    with pytest.raises(AssertionError, match="examples: there is no stage toyish.mak"):
        Contract(mak=Example()).test_it_runs_on_fakes("toyish.make", "asyncio", tmp_path)

    class Nameless(PluginContract):
        pass

    with pytest.raises(AssertionError, match="Nameless: name the plugin"):
        Nameless().test_it_is_installed_and_registers_something()
