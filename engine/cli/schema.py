"""`engine schema`: the JSON Schema by which an editor completes and checks pipeline files."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command("schema")
@click.option("--output", "-o", metavar="FILE", type=click.Path(), help="Write FILE, not stdout.")
def command(output: str | None) -> int:
    """Print a JSON Schema of pipeline files: what the installed plugins let one write.

    A pipeline that begins with `# yaml-language-server: $schema=FILE` is then completed, explained
    and checked by an editor with a YAML language server. Run it again when plugins change. A plugin
    that cannot be loaded is left out, and the exit code is 2.
    """
    import json

    from engine.cli.installed import load_all, say_left_out, write
    from engine.schema import pipeline_schema

    plugins, names, broken = load_all()
    write(json.dumps(pipeline_schema(plugins, names), indent=1, ensure_ascii=False) + "\n", output)
    say_left_out(broken)
    return 2 if broken else 0
