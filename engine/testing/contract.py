"""What every plugin keeps to: its tests inherit `PluginContract`."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anyio
from pydantic import TypeAdapter

from engine.chat import Answer, Request
from engine.docstrings import parameter_docs
from engine.errors import StageError, first_error
from engine.plugins import Plugins, installed
from engine.resources import ResourceSpec
from engine.rows import row_fields
from engine.runs import Run
from engine.services import Counters
from engine.settings import is_input, is_output
from engine.stages import Read, StageSpec
from engine.testing.fakes import CannotMakeUp, FakeChat, made_up
from engine.testing.running import open_stage, run_stage
from engine.typecheck import show

__all__ = ["Example", "PluginContract"]


class Example:
    """How the contract tries a stage: its rows and keyword-only parameters, as for `run_stage`.

    Rows that are left out, and required parameters, are made up from their types.
    """

    def __init__(self, rows: Any = None, /, **config: Any) -> None:
        self.rows, self.config = rows, config


class PluginContract:
    """The tests of a plugin: inherit it in a test class, and name the plugin.

    >>> class TestContract(PluginContract):
    ...     plugin = "colours"

    The plugin must be installed (`pip install -e .`). Each stage is run on rows made up from the
    types that it reads, with a FakeChat for each chat; where those will not do, `examples` has
    better ones. Trio's part is run where trio is installed.
    """

    plugin: str
    """The namespace: the name of the plugin's entry point."""
    heavy: tuple[str, ...] = (
        *("torch", "transformers", "tensorflow", "jax", "vllm", "datasets", "openai"),
        *("numpy", "pandas", "pyarrow", "matplotlib", "scipy", "sklearn"),
    )
    """Modules that loading the plugin must not import: stages import them when they run."""

    def examples(self, folder: Path) -> Mapping[str, Example]:
        """Return examples by the stage's name; `folder` is empty, for files that they need."""
        return {}

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Give a test that takes `stage` each stage in turn; pytest calls this."""
        for name, values in (
            ("stage", [spec.name for spec in self._plugins().stages(self.plugin)]),
            ("part", [part.name for part in self._parts()]),
            ("loop", ["asyncio", *(["trio"] if _has_trio() else [])]),
        ):
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, values)

    # --- what it is -----------------------------------------------------------------------------

    def test_it_is_installed_and_registers_something(self) -> None:
        """It is found by its entry point, loads, and has a stage, a resource or an observer."""
        plugins = self._plugins()
        observers = plugins.manager.hook.engine_event.get_hookimpls()
        if not [*self._parts()] and not observers:
            raise AssertionError(
                f"plugin {self.plugin!r} registers nothing: mark engine_stages() with @hookimpl "
                "in the module that its entry point names"
            )
        entry = installed()[self.plugin]
        if entry.dist is None or not entry.dist.version:
            raise AssertionError(f"plugin {self.plugin!r} has no distribution with a version")

    def test_loading_it_imports_nothing_heavy(self) -> None:
        """What is heavy is imported by a stage when it runs, so that the command line stays quick.

        It is loaded in a process of its own.
        """
        code = (
            "import sys; from engine.plugins import Plugins; before = {*sys.modules}; "
            f"Plugins().load({self.plugin!r}); print(*({{*sys.modules}} - before))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise AssertionError(f"plugin {self.plugin!r} cannot be loaded:\n{done.stderr}")
        if heavy := sorted({*self.heavy} & {*done.stdout.split()}):
            raise AssertionError(
                f"loading plugin {self.plugin!r} imports {', '.join(heavy)}: "
                "import them inside the functions that use them"
            )

    # --- its docs and schema --------------------------------------------------------------------

    def test_docs_say_what_it_does_and_takes(self, part: str) -> None:
        """A stage or resource has a docstring, and each parameter of `with:` is described."""
        spec = self._part(part)
        if not spec.doc.strip():
            raise AssertionError(f"{part} has no docstring: say in a sentence what it does")
        first = spec.doc.splitlines()[0]
        if not first.endswith((".", "!", "?", ":")):
            raise AssertionError(f"{part}: the docstring's first line is no sentence: {first!r}")
        silent = [n for n, doc in parameter_docs(spec).items() if n in spec.config and not doc]
        if silent:
            raise AssertionError(
                f"{part}: not described: {', '.join(silent)}. Name each in `backticks` in the "
                "docstring, or annotate it with Field(description=...)"
            )

    def test_the_schema_can_be_made(self, part: str) -> None:
        """Each parameter of `with:` has a JSON Schema, and its default is a value of its type."""
        for name, (hint, default) in self._part(part).config.items():
            try:
                adapter = TypeAdapter(hint)
                adapter.json_schema()
                if default is not inspect.Parameter.empty:
                    adapter.validate_python(default)
            except Exception as error:
                raise AssertionError(
                    f"{part}, {name}: {show(hint)} = {default!r}: {_first(error)}"
                ) from error

    # --- its stages, run ------------------------------------------------------------------------

    def test_it_runs_on_fakes(self, stage: str, loop: str, tmp_path: Path) -> None:
        """The stage accepts a row of its example, each row is accounted for, and no reply is real.

        Raises AssertionError with what came instead.
        """
        spec, example = self._spec(stage), self._example(stage, tmp_path)
        kind = "its example" if stage in self.examples(tmp_path) else "made-up rows"

        async def run() -> None:
            rows = await run_stage(spec.func, example.rows, **example.config)
            if not rows:
                why = ", ".join(f"{n} x {r}" for r, n in rows.rejected.items())
                raise AssertionError(
                    f"of {kind} nothing came out of {stage} (rejected: {why or 'none'}): "
                    "give an example that it accepts"
                )

        try:
            anyio.run(run, backend=loop)
        except StageError as error:
            hint = "" if kind == "its example" else "; if it needs better ones, give an example"
            raise AssertionError(f"{stage} failed on {kind}: {error}{hint}") from error

    def test_cancellation_is_clean(self, stage: str, loop: str, tmp_path: Path) -> None:
        """Cancelled while it waits for a reply or a row, the stage stops, and leaves no task.

        A stage that catches the cancellation and goes on would hold up the whole run.
        """
        spec, example = self._spec(stage), self._example(stage, tmp_path)
        config: dict[str, Any] = {
            name: _Silent(value) if isinstance(value, FakeChat) else value
            for name, value in example.config.items()
        }

        async def run() -> None:
            before = len(anyio.get_running_tasks())
            counted: list[Any] = []
            failed: list[BaseException] = []
            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    started = open_stage(spec.func, example.rows, endless=True, **config)
                    tasks.start_soon(_iterate, started, failed)
                    await anyio.wait_all_tasks_blocked()
                    counted.append(_ends(started.counters))
                    tasks.cancel_scope.cancel()
                counted.append(_ends(started.counters))
            asked = any(isinstance(v, _Silent) and v.requests for v in config.values())
            if asked and counted[0] != counted[1]:  # a thread, unlike a reply, comes to its end
                raise AssertionError(
                    f"{stage} went on after it was cancelled: let the cancellation pass "
                    "(catch Exception, never BaseException)"
                )
            if failed or started.summary.status == "failed":
                error = failed[0] if failed else started.summary.error
                raise AssertionError(f"{stage} made an error of its cancellation: {error}")
            if (left := len(anyio.get_running_tasks()) - before) > 0:
                raise AssertionError(f"{stage} left {left} tasks: use a task group")

        anyio.run(run, backend=loop)

    # --- what the tests share -------------------------------------------------------------------

    def _plugins(self) -> Plugins:
        if not getattr(self, "plugin", ""):
            raise AssertionError(f"{type(self).__name__}: name the plugin: plugin = 'namespace'")
        plugins = Plugins()
        plugins.load(self.plugin)
        return plugins

    def _parts(self) -> Iterable[StageSpec | ResourceSpec]:
        plugins = self._plugins()
        return [*plugins.stages(self.plugin), *plugins.resources(self.plugin)]

    def _part(self, name: str) -> StageSpec | ResourceSpec:
        return next(part for part in self._parts() if part.name == name)

    def _spec(self, name: str) -> StageSpec:
        return self._plugins().stage(name)

    def _example(self, name: str, folder: Path) -> Example:
        """Return the stage's example, with what it leaves out made up."""
        spec = self._spec(name)
        given = self.examples(folder)
        if strange := given.keys() - {s.name for s in self._plugins().stages(self.plugin)}:
            raise AssertionError(f"examples: there is no stage {', '.join(sorted(strange))}")
        example = given.get(name, Example())
        try:
            return Example(
                _rows(spec) if example.rows is None else example.rows,
                **(_config(spec, folder, example.config) | example.config),
            )
        except CannotMakeUp as error:
            raise AssertionError(
                f"{name}: {error}; give an example: in `examples`, {name!r}: Example(...)"
            ) from error


def _rows(spec: StageSpec) -> Any:
    """Return three rows of made-up fields; for a join, three of each."""
    if spec.kind == "source":
        return ()
    if spec.is_join:
        return {name: _made_rows(row_fields(cls)) for name, cls in spec.row_parameters.items()}
    return _made_rows(spec.reads)


def _made_rows(reads: Iterable[Read]) -> list[dict[str, Any]]:
    reads = list(reads)
    return [{read.name: made_up(read.type, number) for read in reads} for number in (1, 2, 3)]


def _config(spec: StageSpec, folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return made-up values of the required parameters that an example leaves out."""
    config: dict[str, Any] = {}
    for name, need in spec.resources.items():
        if name in given or need.optional:
            continue
        if need.cls not in FakeChat.__mro__:
            raise CannotMakeUp(f"no {need.cls.__name__} can be made up for {name}")
        config[name] = FakeChat()
    for name, (hint, default) in spec.config.items():
        if name in given or default is not inspect.Parameter.empty:
            continue
        if is_input(hint):
            raise CannotMakeUp(f"{name} is a file to be read")
        config[name] = folder / name if is_output(hint) else made_up(hint)
    return config


class _Silent(FakeChat):
    """A chat that never answers."""

    def __init__(self, chat: FakeChat) -> None:
        super().__init__(can=chat.can)

    async def send(self, request: Request) -> Answer:
        self.requests.append(request)
        await anyio.sleep_forever()
        raise AssertionError("unreachable")


async def _iterate(run: Run, failed: list[BaseException]) -> None:
    """Iterate a run to its end, and note what failed; a cancellation passes."""
    try:
        async with run:
            async for _ in run:
                pass
    except* StageError as group:  # beside a cancellation it comes in groups
        failed.append(first_error(group))


def _ends(counters: Mapping[str, Counters]) -> list[tuple[int, ...]]:
    """Return what the stages have let out: none of it may grow after a cancellation."""
    return [
        (c.out, c.rejected, c.dead, c.yielded, c.expanded, c.consumed) for c in counters.values()
    ]


def _has_trio() -> bool:
    return importlib.util.find_spec("trio") is not None


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0]
