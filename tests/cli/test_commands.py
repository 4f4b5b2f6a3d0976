"""The command line as a person or a script meets it: exit codes, stdout for data, stderr for talk."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]
STAGES = """
import pathlib
import time
from collections.abc import AsyncIterator

import anyio

from engine import Context, Reject, Row, Template, Text, stage


class Number(Row):
    n: int


class Word(Row):
    word: Text


class Shouted(Row):
    shouted: Text


ASK = Template("Say {word} aloud!", id="ask", version="2")


@stage("t.numbers")
async def numbers(*, count: int = 5) -> AsyncIterator[Number]:
    for n in range(count):
        yield Number(n).keyed(str(n))


@stage("t.word")
async def word(n: int, *, ctx: Context, hostile: bool = False) -> Word:
    if hostile:
        return Word(Text.leaf("\\x1b[31m[/nope] {{x}} \\x00 \\ud800 " + str(n), "source:evil"))
    return Word(Text.leaf(f"word {n}", "source:words", params={"line": n}))


@stage("t.shout")
async def shout(word: Text) -> Shouted:
    return Shouted(ASK.fill(word=word) + "!")


@stage("t.refuse")
async def refuse(word: Text, n: int) -> None:
    if n % 2:
        raise Reject(f"odd: {word}", span=word)


@stage("t.fail")
async def fail(n: int) -> None:
    raise ValueError(f"\\x1b[2J broken {n}")


@stage("t.slow")
async def slow(n: int, *, ctx: Context, gate: str) -> Word:
    folder = pathlib.Path(gate)
    (folder / f"started {n}").touch()
    while not (folder / "go").exists():
        await anyio.sleep(0.01)
    return Word(Text(str(n)))


@stage("t.until_drained")
async def until_drained(n: int, *, ctx: Context, gate: str) -> Word:
    (pathlib.Path(gate) / f"started {n}").touch()
    while not ctx.gate.closed:
        await anyio.sleep(0.01)
    (pathlib.Path(gate) / f"ended {n}").touch()
    return Word(Text(str(n)))
"""


def engine(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=60,
    )


PRINTS = """
stages:
  numbers: {use: ./stages.py:numbers}
  word: {use: ./stages.py:word}
  refuse: {use: ./stages.py:refuse}
  shout: {use: ./stages.py:shout}
"""


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from engine.cli import group;"
        "result = CliRunner().invoke(group, ['--help']); assert result.exit_code == 0, result.output;"
        "assert 'trace' in result.output;"
        "heavy = {'pydantic', 'anyio', 'openai', 'torch', 'pluggy', 'yaml', 'rich', 'orjson', 'apsw'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_rows_go_to_stdout_and_talk_to_stderr(pipeline: Write) -> None:
    path = pipeline(PRINTS, stages=STAGES)
    done = engine("run", path)
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(row["shouted"] for row in rows) == [f"Say word {n} aloud!!" for n in (0, 2, 4)]
    assert "3 finished, 2 rejected, 0 dead" in done.stderr
    assert "refuse: 1 x odd: word 1" in done.stderr
    quiet = engine("run", path, "--quiet", "--limit", 1)
    assert (quiet.returncode, quiet.stderr, len(quiet.stdout.splitlines())) == (0, "", 1)


def test_a_second_run_reuses_what_the_first_made(pipeline: Write) -> None:
    path = pipeline(
        PRINTS.replace(
            "./stages.py:word}",
            "./stages.py:word}\n  again: {use: ./stages.py:word, give: {word: w}}",
        ),
        stages=STAGES,
    )
    assert engine("run", path).returncode == 0
    again = engine("run", path)
    assert [line.split()[:5] for line in again.stderr.splitlines() if line.startswith("word ")] == [
        ["word", "5", "5", "5"]
    ]


def test_bad_input_is_one_line_exit_2_and_nothing_written(pipeline: Write) -> None:
    path = pipeline(PRINTS.replace("shout}", "shoot}"), stages=STAGES)
    done = engine("run", path.name, cwd=path.parent)
    assert done.returncode == 2
    assert done.stderr.startswith("engine: p.yaml:7:16:")
    assert "did you mean 'shout'?" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (path.parent / ".engine").exists()
    assert engine("run", path.parent / "none.yaml").returncode == 2
    assert engine("rnu").returncode == 2
    assert "did you mean run?" in engine("rnu").stderr


def test_validate_names_each_bad_file_and_lists_optional_fields(pipeline: Write) -> None:
    good = pipeline(PRINTS, stages=STAGES)
    bad = pipeline(PRINTS.replace("word: {use", "wrod: {sue"), name="bad.yaml")
    done = engine("validate", good, bad)
    assert done.returncode == 2
    assert "ok: 4 stages: numbers -> word -> refuse -> shout" in done.stdout
    assert "unknown key 'sue': did you mean 'use'?" in done.stderr


def test_set_changes_a_value(pipeline: Write) -> None:
    path = pipeline(PRINTS, stages=STAGES)
    done = engine("run", path, "--set", "stages.numbers.with.count=2")
    assert len(done.stdout.splitlines()) == 1
    done = engine("run", path, "--set", "stages.numbers.with.cuont=2")
    assert done.returncode == 2
    assert "--set stages.numbers.with.cuont" in done.stderr


def test_dead_letters_exit_3_and_a_failed_stage_1(pipeline: Write) -> None:
    text = "stages: {numbers: {use: './stages.py:numbers', with: {count: 2}}, fail: {use: './stages.py:fail'}}"
    path = pipeline(text, stages=STAGES)
    done = engine("run", path)
    assert done.returncode == 3
    assert "0 finished, 0 rejected, 2 dead" in done.stderr
    assert "\x1b" not in done.stderr
    done = engine("run", path, "--fresh", "--set", "stages.fail.on_error=fail")
    assert done.returncode == 1
    assert "engine: stage fail, row" in done.stderr
    assert "Traceback" not in done.stderr


def test_trace_tells_where_each_phrase_came_from(pipeline: Write) -> None:
    path = pipeline(PRINTS, stages=STAGES)
    engine("run", path)
    listed = engine("trace", path).stdout.splitlines()
    assert len(listed) == 3
    row = listed[0].split()[1]
    shown = engine("trace", path, row).stdout
    assert "Say [" in shown
    assert "prompt template ask version 2" in shown
    assert "source words (line 0)" in shown
    assert engine("trace", f"{path}@1", "1", "--field", "shouted").returncode == 0
    for wrong, said in (
        ((path, "zzz"), "no finished row begins with 'zzz'"),
        ((path, "9"), "the run has 3 finished rows"),
        ((path, "1", "--field", "shuoted"), "did you mean shouted?"),
        ((f"{path}@7",), "has no run 7 (runs: 1)"),
    ):
        done = engine("trace", *wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


def test_trace_without_a_store_says_to_run_first(pipeline: Write) -> None:
    done = engine("trace", pipeline(PRINTS, stages=STAGES))
    assert done.returncode == 4
    assert "run the pipeline first" in done.stderr


def test_hostile_text_steers_no_terminal(pipeline: Write) -> None:
    path = pipeline(PRINTS, stages=STAGES)
    done = engine("run", path, "--set", "stages.word.with.hostile=true")
    assert done.returncode == 0
    traced = engine("trace", path, "1")
    for view in (done.stderr, traced.stdout, traced.stderr, engine("trace", path).stdout):
        assert not [c for c in view if c < " " and c not in "\n\t"]
    assert "[/nope] {{x}}" in traced.stdout
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert all("\ud800" in row["word"] or "\ufffd" in row["word"] for row in rows)


@pytest.mark.parametrize(("first", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_and_the_last_line_resumes(pipeline: Write, first: int, code: int) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: ./stages.py:numbers, with: {count: 30}}
  slow: {use: ./stages.py:slow, with: {gate: GATE}, concurrency: 2}
  out: {use: dataset.write, with: {path: out.jsonl}}
""".replace("GATE", str(Path(os.devnull).parent)),
        stages=STAGES,
    )
    gate = path.parent / "gate"
    gate.mkdir()
    path.write_text(
        path.read_text().replace("gate: " + str(Path(os.devnull).parent), f"gate: {gate}")
    )
    with started(path) as running:
        wait_until(lambda: len(list(gate.iterdir())) == 2)
        running.send_signal(first)
        wait_for(running, "stopping")
        (gate / "go").touch()  # what is in flight may end now
        rest = running.stderr.read()  # type: ignore[union-attr]
        assert running.wait(timeout=30) == code
    assert not (path.parent / "out.jsonl").exists()
    assert rest.splitlines()[-2] == "engine: stopped; this goes on from here:"
    command, *words = shlex.split(rest.splitlines()[-1])
    assert command == "engine"
    done = engine(*words)
    assert done.returncode == 0
    assert len((path.parent / "out.jsonl").read_text().splitlines()) == 30
    assert len(list(gate.glob("started *"))) == 30  # none twice


def test_a_second_signal_stops_at_once(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers'}, slow: {use: './stages.py:slow', with: {gate: GATE}}}",
        stages=STAGES,
    )
    gate = path.parent / "gate"
    gate.mkdir()
    path.write_text(path.read_text().replace("GATE", str(gate)))
    with started(path) as running:
        wait_until(lambda: len(list(gate.iterdir())) == 5)
        running.send_signal(signal.SIGINT)
        wait_for(running, "stopping")
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=30) == 130


def test_a_reader_that_leaves_is_no_error(pipeline: Write) -> None:
    path = pipeline(PRINTS.replace("numbers}", "numbers, with: {count: 2000}}"), stages=STAGES)
    command = f"{sys.executable} -m engine run -q {path} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.splitlines()[1:] == ["0"]
    assert done.stderr == ""


def test_what_is_in_flight_ends_when_the_reader_leaves(pipeline: Write, tmp_path: Path) -> None:
    path = pipeline(
        """
stages:
  numbers: {use: ./stages.py:numbers, with: {count: 3000}}
  word: {use: ./stages.py:word}
  held: {use: ./stages.py:until_drained, from: numbers, concurrency: 2, with: {gate: GATE}}
""".replace("GATE", str(tmp_path)),
        stages=STAGES,
    )
    with started(path, "-q", stdout=subprocess.PIPE) as running:
        wait_until(lambda: len(list(tmp_path.glob("started *"))) == 2)
        running.stdout.close()  # type: ignore[union-attr]
        assert running.wait(timeout=30) == 0
    assert len(list(tmp_path.glob("ended *"))) == 2


def test_a_reader_that_stops_reading_holds_up_no_signal(pipeline: Write) -> None:
    path = pipeline(
        "stages: {numbers: {use: './stages.py:numbers', with: {count: 5000}}}", stages=STAGES
    )
    with started(path, stdout=subprocess.PIPE) as running:
        stdout, unread = running.stdout, bytearray(4)
        assert stdout is not None

        def full() -> bool:
            fcntl.ioctl(stdout, termios.FIONREAD, unread)
            return int.from_bytes(unread, sys.byteorder) > 60_000

        wait_until(full)
        running.send_signal(signal.SIGINT)
        wait_for(running, "stopping")
        stdout.read()
        assert running.wait(timeout=30) == 130


def test_stdout_that_cannot_be_written_is_one_line(pipeline: Write) -> None:
    path = pipeline(PRINTS, stages=STAGES)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "engine", "run", "-q", str(path)],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr == "engine: [Errno 28] No space left on device\n"


def test_what_a_stage_prints_is_talk(pipeline: Write) -> None:
    noisy = STAGES.replace("    return Shouted", "    print('noise')\n    return Shouted")
    done = engine("run", "-q", pipeline(PRINTS, stages=noisy))
    assert "noise" not in done.stdout
    assert done.stderr.count("noise") == 3


def started(path: Path, *options: str, stdout: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "engine", "run", *options, str(path)]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)


def wait_for(running: subprocess.Popen[str], words: str) -> None:
    assert running.stderr is not None
    assert any(words in line for line in running.stderr)


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for another process, at most half a minute."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
