"""The k-th operation of a kind fails: no hang, nothing wrong, and running again mends it all."""

import errno
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.anyio
FULL = os.environ.get("FAULTS") == "full"
Fixture = Callable[..., Any]
FEWER = "stages.numbers.with.count=9"

FAULTS = [
    ("write", errno.EIO),
    ("write", errno.ENOSPC),
    ("sync", errno.EIO),
    ("sync", errno.ENOSPC),
    ("open", errno.EMFILE),
    ("open", errno.EIO),
    ("truncate", errno.EIO),
    ("rename", errno.EIO),
    ("rename", errno.ENOSPC),
    ("mkdir", errno.ENOSPC),
    ("unlink", errno.EIO),
]


def which() -> Iterator[int]:
    """Yield every k, or ever fewer of them."""
    k = 1
    for _ in count():
        yield k
        k += 1 if FULL else 1 + k // 2


@pytest.mark.parametrize(
    ("anyio_backend", "again"),
    [("asyncio", True), ("trio", False), *([("asyncio", False), ("trio", True)] if FULL else [])],
    ids=lambda value: value if isinstance(value, str) else "again" if value else "new",
)
@pytest.mark.parametrize(
    ("kind", "number"), FAULTS, ids=[f"{kind}-{errno.errorcode[n]}" for kind, n in FAULTS]
)
async def test_a_fault_costs_nothing_but_a_second_run(
    tmp_path: Path,
    lab: Fixture,
    fault: Fixture,
    watch: Fixture,
    kind: str,
    number: int,
    again: bool,
) -> None:
    whole = lab(tmp_path / "whole").make()
    if again:
        assert await whole.run(FEWER) == 0
    before = whole.output
    assert await whole.run() == 0
    met, wrong = 0, []
    for k in which():
        it = lab(tmp_path / f"{k}").make()
        if again:
            assert await it.run(FEWER) == 0
        fails = fault(it.folder, kind, k, number)
        with watch(fails):
            code = await it.run()
        if not fails.met:
            assert code == 0
            break
        met += 1
        where = f"k={k} ({Path(fails.path).name}): exit {code} {it.said!r}"
        if code not in (0, 4) or (code == 4 and len(it.said) < 20):
            wrong.append(where)
        for name, data in it.output.items():
            if data not in (before.get(name), whole.output[name]):
                wrong.append(f"{where}: {name} is neither what it was nor what it should be")
        if code == 0 and it.output != whole.output:
            wrong.append(f"{where}: done, and the output is another one")
        if (code := await it.run()) != 0 or it.output != whole.output:
            wrong.append(f"{where}: run again, exit {code} {it.said!r}")
        if it.paid != whole.paid:
            wrong.append(f"{where}: {it.paid} paid, not {whole.paid}")
    assert met, "the fault is met at least once"
    assert wrong == []
