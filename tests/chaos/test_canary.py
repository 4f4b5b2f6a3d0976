"""A key in the environment appears nowhere: in no store, output, message, graph or trace."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import Server, Site, environment, running

CANARY = "sk-canary-5f1d0c8e7b6a4d32"
SECRET = "stages.echoed.with.token=$OPENAI_API_KEY"


def finds(folder: Path) -> Iterator[str]:
    """Yield where the key lies under a folder, as it is and as parts of it."""
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for form in (CANARY, CANARY[3:], CANARY.encode("utf-16-le").decode("latin-1")):
                if form.encode("latin-1") in data:
                    yield f"{path.relative_to(folder)}: {form}"


def test_a_key_appears_nowhere(site: Callable[..., Site], server: Server) -> None:
    hostile = site("hostile")
    told: list[str] = []

    def ran(code: int) -> None:
        ended = hostile.run("--set", SECRET, OPENAI_API_KEY=CANARY)
        told.append(ended.out + ended.err)
        assert ended.code == code, ended.err

    # Pages that repeat the key until each row is dead, with all that is printed about them.
    server.reset(faults=["echo_500"], rate=0.4, most=100, latency=0.001, contents=["hostile"])
    ran(0)
    assert "dead" in told[0]
    assert "500" in told[0]
    # A refused key, repeated.
    server.reset(faults=["unauthorized"], rate=1.0, most=100, latency=0.001)
    hostile = site("hostile")
    ran(1)
    assert "OPENAI_API_KEY" in told[1]  # its name is said, not its value
    # A kill, which leaves a write-ahead log; and a run that is told to stop.
    server.reset(latency=0.02)
    command = hostile.command("--set", SECRET)
    with running(hostile.start(command, OPENAI_API_KEY=CANARY)) as process:
        server.until_arrived(20, process)
        process.kill()
    assert (hostile.store / "store.sqlite-wal").stat().st_size
    assert list(finds(hostile.folder.parent)) == []
    with running(hostile.start(command, OPENAI_API_KEY=CANARY)) as process:
        server.until_arrived(40, process)
        process.terminate()
        ended = hostile.wait(process)
        told.append(ended.out + ended.err)
    ran(0)
    for view in (["graph"], ["trace"], ["validate"]):
        arguments = [sys.executable, "-m", "engine", *view, str(hostile.file)]
        shown = subprocess.run(
            arguments + ["1"] * (view == ["trace"]),
            env=environment(OPENAI_API_KEY=CANARY),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert shown.returncode == 0, shown.stderr
        told.append(shown.stdout + shown.stderr)
    assert CANARY[3:] not in "".join(told)
    assert list(finds(hostile.folder.parent)) == []
