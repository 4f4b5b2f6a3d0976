"""Discovery of plugins: entry points of the group `engine`, loaded only when they are named.

The entry point's name is the namespace of the plugin's stages and resources. The engine's own
stages and resources are found in just this way.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

import pluggy

from engine import hookspecs
from engine.errors import EngineError, PluginError, nearest, short_path, where
from engine.resources import ResourceSpec, resource_spec
from engine.stages import StageSpec, stage_spec

__all__ = ["GROUP", "Plugins", "installed"]

GROUP = "engine"


def installed() -> dict[str, EntryPoint]:
    """Return the installed plugins: namespace -> entry point; nothing is imported.

    Raises PluginError when two distributions claim one namespace.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        known = found.setdefault(entry.name, entry)
        if known.value != entry.value:
            owners = " and ".join(sorted({_owner(known), _owner(entry)}))
            raise PluginError(
                f"two plugins are named {entry.name!r}: {owners} "
                f"({known.value}, {entry.value}); uninstall one of them"
            )
    return found


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value


class Plugins:
    """The plugins of one run: nothing here is global."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("engine")
        self.manager.add_hookspecs(hookspecs)
        self._installed = installed()
        self._stages: dict[str, StageSpec] = {}
        self._resources: dict[str, ResourceSpec] = {}
        self._loaded: dict[str, object] = {}
        self._given: set[str] = set()

    def load(self, namespace: str) -> None:
        """Load one plugin by its namespace. Raises PluginError with what to do about it."""
        if namespace in self._loaded:
            return
        if namespace not in self._installed:
            if any(name.split(".")[0] == namespace for name in self._given):
                return  # all that there is of it was given
            known = ", ".join(sorted(self._installed)) or "none"
            raise PluginError(
                f"no plugin named {namespace!r} is installed"
                + nearest(namespace, self._installed, say="; did you mean {!r}?")
                + f" (installed: {known})"
            )
        entry = self._installed[namespace]
        try:
            module = entry.load()
        except EngineError:
            raise
        except Exception as error:
            raise PluginError(
                f"plugin {namespace!r} ({_owner(entry)}, {entry.value}) cannot be imported: "
                f"{type(error).__name__}: {error}; `engine plugins` shows the traceback"
            ) from error
        self.register(namespace, module)

    def load_installed(self) -> dict[str, Exception]:
        """Load all installed plugins; return those that cannot be loaded, and why."""
        broken: dict[str, Exception] = {}
        for namespace in sorted(self._installed):
            try:
                self.load(namespace)
            except Exception as error:
                broken[namespace] = error
        return broken

    def add(self, plugin: object) -> None:
        """Take a plugin by its namespace, a stage or resource by itself, or an object with hooks.

        A stage or resource takes the place of an installed one of its name; a module or object
        with hooks that of the whole plugin. Raises PluginError for what is none of these.
        """
        if isinstance(plugin, str):
            self.load(plugin)
            return
        if hasattr(plugin, "__engine_stage__"):
            spec = stage_spec(plugin)
            self._given.add(spec.name)
            self._stages[spec.name] = spec
            return
        if hasattr(plugin, "__engine_resource__"):
            found = resource_spec(plugin)
            self._given.add(found.name)
            self._resources[found.name] = found
            return
        label = getattr(plugin, "__name__", type(plugin).__name__)
        if not any(hasattr(getattr(plugin, hook, None), "engine_impl") for hook in _HOOKS):
            raise PluginError(
                f"{label} is no plugin: neither a stage nor a resource, and without a function "
                f"{' or '.join(_HOOKS)} marked with @hookimpl"
            )
        names = [stage_spec(s).name for s in _told(label, plugin, "engine_stages")]
        names += [resource_spec(r).name for r in _told(label, plugin, "engine_resources")]
        self.register(names[0].split(".")[0] if names else f"{label} {id(plugin)}", plugin)

    def register(self, namespace: str, module: object) -> None:
        """Register a plugin module or object under a namespace; checks its hooks."""
        if namespace in self._loaded:
            if self._loaded[namespace] is not module:
                raise PluginError(f"two plugins are named {namespace!r}: rename one of them")
            return
        _check_hooks(namespace, module)
        self.manager.register(module, name=namespace)
        self._loaded[namespace] = module
        for spec in map(stage_spec, _told(namespace, module, "engine_stages")):
            if spec.name not in self._given:
                self._claim(namespace, spec.name, spec.func)
                self._stages[spec.name] = spec
        for found in map(resource_spec, _told(namespace, module, "engine_resources")):
            if found.name not in self._given:
                self._claim(namespace, found.name, found.cls)
                self._resources[found.name] = found

    def _claim(self, namespace: str, name: str, subject: object) -> None:
        if name.split(".")[0] != namespace:
            raise PluginError(
                f"plugin {namespace!r} registers {name!r}, {where(subject)}: "
                f"its names begin with `{namespace}.`"
            )
        known = self._stages.get(name) or self._resources.get(name)
        if known is not None:
            other = known.func if isinstance(known, StageSpec) else known.cls
            raise PluginError(
                f"plugin {namespace!r} registers {name!r} twice: {where(other)} and "
                f"{where(subject)}; rename one"
            )

    def stage(self, use: str) -> StageSpec:
        """Return a stage by `namespace.name`. Raises PluginError with the nearest right name."""
        if use not in self._given:
            self.load(use.split(".")[0])
        if use not in self._stages:
            raise PluginError(_unknown("stage", use, self._stages, "resource", self._resources))
        return self._stages[use]

    def resource(self, use: str) -> ResourceSpec:
        """Return a resource by `namespace.name`. Raises PluginError with the nearest right name."""
        if use not in self._given:
            self.load(use.split(".")[0])
        if use not in self._resources:
            raise PluginError(_unknown("resource", use, self._resources, "stage", self._stages))
        return self._resources[use]

    def stages(self, namespace: str) -> Iterator[StageSpec]:
        """Yield the stages of a loaded plugin."""
        return (s for n, s in self._stages.items() if n.split(".")[0] == namespace)

    def resources(self, namespace: str) -> Iterator[ResourceSpec]:
        """Yield the resources of a loaded plugin."""
        return (r for n, r in self._resources.items() if n.split(".")[0] == namespace)


def _unknown(what: str, use: str, known: Iterable[str], other: str, others: Iterable[str]) -> str:
    namespace = use.split(".")[0]
    if use in others:
        return f"{use!r} is a {other}, not a {what}"
    mine = sorted(n for n in known if n.split(".")[0] == namespace)
    return (
        f"plugin {namespace!r} has no {what} {use!r}"
        + nearest(use, mine, say="; did you mean {!r}?")
        + (f" (it has: {', '.join(mine)})" if mine else f" (it has no {what}s)")
    )


def _told(namespace: str, module: object, hook: str) -> list[object]:
    """Return what a plugin's hook gives. Raises PluginError where it fails."""
    implementation = getattr(module, hook, None)
    if implementation is None:
        return []
    try:
        return list(implementation())
    except EngineError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin {namespace!r}: {where(implementation)} failed: {type(error).__name__}: {error}"
        ) from error


_HOOKS = [name for name in vars(hookspecs) if name.startswith("engine_")]


def _check_hooks(namespace: str, module: object) -> None:
    """Refuse what pluggy would ignore in silence, and say where it stands."""
    for name, function in inspect.getmembers(module, inspect.isroutine):
        marked = hasattr(function, "engine_impl")
        place = f"plugin {namespace!r}, {where(function)}"
        if marked and name not in _HOOKS:
            hint = nearest(name, _HOOKS, say="; did you mean {}?")
            raise PluginError(f"{place}: there is no hook {name}{hint} ({', '.join(_HOOKS)})")
        if name.startswith("engine_") and not marked:
            raise PluginError(
                f"{place} lacks the marker: write @hookimpl above it "
                "(from engine import hookimpl), or rename it"
            )
        if marked:
            takes = inspect.signature(getattr(hookspecs, name)).parameters
            if strange := [p for p in inspect.signature(function).parameters if p not in takes]:
                allowed = f"takes only {', '.join(takes)}" if takes else "takes nothing"
                raise PluginError(f"{place}: the hook {allowed}, not {', '.join(strange)}")


def local_stage(path: Path, name: str) -> StageSpec:
    """Return the stage `name` of a Python file: `use: ./my_stages.py:shout`.

    Raises PluginError for a file that cannot be imported or lacks the function.
    """
    module = _local_module(path)
    function = getattr(module, name, None)
    if function is None:
        known = [n for n, v in vars(module).items() if hasattr(v, "__engine_stage__")]
        raise PluginError(
            f"{short_path(str(path))} has no {name!r}"
            + nearest(name, known, say="; did you mean {!r}?")
            + (f" (its stages: {', '.join(known)})" if known else " (it has no stages)")
        )
    return stage_spec(function)


def _local_module(path: Path) -> ModuleType:
    shown = short_path(str(path))
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.py")]
        near = nearest(path.name, siblings, say="; did you mean {}?")
        raise PluginError(f"no such file: {shown}{near}") from None
    except OSError as error:
        raise PluginError(f"{shown} cannot be read: {error.strerror}") from None
    # The name holds the content, so that an edited file is never the old module.
    name = f"engine_local_{path.stem}_{blake2b(source + bytes(path), digest_size=6).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a path that ends in .py always has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # Not the spec's loader: its cache of bytecode takes an edit within one second for none.
        exec(compile(source, str(path), "exec"), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, EngineError) or not isinstance(error, Exception):
            raise
        raise PluginError(
            f"{shown}{_line(error, path)} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module


def _line(error: Exception, path: Path) -> str:
    """Return `:line`, the last one of a file that an exception went through."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    return next((f":{f.lineno}" for f in reversed(frames) if f.filename == str(path)), "")
