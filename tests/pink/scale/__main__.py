"""`make pink-scale PLANS=200000`: the shipped pipeline at scale, on a model that plants defects.

    python -m tests.pink.scale --plans 200000 --kills 3 --seed 7 --folder out/scale --json FILE

The run is a process of its own, killed with SIGKILL and run again. Prints a table; exit code 1
where something does not hold. Without a folder, a temporary one is used, and removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.pink.scale.checks import Check, checked
from tests.pink.scale.driver import Server, Site, killed_at, live

__all__ = ["scaled", "table"]


def scaled(
    folder: Path, plans: int, kills: int, seed: int
) -> tuple[list[Check], dict[str, object]]:
    """Run at a scale in a new folder; return what was checked, and all that was measured."""
    with Server() as server:
        site = Site(folder, plans, f"http://127.0.0.1:{server.port}/v1")
        site.prepare()
        measured = live(site, server, killed_at(plans, kills, seed), max(1, plans // 20))
        checks = checked(site, server, measured)
        stats = server.told("stats")
    del stats["facts"]
    return checks, {"plans": plans, "run": asdict(measured), "server": stats}


def table(checks: Sequence[Check]) -> str:
    """Return the checks as text."""
    lines = [("", "measured", "target", "")]
    for one in checks:
        verdict = "" if one.ok is None else "ok" if one.ok else "MISS"
        lines.append((one.name, one.measured, one.target, verdict))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pink.scale")
    parser.add_argument("--plans", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="a new folder, which is kept")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="pink-scale-"))
    try:
        checks, figures = scaled(folder, options.plans, options.kills, options.seed)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    if options.json:
        told = {"checks": [asdict(one) for one in checks]} | figures
        options.json.write_text(json.dumps(told, indent=1))
    print(table(checks))
    return int(any(one.ok is False for one in checks))


if __name__ == "__main__":
    sys.exit(main())
