"""Prompts as data: files with `{field}` placeholders, whose every use leads back to one leaf."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from engine.text.errors import Misplaced, TextError
from engine.text.forms import Form
from engine.text.nodes import Fill
from engine.text.strings import Text, make

_PIECES = frozenset((str, Text))
_HEADING = re.compile(r"^## (system|user|assistant)[ \t]*$", re.MULTILINE)
_FRONT = re.compile(r"---[ \t]*\n(?P<yaml>.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


class Template:
    """A text with `{field}` placeholders; `{{` and `}}` stand for braces.

    Lines `## system`, `## user` or `## assistant` divide it into chat messages. `leaf` is the
    whole text as one leaf, and every literal of every filled Text is a span of it. `source` and
    `first_line` say in messages where the text stands. Raises TextError, with line and column,
    for any other use of a brace.
    """

    def __init__(
        self,
        text: str,
        *,
        id: str = "",
        version: str = "",
        meta: Mapping[str, Any] | None = None,
        source: str = "",
        first_line: int = 1,
    ) -> None:
        self.id = id
        self.version = version
        self.meta: Mapping[str, Any] = dict(meta or {})
        self.leaf = Text.leaf(text, "template", params={"id": id, "version": version})
        self._name = source or id or "template"
        try:
            self._form = Form(self.leaf, 0, len(self.leaf))
            self._sections = self._divided()
        except Misplaced as wrong:
            raise TextError(f"{self._name}:{wrong.place(self.leaf, first_line)}") from None
        used = [field for _, form in self._sections for field in form.fields]
        self.fields: tuple[str, ...] = tuple(dict.fromkeys(used))
        self._names = frozenset(self.fields)

    def __repr__(self) -> str:
        return f"Template(id={self.id!r}, version={self.version!r}, fields={self.fields!r})"

    def _divided(self) -> list[tuple[str, Form]]:
        text = str(self.leaf)
        headings = list(_HEADING.finditer(text))
        if not headings:
            return [("user", self._form)]
        if text[: headings[0].start()].strip():
            raise Misplaced(0, "text before the first heading; put it under `## system`")
        ends = [h.start() for h in headings[1:]] + [len(text)]
        return [
            (h[1], Form(self.leaf, *_trimmed(text, h.end(), end)))
            for h, end in zip(headings, ends, strict=True)
        ]

    def fill(self, /, **values: str | int | float) -> Text:
        """The template with a value for each field.

        Raises TextError for a missing or unknown field, for a value that is neither text nor
        number, and for a template that is divided into messages.
        """
        if self._sections[0][1] is not self._form:
            raise TextError(
                f"{self._name} is divided into chat messages; call messages(), not fill()"
            )
        return self._filled(self._form, values)

    def messages(self, /, **values: str | int | float) -> list[tuple[str, Text]]:
        """The (role, content) of each section; an undivided template is one "user" message.

        Every section's fields are given at once. Raises TextError as `fill` does.
        """
        return [(role, self._filled(form, values)) for role, form in self._sections]

    def _filled(self, form: Form, values: Mapping[str, Any]) -> Text:
        if values.keys() != self._names:
            raise TextError(self._mismatch(values))
        args = tuple(
            [
                value if type(value := values[name]) in _PIECES else self._said(name, value)
                for name in form.fields
            ]
        )
        return make(form.weave(args), Fill(form, args))

    def _said(self, name: str, value: object) -> str:
        if isinstance(value, str):
            return str.__str__(value)
        if type(value) in (int, float):
            return str(value)
        raise TextError(
            f"{self._name}: field {name!r} got {type(value).__name__}; "
            "give a str, Text, int or float"
        )

    def _mismatch(self, values: Mapping[str, Any]) -> str:
        missing = [field for field in self.fields if field not in values]
        extra = [name for name in values if name not in self.fields]
        said = [f"field {name!r} is missing" for name in missing]
        for name in extra:
            near = get_close_matches(name, missing or self.fields, n=1)
            said.append(f"no field {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
        return f"{self._name}: {'; '.join(said)}; its fields are {', '.join(self.fields) or 'none'}"


def _trimmed(text: str, lo: int, hi: int) -> tuple[int, int]:
    """A section without the empty lines around it."""
    section = text[lo:hi]
    lo += len(section) - len(section.lstrip("\n"))
    return lo, max(lo, hi - len(section) + len(section.rstrip("\n")))


def load_template(path: str | Path) -> Template:
    """The template in a Markdown file.

    The file may begin with YAML front matter between `---` lines: `id` (else the file's stem),
    `version`, and further keys for `meta`. One newline at the end of the file is not part of the
    template. Raises TextError, naming the file, for what cannot be read or is no template.
    """
    return _loaded(Path(path))


def load_templates(package_or_folder: str | Path) -> Mapping[str, Template]:
    """The templates of a folder (a Path) or of a package's `prompts/` (its name), by file stem.

    Raises TextError if there is no such folder or package, or for a file that is no template.
    """
    folder: Traversable
    if isinstance(package_or_folder, Path):
        folder = package_or_folder
    else:
        try:
            folder = resources.files(package_or_folder).joinpath("prompts")
        except (ImportError, ValueError, TypeError) as error:
            raise TextError(
                f"no package {package_or_folder!r}; for a folder give a pathlib.Path"
            ) from error
    if not folder.is_dir():
        raise TextError(f"no folder {folder}: put the prompts there, one .md file each")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".md")), key=lambda f: f.name)
    return {file.name.removesuffix(".md"): _loaded(file) for file in files}


def _loaded(file: Traversable) -> Template:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{file}: cannot be read: {error}") from error
    front = _FRONT.match(text)
    meta = _front_matter(str(file), front["yaml"]) if front else {}
    body = text[front.end() :] if front else text
    id = str(meta.pop("id", file.name.removesuffix(".md")))
    version = str(meta.pop("version", ""))
    return Template(
        body.removesuffix("\n"),
        id=id,
        version=version,
        meta=meta,
        source=str(file),
        first_line=1 + (front[0].count("\n") if front else 0),
    )


def _front_matter(name: str, text: str) -> dict[str, Any]:
    import yaml  # only templates from files need it

    try:
        meta = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TextError(f"{name}: front matter is not YAML: {error}") from error
    if meta is None:
        return {}
    if not isinstance(meta, dict) or not all(isinstance(key, str) for key in meta):
        raise TextError(f"{name}: front matter must be `key: value` lines")
    return meta
