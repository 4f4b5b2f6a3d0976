"""Fingerprints: what a stage's results depend on besides its rows."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from engine.errors import DefinitionError
from engine.keys import canonical, digest
from engine.settings import NotResult, is_input, is_marked, is_output, map_paths
from engine.signature import StageSpec

__all__ = ["code_digest", "stage_fingerprint"]


def stage_fingerprint(
    spec: StageSpec, key: str, config: Mapping[str, Any], identities: Mapping[str, str], seed: int
) -> bytes:
    """Return H(code, configuration, stage key, resources' identities, seed where it matters)."""
    code = f"version {spec.version}".encode() if spec.version else code_digest(spec.func)
    hints = {name: hint for name, (hint, _) in spec.config.items()}
    settings = {
        name: _setting(spec, name, map_paths(hints[name], value, _path))
        for name, value in config.items()
        if not is_marked(hints[name], NotResult) and not is_output(hints[name])
    }
    return digest(
        "stage",
        spec.name,
        code,
        key,
        canonical(settings),
        canonical(dict(identities)),
        str(seed) if spec.context or spec.resources else "",
    )


def _path(hint: Any, path: Path) -> Any:
    """Return a file by its content, and any other path by its name."""
    return {"file": digest("file", path.read_bytes()).hex()} if is_input(hint) else str(path)


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

    Prompt files (`prompts/` in the package) count too. A function without a file (a notebook's)
    counts by its own source, or if that is lost, by its code.
    """
    file = getattr(sys.modules.get(func.__module__), "__file__", None)
    if file is None or not Path(file).is_file():
        return digest("code", _function_digest(func))
    package = func.__module__.partition(".")[0]
    if package == "engine":  # the engine's own: the package of the module, not the whole engine
        package = func.__module__.rpartition(".")[0]
        if package in {"engine", "engine.chat"}:
            return digest("code", _source_digest(Path(file).read_bytes()))
    root = getattr(sys.modules.get(package), "__path__", None)
    if not root:
        return digest("code", _source_digest(Path(file).read_bytes()))
    return _package_digest(str(next(iter(root))))


@functools.lru_cache(maxsize=256)
def _package_digest(root: str) -> bytes:
    folder, parts = Path(root), list[bytes | str]()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if "__pycache__" in inside.parts or path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".py":
            parts += [inside.as_posix(), _source_digest(path.read_bytes())]
        elif "prompts" in inside.parts:
            parts += [inside.as_posix(), digest("file", path.read_bytes())]
    return digest("package", *parts)


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
