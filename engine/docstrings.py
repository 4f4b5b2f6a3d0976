"""What docstrings say: of a stage or resource as a whole, and of each of its parameters."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.resources import ResourceSpec
from engine.signature import StageSpec

__all__ = ["assigned_docs", "attribute_docs", "parameter_docs", "reflowed", "summary"]

_UNIT = re.compile(r"\n\s*\n|\n(?=\s*[-*] )")  # a paragraph, or an item of a list
_OWN = re.compile(r"`\w+`: ")  # how the words on one parameter begin
_SENTENCE = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z`\"'(*])")


def summary(doc: str) -> str:
    """Return the first paragraph of a docstring on one line; "" where there is none."""
    return " ".join(doc.strip().partition("\n\n")[0].split())


def reflowed(doc: str) -> str:
    """Return a docstring with each paragraph, or item of a list, on one line."""
    units = [" ".join(unit.split()) for unit in _UNIT.split(doc.strip())]
    return "".join(
        f"{'' if i == 0 else chr(10) if unit[:2] in ('- ', '* ') else chr(10) * 2}{unit}"
        for i, unit in enumerate(units)
    )


def parameter_docs(spec: StageSpec | ResourceSpec) -> dict[str, str]:
    """Return what is said of each parameter that `with:` may hold: name -> text, "" for nothing.

    That is `Annotated[..., Field(description=...)]` of the parameter, else the sentences of the
    docstring (of a resource's class and its `__init__`) that name the parameter in backticks, alone
    or with a value: `name`, `name=3`, `name: 3`; of an item "- `name`: what it is", what follows.
    """
    hints = {name: hint for name, (hint, _) in spec.config.items()}
    if isinstance(spec, StageSpec):
        names, doc = [*spec.resources, *hints], spec.doc
    else:
        names, doc = list(hints), f"{spec.doc}\n\n{_init_doc(spec.cls)}"
    said = list(_sentences(doc))
    return {name: _described(hints.get(name)) or _naming(name, said) for name in names}


def _init_doc(cls: type) -> str:
    owner = next(c for c in cls.__mro__ if "__init__" in vars(c))
    return "" if owner is object else inspect.cleandoc(vars(owner)["__init__"].__doc__ or "")


def _sentences(doc: str) -> Iterator[str]:
    for unit in _UNIT.split(doc):
        line = re.sub(r"^[-*] ", "", " ".join(unit.split()))
        yield from filter(None, _SENTENCE.split(line))


def _naming(name: str, sentences: list[str]) -> str:
    named = re.compile(rf"`{re.escape(name)}(\s*[=:][^`]*)?`")
    own = f"`{name}`: "
    found = " ".join(
        sentence
        for sentence in sentences
        if sentence.startswith(own) or (named.search(sentence) and not _OWN.match(sentence))
    )
    return found.removeprefix(own)


def _described(hint: Any) -> str:
    """Return the description in a hint, inside or outside of `| None`."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, FieldInfo) and mark.description:
            return mark.description
    return next(filter(None, map(_described, get_args(hint))), "")


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the docstrings below a model's fields, inherited or not: name -> text on one line.

    A class without sources, such as one that a function makes, has none.
    """
    found: dict[str, str] = {}
    for owner in reversed([c for c in cls.__mro__ if c not in (BaseModel, object)]):
        found |= _own_attribute_docs(owner)
    return found


def assigned_docs(module: ModuleType) -> dict[str, str]:
    """Return the docstrings below a module's assignments: name -> text on one line."""
    try:
        return _docs_below(ast.parse(inspect.getsource(module)).body)
    except (OSError, TypeError, SyntaxError):
        return {}


def _own_attribute_docs(cls: type) -> dict[str, str]:
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    return _docs_below(body.body if isinstance(body, ast.ClassDef) else [])


def _docs_below(body: Sequence[ast.stmt]) -> dict[str, str]:
    found = {}
    for line, below in itertools.pairwise(body):
        match line, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found
