"""`engine new plugin`: the folder of a plugin that works, to be changed into one's own."""

from __future__ import annotations

import keyword
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from engine.errors import InputError
from engine.plugins import installed

__all__ = ["new_plugin"]


def new_plugin(name: str, parent: Path) -> Path:
    """Make the folder `engine-NAME` in `parent`, whole or not at all, and return it.

    It is a distribution with a source, a map that asks a chat, a stream, their tests and a
    pipeline. Raises InputError for a name that is none or is taken, or a folder that exists.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise InputError(
            f"{name!r} cannot name a plugin: write small letters, digits and `_`, a letter first"
        )
    if name in installed():
        raise InputError(f"a plugin named {name!r} is installed already: choose another name")
    folder = parent / f"engine-{name.replace('_', '-')}"
    if folder.exists():
        raise InputError(f"{folder} exists: remove it, or choose another name or folder")
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=parent) as temporary:
        made = Path(temporary) / folder.name
        for template, place in _templates(files("engine.scaffold") / "plugin", Path()):
            path = made / str(place).replace("package", f"engine_{name}").removesuffix(".tmpl")
            path.parent.mkdir(parents=True, exist_ok=True)
            text = Template(template.read_text("utf-8"))
            path.write_text(text.substitute(name=name, folder=folder.name), "utf-8")
        made.rename(folder)
    return folder


def _templates(folder: Traversable, place: Path) -> Iterator[tuple[Traversable, Path]]:
    """Yield (file, path inside the folder) of all templates, however deep."""
    for item in folder.iterdir():
        if item.is_dir():
            yield from _templates(item, place / item.name)
        elif item.name.endswith(".tmpl"):
            yield item, place / item.name
