"""Plugins are found by entry points, loaded when named, and told what is wrong with them."""

import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from engine import PluginError, Row, hookimpl, stage
from engine.errors import DefinitionError, EngineError
from engine.plugins import Plugins, installed, local_stage

GOOD = '''
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self
from engine import Resource, Row, hookimpl, resource, stage

class Made(Row):
    made: int

@stage("{name}.make")
async def make() -> AsyncIterator[Made]:
    """Make."""
    yield Made(1)

@resource("{name}.box")
class Box(Resource):
    """A box."""
    @property
    def identity(self) -> str: return "box"
    async def __aenter__(self) -> Self: return self
    async def __aexit__(self, *exc_info: Any) -> None: ...

@hookimpl
def engine_stages() -> Sequence[Any]:
    return [make]

@hookimpl
def engine_resources() -> Sequence[type]:
    return [Box]
'''
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution, as pip leaves it: a module and a dist-info folder on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(name: str, code: str, *, dist: str = "", value: str = "") -> None:
        dist = dist or f"test-{name}"
        info = tmp_path / f"{dist.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[engine]\n{name} = {value or f'st_test_{name}'}\n")
        (tmp_path / f"st_test_{name}.py").write_text(code.replace("{name}", name))

    yield install
    for name in set(sys.modules) - before:
        if name.startswith("st_test_"):
            del sys.modules[name]


def test_a_plugin_is_loaded_when_it_is_named(install: Install) -> None:
    install("one", GOOD)
    install("two", "raise RuntimeError('never imported')")
    assert {"one", "two", "dataset"} <= set(installed())
    plugins = Plugins()
    assert list(plugins.stages("one")) == []
    assert plugins.stage("one.make").doc == "Make."
    assert plugins.resource("one.box").doc == "A box."
    assert [spec.name for spec in plugins.stages("one")] == ["one.make"]
    assert [spec.name for spec in plugins.resources("one")] == ["one.box"]
    assert "st_test_two" not in sys.modules
    plugins.load("one")  # again: nothing happens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("engine_stages", "engine_stage"), r"plugin 'bad', engine_stage \(.*st_test_bad.py:2\d\): "
         r"there is no hook engine_stage; did you mean engine_stages\? \(engine_stages, "),
        (("def engine_stages", "def stages"), r"plugin 'bad', stages \(.*st_test_bad.py:2\d\): "
         r"there is no hook stages; did you mean engine_stages\? "),
        (("@hookimpl\ndef engine_stages", "def engine_stages"),
         r"plugin 'bad', engine_stages \(.*st_test_bad.py:2\d\) lacks the marker: write @hookimpl"),
        (("def engine_stages()", "def engine_stages(run)"),
         r"plugin 'bad', engine_stages \(.*\): the hook takes nothing, not run"),
        (("{name}.make", "dataset.make"), r"plugin 'bad' registers 'dataset.make', make \(.*:9\): "
         r"its names begin with `bad.`"),
        (("[make]", "[make, make]"), r"plugin 'bad' registers 'bad.make' twice: make \(.*:9\) and "
         r"make \(.*:9\); rename one"),
        (("{name}.box", "{name}.make"), r"plugin 'bad' registers 'bad.make' twice: make \(.*:9\) "
         r"and Box \(.*:1\d\); rename one"),
        (("return [make]", "return 1 / 0"), r"plugin 'bad': engine_stages \(.*\) failed: ZeroDiv"),
        (("return [Box]", "return None"), r"plugin 'bad': engine_resources \(.*\) failed: TypeE"),
        (("Made(Row):", "Made(Rwo):"), r"plugin 'bad' \(test-bad, st_test_bad\) cannot be imported"
         r": NameError: name 'Rwo' .*; `engine plugins` shows the traceback"),
        (("from typing", "import no_such_thing\nfrom typing"),
         r"cannot be imported: ModuleNotFoundError: No module named 'no_such_thing'"),
    ],
    ids=["misspelt", "no prefix", "unmarked", "argument", "namespace", "twice", "twice as resource",
         "stages fail", "resources fail", "broken", "missing"],
)  # fmt: skip
def test_what_is_wrong_with_a_plugin(
    install: Install, change: tuple[str, str], message: str
) -> None:
    assert change[0] in GOOD
    install("bad", GOOD.replace(*change))
    with pytest.raises(PluginError, match=message):
        Plugins().load("bad")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("return [make]", "return [Made]"), r"Made \(.*st_test_bad.py:6\): not a stage: decorate"),
        (("return [Box]", "return [Made]"), r"Made \(.*:6\): not a resource: decorate the class"),
        (("make()", "make(*args: int)"), r"make \(.*:9\): `\*args` hides what the stage reads"),
    ],
)
def test_a_stage_or_resource_that_is_none(
    install: Install, change: tuple[str, str], message: str
) -> None:
    install("bad", GOOD.replace(*change))
    with pytest.raises(DefinitionError, match=message):
        Plugins().load("bad")


def test_two_plugins_of_one_name(install: Install) -> None:
    install("same", GOOD, dist="first")
    install("same", GOOD, dist="second", value="elsewhere")
    with pytest.raises(
        PluginError,
        match=r"two plugins are named 'same': first and second \(.*elsewhere.*\); uninstall one",
    ):
        Plugins()


def test_two_modules_registered_as_one_plugin() -> None:
    plugins = Plugins()
    one, two = object(), object()
    plugins.register("it", one)
    plugins.register("it", one)
    with pytest.raises(PluginError, match="two plugins are named 'it': rename one of them"):
        plugins.register("it", two)


def test_runs_share_no_plugins(install: Install) -> None:
    install("one", GOOD)
    first = Plugins()
    first.load("one")
    assert list(Plugins().stages("one")) == []


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("dataste.read", "no plugin named 'dataste' is installed; did you mean 'dataset'? (inst"),
        ("dataset.raed", "plugin 'dataset' has no stage 'dataset.raed'; did you mean 'dataset.rea"),
        ("fixture.chat", "'fixture.chat' is a resource, not a stage"),
        ("fixture.it", "plugin 'fixture' has no stage 'fixture.it' (it has no stages)"),
    ],
)
def test_unknown_names_are_told_the_nearest(use: str, message: str) -> None:
    with pytest.raises(PluginError, match=re.escape(message)):
        Plugins().stage(use)


# --- stages without a package -------------------------------------------------------------------

LOCAL = """
from engine import Row, stage

class Loud(Row):
    loud: str

@stage("my.shout")
async def shout(word: str) -> Loud:
    return Loud(word + "!")
"""


def test_an_edited_file_is_never_the_old_module(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(LOCAL)
    moment = file.stat().st_mtime_ns
    first = local_stage(file, "shout")
    assert local_stage(file, "shout") is first
    file.write_text(LOCAL.replace("my.shout", "my.cried"))  # the same size, in the same moment
    os.utime(file, ns=(moment, moment))
    assert local_stage(file, "shout").name == "my.cried"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py"]  # no bytecode either


def test_equal_files_are_different_modules(tmp_path: Path) -> None:
    files = [tmp_path / "a.py", tmp_path / "b.py"]
    for file in files:
        file.write_text(LOCAL)
    assert local_stage(files[0], "shout").func is not local_stage(files[1], "shout").func


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (LOCAL.replace("class Loud", "clas Loud"), r"mine.py:4 cannot be imported: SyntaxError"),
        (LOCAL + "\n1 / 0\n", r"mine.py:11 cannot be imported: ZeroDivisionError"),
        (LOCAL + "\nimport nothing_such\n", r"mine.py:11 cannot be imported: ModuleNotFoundError"),
        (
            LOCAL.replace("word: str", "word"),
            r"shout \(.*mine.py:7\): parameter 'word' has no type",
        ),
        (
            LOCAL.replace("shout(", "shuot("),
            r"mine.py has no 'shout'; did you mean 'shuot'\? \(its",
        ),
        (
            LOCAL.replace("@stage", "#"),
            r"shout \(.*mine.py:8\): not a stage: decorate the function",
        ),
        ("", r"mine.py has no 'shout' \(it has no stages\)"),
        ("\0", r"mine.py.* cannot be imported: "),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, code: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(code)
    before = set(sys.modules)
    for _ in range(2):  # a failed import leaves nothing behind
        with pytest.raises(EngineError, match=message):
            local_stage(file, "shout")
    left = {name for name in set(sys.modules) - before if name.startswith("engine_local_")}
    assert not left or "no type" not in message
    assert all(hasattr(sys.modules[name], "__file__") for name in left)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LOCAL)
    with pytest.raises(PluginError, match=r"no such file: .*mien.py; did you mean mine.py\?"):
        local_stage(tmp_path / "mien.py", "shout")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(PluginError, match=r"folder.py cannot be read: Is a directory"):
        local_stage(tmp_path / "folder.py", "shout")


class Given(Row):
    made: int


@stage("given.make")
async def given_make() -> AsyncIterator[Given]:
    """Make."""
    yield Given(1)


@stage("one.make")
async def other_make() -> AsyncIterator[Given]:
    """Make otherwise."""
    yield Given(2)


def test_a_stage_is_given_by_itself(install: Install) -> None:
    install("one", GOOD)
    plugins = Plugins()
    plugins.add(given_make)
    plugins.add(other_make)
    assert plugins.stage("given.make").func is given_make
    assert plugins.stage("one.make").func is other_make  # in the place of the installed one
    assert plugins.resource("one.box").doc == "A box."  # the rest of that plugin is still there
    assert plugins.stage("one.make").func is other_make
    with pytest.raises(PluginError, match="has no stage 'given.mak'; did you mean 'given.make'?"):
        plugins.stage("given.mak")


def test_an_object_with_hooks_is_given(install: Install) -> None:
    install("one", GOOD)

    class Plugin:
        @hookimpl
        def engine_stages(self) -> list[Any]:
            return [other_make]

        @hookimpl
        def engine_event(self, event: Any) -> None: ...

    plugins = Plugins()
    plugins.add(Plugin())
    assert plugins.stage("one.make").func is other_make
    with pytest.raises(PluginError, match="'one' has no resource 'one.box'"):
        plugins.resource("one.box")
    with pytest.raises(PluginError, match="int is no plugin: neither a stage nor a resource"):
        plugins.add(3)


def test_an_observer_alone_is_given() -> None:
    class Observer:
        @hookimpl
        def engine_event(self, event: Any) -> None: ...

    plugins = Plugins()
    plugins.add(Observer())
    plugins.add(Observer())
    assert len(plugins.manager.hook.engine_event.get_hookimpls()) == 2
