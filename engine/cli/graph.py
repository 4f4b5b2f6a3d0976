"""`engine graph FILE`: the pipeline as a drawing."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]

SUFFIXES = {".mmd": "mermaid", ".dot": "dot", ".gv": "dot", ".json": "json", ".svg": "svg"}


@click.command("graph")
@click.argument("file", type=click.Path())
@click.option(
    "--format",
    "form",
    type=click.Choice(["mermaid", "dot", "json", "svg"]),
    help="The language to draw in.  [default: by the suffix of --output, else mermaid]",
)
@click.option("--output", "-o", metavar="FILE", type=click.Path(), help="Write FILE, not stdout.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value.")
@click.option("--plugin", "plugins", multiple=True, metavar="NAME", help="Load a plugin, too.")
def command(
    file: str,
    form: str | None,
    output: str | None,
    overrides: tuple[str, ...],
    plugins: tuple[str, ...],
) -> int:
    """Draw a pipeline: its stages, what each adds, what flows where, and the resources taken.

    An SVG is drawn by Graphviz's `dot`, if that is installed.
    """
    import contextlib
    import sys

    from engine.cli.installed import write
    from engine.drawing import FORMATS
    from engine.pipeline import read_pipeline

    form = form or SUFFIXES.get(Path(output or "").suffix, "mermaid")
    with contextlib.redirect_stdout(sys.stderr):  # what a module prints is talk
        pipeline = read_pipeline(file, overrides=overrides, plugins=plugins)
    drawn = FORMATS["dot" if form == "svg" else form](pipeline)
    write(_svg(drawn) if form == "svg" else drawn, output)
    return 0


def _svg(dot: str) -> str:
    import shutil
    import subprocess

    from engine.errors import EngineError, InputError

    program = shutil.which("dot")
    if program is None:
        raise InputError(
            "an SVG is drawn by Graphviz's `dot`, which is not installed: install graphviz "
            "(apt install graphviz, brew install graphviz), or use --format mermaid"
        )
    done = subprocess.run(
        [program, "-Tsvg"], input=dot, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise EngineError(f"dot failed with exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout
