"""Fingerprints: what a stage's results depend on besides its rows."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from engine.errors import DefinitionError
from engine.keys import canonical, digest, digest_stream
from engine.settings import NotResult, is_input, is_marked, is_output, map_paths
from engine.signature import StageSpec

__all__ = ["StageParts", "changes", "code_digest", "stage_fingerprint", "stage_parts"]

DIGITS = 16
"""Hex digits of the digests that are only compared with each other, one part at a time."""
SHOWN = 80
"""Characters of a configuration value that are kept to be shown."""


@dataclass(frozen=True, slots=True)
class StageParts:
    """A stage's fingerprint, and what it is made of."""

    fingerprint: bytes
    made_of: Mapping[str, Any]
    """Plain JSON: `use`, `code` (`{file: digest}`, or `{"version": ...}`), `config`
    (`{name: {"digest": ..., "value": ...}}`), `resources` (`{parameter: identity}`), and `seed`
    where it matters. A value that came from the environment is there by its digest alone."""


def stage_fingerprint(
    spec: StageSpec, key: str, config: Mapping[str, Any], identities: Mapping[str, str], seed: int
) -> bytes:
    """Return H(code, configuration, stage key, resources' identities, seed where it matters)."""
    return stage_parts(spec, key, config, identities, seed).fingerprint


def stage_parts(
    spec: StageSpec,
    key: str,
    config: Mapping[str, Any],
    identities: Mapping[str, str],
    seed: int,
    hidden: Container[str] = (),
) -> StageParts:
    """Return a stage's fingerprint and its parts; the values of `hidden` settings are not told.

    Raises DefinitionError for a default that has no JSON form.
    """
    hints = {name: hint for name, (hint, _) in spec.config.items()}
    counted = {
        name: value
        for name, value in config.items()
        if not is_marked(hints[name], NotResult) and not is_output(hints[name])
    }
    settings = {
        name: _setting(spec, name, map_paths(hints[name], value, _path))
        for name, value in counted.items()
    }
    drawn = bool(spec.context or spec.resources)
    fingerprint = digest(
        "stage",
        spec.name,
        f"version {spec.version}".encode() if spec.version else code_digest(spec.func),
        key,
        canonical(settings),
        canonical(dict(identities)),
        str(seed) if drawn else "",
    )
    code = {"version": spec.version} if spec.version else _shortened(code_parts(spec.func))
    told: dict[str, Any] = {"use": spec.name, "code": code}
    told["config"] = {
        name: {"digest": digest("setting", canonical(setting)).hex()[:DIGITS]}
        | ({} if name in hidden else {"value": _shown(hints[name], counted[name])})
        for name, setting in settings.items()
    }
    told["resources"] = dict(identities)
    return StageParts(fingerprint, told | ({"seed": seed} if drawn else {}))


def _shown(hint: Any, value: Any) -> str:
    """Return a setting as people know it, cut short: files by their names."""
    named = _plain(map_paths(hint, value, lambda _, path: path.name))
    text = canonical(named).decode(errors="replace")
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _shortened(parts: Mapping[str, bytes]) -> dict[str, str]:
    return {name: part.hex()[:DIGITS] for name, part in parts.items()}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what differs between the parts of a stage in two runs, a phrase each."""
    found = []
    if old["use"] != new["use"]:
        found.append(f"use: {old['use']} -> {new['use']}")
    found += _code_changes(old["code"], new["code"])
    for name in sorted(old["config"].keys() | new["config"].keys()):
        before, after = old["config"].get(name), new["config"].get(name)
        if before is None or after is None:
            found.append(f"{name}: {_value(before)} -> {_value(after)}")
        elif before["digest"] != after["digest"]:
            pair = f"{_value(before)} -> {_value(after)}"
            alike = before.get("value") == after.get("value")
            found.append(f"{name}: changed" if alike else f"{name}: {pair}")
    for name in sorted(old["resources"].keys() | new["resources"].keys()):
        was, now = old["resources"].get(name, "none"), new["resources"].get(name, "none")
        if was != now:
            found.append(f"resource {name}: {was} -> {now}")
    if old.get("seed") != new.get("seed"):
        found.append(f"seed {old.get('seed', 'unused')} -> {new.get('seed', 'unused')}")
    return found


def _value(setting: Mapping[str, str] | None) -> str:
    if setting is None:
        return "none"
    return setting.get("value", "a value from the environment")


def _code_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    if old.keys() == new.keys() == {"version"}:
        return [] if old == new else [f"version {old['version']} -> {new['version']}"]
    if "version" in old or "version" in new:
        return [f"code: {_kept_by(old)} -> {_kept_by(new)}"]
    verbs = {name: "changed in" for name in old.keys() & new.keys() if old[name] != new[name]}
    verbs |= dict.fromkeys(new.keys() - old.keys(), "added:")
    verbs |= dict.fromkeys(old.keys() - new.keys(), "removed:")
    return [f"code {verb} {name}" for name, verb in sorted(verbs.items())]


def _kept_by(code: Mapping[str, str]) -> str:
    return f"version {code['version']}" if "version" in code else "counted by its sources"


def _path(hint: Any, path: Path) -> Any:
    """Return what is read by its content, and any other path by its name."""
    if not is_input(hint):
        return str(path)
    if not path.is_dir():
        return {"file": _file(path)}
    inside = {file: file.relative_to(path) for file in path.rglob("*") if file.is_file()}
    seen = {
        name.as_posix(): _file(file)
        for file, name in inside.items()
        if not any(part.startswith(".") for part in name.parts)
    }
    return {"folder": seen}


def _file(path: Path) -> str:
    """Return the digest of a file; read once as long as its size and time of change stay."""
    status = path.stat()
    return _content(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _content(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return digest_stream("file", file, size).hex()


def _setting(spec: StageSpec, name: str, value: Any) -> Any:
    try:
        return _plain(value)
    except PydanticUserError as error:
        raise DefinitionError(
            spec.func,
            f"the default of {name!r} is of type {type(value).__name__}, which has no JSON form "
            "for the fingerprint: use a type that pydantic knows, or None",
        ) from error


def _plain(value: Any) -> Any:
    """Return a configuration value as plain JSON that is the same in every process."""
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=canonical)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or type(value) in (str, int, float, bool):
        return value
    plain = TypeAdapter[Any](type(value)).dump_python(value, mode="json", warnings=False)
    return _plain(plain) if isinstance(plain, (list, dict)) else plain


@functools.lru_cache(maxsize=256)
def code_digest(func: Callable[..., Any]) -> bytes:
    """Return a digest of the sources of the package that defines a stage, docstrings aside.

    Prompt files (`prompts/` in the package, or beside a single file) count too. A function without
    a file (a notebook's) counts by its own source, or if that is lost, by its code.
    """
    parts = code_parts(func)
    if _package(func) is None:  # the name of the source does not count; those of its prompts do
        (_, source), *prompts = parts.items()
        return digest("code", source, *(part for item in prompts for part in item))
    return digest("package", *(part for item in parts.items() for part in item))


@functools.lru_cache(maxsize=256)
def code_parts(func: Callable[..., Any]) -> Mapping[str, bytes]:
    """Return the digest of each file that `code_digest` is made of, by its name."""
    package = _package(func)
    if package is not None:
        return _package_parts(package)
    file = getattr(sys.modules.get(func.__module__), "__file__", None)
    if file is not None and Path(file).is_file():
        source = {Path(file).name: _source_digest(Path(file).read_bytes())}
        return {**source, **_package_parts(str(Path(file).parent / "prompts"), "prompts/")}
    return {f"function {func.__name__}": _function_digest(func)}


def _package(func: Callable[..., Any]) -> str | None:
    """Return the folder of the package whose code counts, or None for a single source."""
    file = getattr(sys.modules.get(func.__module__), "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    package = func.__module__.partition(".")[0]
    if package == "engine":  # the engine's own: the package of the module, not the whole engine
        package = func.__module__.rpartition(".")[0]
        if package in {"engine", "engine.chat"}:
            return None
    root = getattr(sys.modules.get(package), "__path__", None)
    return str(next(iter(root))) if root else None


@functools.lru_cache(maxsize=256)
def _package_parts(root: str, within: str = "") -> Mapping[str, bytes]:
    """Return the digests of the sources and prompt files in a folder, named after `within`."""
    folder, parts = Path(root), dict[str, bytes]()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if "__pycache__" in inside.parts or path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".py":
            parts[within + inside.as_posix()] = _source_digest(path.read_bytes())
        elif within or "prompts" in inside.parts:
            parts[within + inside.as_posix()] = digest("file", path.read_bytes())
    return parts


def _source_digest(source: bytes | str) -> bytes:
    """Return a digest of the syntax tree without docstrings: comments are not in it either."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case (
                ast.Module(body=body)
                | ast.ClassDef(body=body)
                | ast.FunctionDef(body=body)
                | ast.AsyncFunctionDef(body=body)
            ) if ast.get_docstring(node, clean=False) is not None:
                node.body = body[1:]
    return digest("source", ast.dump(tree))


def _function_digest(func: Callable[..., Any]) -> bytes:
    try:
        return _source_digest(textwrap.dedent(inspect.getsource(func)))
    except (OSError, TypeError, SyntaxError):
        return _code_digest(func.__code__)


def _code_digest(code: CodeType) -> bytes:
    """Return a digest of compiled code: no addresses, no line numbers, no docstring."""
    parts: list[bytes | str] = [code.co_code, repr(code.co_names), repr(code.co_varnames)]
    for constant in code.co_consts[_documented(code) :]:
        if isinstance(constant, CodeType):
            parts.append(_code_digest(constant))
        elif isinstance(constant, frozenset):
            parts.append(repr(sorted(map(repr, constant))))
        else:
            parts.append(repr(constant))
    return digest("compiled", *parts)


def _documented(code: CodeType) -> bool:
    """Return whether the first constant is the docstring: before 3.13 it is that, or None."""
    flag = getattr(inspect, "CO_HAS_DOCSTRING", None)
    if flag is not None:
        return bool(code.co_flags & flag)
    return not code.co_name.startswith("<") and isinstance(code.co_consts[0], (str, type(None)))
