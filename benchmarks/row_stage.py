"""A whole row-stage with the store off: CPU, as a ratio to a loop that does the same by hand.

The run: four map stages that add an int each, fed by `inputs=` (rows that exist, with keys), from
`engine.open` to its end, divided by 4 and by the rows: nothing is subtracted. The loop:
`out = await f(*get(row)); row = {**row, **out.__dict__}` with the same stage functions and
`get = operator.itemgetter(...)`, for each of the four, row by row. Target: <= 3x on asyncio.
Reported: trio; a source stage instead of `inputs=`; what the source alone costs a row.
Command: `python -m benchmarks.row_stage [--short]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import anyio

import engine
from benchmarks import stages
from benchmarks.common import Result, document, least, main
from engine import Row

TARGET, STAGES = 3.0, 4
SOURCE = "name: bench\nstages:\n  count: {use: './stages.py:count', with: {rows: %d, keyed: %s}}\n"
CHAIN = SOURCE + "".join(f"  {n}: {{use: './stages.py:add_{n}'}}\n" for n in "abcd")
LOOP = (
    (stages.add_a, itemgetter("serial", "number")),
    (stages.add_b, itemgetter("number", "a")),
    (stages.add_c, itemgetter("a", "b")),
    (stages.add_d, itemgetter("b", "c")),
)


async def by_hand(rows: Sequence[dict[str, Any]]) -> None:
    """Do what the four stages do, and nothing else."""
    for row in rows:
        for f, get in LOOP:
            out = await f(*get(row))
            row = {**row, **out.__dict__}


async def ran(text: str, count: int, inputs: Sequence[Row] | None = None) -> None:
    """Run a pipeline to its end."""
    async with engine.open(document(text), inputs=inputs, store=None) as run:
        summary = await run.finish()
    if summary.finished != count or summary.exit_code:
        raise RuntimeError(f"{count} rows went in: {summary}")


def measure(short: bool) -> list[Result]:
    """Return the ratio on asyncio, judged, and what else is worth knowing."""
    count, repeats = (30_000, 7) if short else (60_000, 11)
    plain = [{"serial": i, "number": i % 1000} for i in range(count)]
    rows = [stages.Start(**row).keyed(str(row["serial"])) for row in plain]
    chain, source = CHAIN % (count, "true"), SOURCE % (count, "true")
    results = []
    for backend in ("asyncio", "trio"):
        hand, fed, made, alone = least(
            repeats,
            lambda b=backend: anyio.run(by_hand, plain, backend=b),  # type: ignore[misc]
            lambda b=backend: anyio.run(ran, chain, count, rows, backend=b),  # type: ignore[misc]
            lambda b=backend: anyio.run(ran, chain, count, backend=b),  # type: ignore[misc]
            lambda b=backend: anyio.run(ran, source, count, rows, backend=b),  # type: ignore[misc]
        )
        each, ratio = 1e6 / count / STAGES, fed / hand
        judged = backend == "asyncio"
        results.append(
            Result(
                f"row-stage ({backend})",
                f"{ratio:.2f}x ({fed * each:.2f} / {hand * each:.2f} us)",
                f"<= {TARGET:g}x" if judged else "-",
                ratio <= TARGET if judged else None,
                f"with a source stage {made / hand:.2f}x; the input alone costs "
                f"{alone * 1e6 / count:.2f} us a row; without it {(fed - alone) / hand:.2f}x",
            )
        )
    return results


if __name__ == "__main__":
    main(measure)
