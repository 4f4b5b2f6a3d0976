"""Fingerprints: what a stage's results depend on besides its rows."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter

from engine.keys import canonical, digest
from engine.stages import InputFile, NotResult, OutputPath, StageSpec

__all__ = ["code_digest", "stage_fingerprint"]

_INPUT, _OUTPUT = get_args(InputFile)[1], get_args(OutputPath)[1]


def stage_fingerprint(
    spec: StageSpec, key: str, config: Mapping[str, Any], identities: Mapping[str, str], seed: int
) -> bytes:
    """Return H(code, configuration, stage key, resources' identities, the seed where it matters)."""
    code = f"version {spec.version}".encode() if spec.version else code_digest(spec.func)
    settings = {
        name: configured(spec.config[name][0], value)
        for name, value in sorted(config.items())
        if not marked(spec.config[name][0], NotResult, _OUTPUT)
    }
    matters = bool(spec.context or spec.resources)
    return digest(
        "stage",
        spec.name,
        code,
        key,
        canonical(settings),
        canonical(dict(identities)),
        str(seed) if matters else "",
    )


def marked(hint: Any, *markers: Any) -> bool:
    """Return whether `Annotated` metadata of a hint, or of a union member, holds a marker."""
    if any(m is marker for m in getattr(hint, "__metadata__", ()) for marker in markers):
        return True
    return any(marked(a, *markers) for a in get_args(hint) if hasattr(a, "__metadata__"))


def configured(hint: Any, value: Any) -> Any:
    """Return a configuration value as plain JSON; a file by its content."""
    if isinstance(value, Path) and marked(hint, _INPUT):
        return {"file": digest("file", value.read_bytes()).hex()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (str, int, float, bool, type(None))) and not is_dataclass(value):
        return value
    return TypeAdapter(hint).dump_python(value, mode="json")


@functools.lru_cache(maxsize=256)
def code_digest(func: Callable[..., Any]) -> bytes:
    """Return a digest of the sources of the package that defines a stage, docstrings aside.

    Prompt files (`prompts/` in the package) count too. A function without a file (a notebook's)
    counts by its own code.
    """
    module = sys.modules.get(func.__module__)
    file = getattr(module, "__file__", None)
    if module is None or file is None or not Path(file).is_file():
        code = func.__code__
        return digest("code", code.co_code, repr(code.co_consts), repr(code.co_names))
    package = func.__module__.split(".")[0]
    if package == "engine":  # the engine's own: the package of the module, not the whole engine
        package = func.__module__.rpartition(".")[0]
        if package in {"engine", "engine.chat"}:
            return digest("code", _source_digest(Path(file)))
    root = getattr(sys.modules.get(package), "__path__", None)
    if not root:
        return digest("code", _source_digest(Path(file)))
    return _package_digest(str(next(iter(root))))


@functools.lru_cache(maxsize=256)
def _package_digest(root: str) -> bytes:
    folder, parts = Path(root), []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix == ".py" and path.is_file():
            parts += [str(inside), _source_digest(path)]
        elif "prompts" in inside.parts and path.is_file():
            parts += [str(inside), digest("file", path.read_bytes())]
    return digest("package", *parts)


def _source_digest(path: Path) -> bytes:
    """Return a digest of a module's syntax tree without docstrings: comments do not count either."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:]
    return digest("source", ast.dump(tree))
