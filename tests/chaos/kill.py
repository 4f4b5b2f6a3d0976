"""The kill loop: end a run in every way there is, run it again, and compare.

    python tests/chaos/kill.py --kills 100 --seed 7 --json kills.json

A round is one run of a pipeline from an empty store to its end, interrupted again and again at
random times. What must hold after it: the last process ends with 0; the files are byte for byte
those of a run that nobody interrupted; no temporary file is left; the store opens. And no call was
paid twice, but for those that may be, which the server's ledger says, on the clock that all
processes share: calls that were open between the signal and the next start, and those whose last
byte was sent less than a commit group before the signal. A drained run (SIGTERM, SIGINT) loses
none. What the server billed and then broke is not counted.
"""

import argparse
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import PIPELINES, Ended, Server, Site, leftovers, running, until
from ledger import Call, paid_twice

__all__ = ["ENDS", "Tally", "loop"]

ENDS = ("SIGKILL", "SIGTERM", "SIGINT", "double SIGINT", "SIGSTOP+SIGKILL", "SIGHUP")
SECOND = 2.0
"""Seconds in which a second signal ends a run."""
LATENCY = 0.03
WEATHER: Mapping[str, Any] = {
    "faults": ["limited_ms", "error_500", "reset", "drip", "reset_billed", "cut"],
    "rate": 0.1,
    "most": 1,
    "contents": ["empty", "length", "hostile", "not_json"],
    "content_rate": 0.05,
    "latency": LATENCY,
}


@dataclass(slots=True)
class Tally:
    """What one way to end a run came to, over all its rounds."""

    ends: int = 0
    before_a_call: int = 0
    """Ended before the process had made a call."""
    too_late: int = 0
    """The run was done before the signal came."""
    in_flight: int = 0
    """Calls open at the signal, summed."""
    group: int = 0
    """Replies sent less than a commit group before it."""
    paid_twice: int = 0
    broken: int = 0
    """Replies that the server billed and broke: paid again, and not the client's fault."""
    oldest: float = 0.0
    """The longest time, in seconds, between a reply's last byte and a signal that lost it."""
    slowest: float = 0.0
    """The longest time, in seconds, between the (last) signal and the end."""
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Kill:
    """One end of a process."""

    signalled: float
    until: float
    """When the next process was started: what the server saw until then was under way."""
    drained: bool


class Round:
    """A run of one pipeline that is ended in one way, again and again."""

    def __init__(self, site: Site, server: Server, end: str, rng: random.Random) -> None:
        self.site, self.server, self.end, self.rng = site, server, end, rng
        self.tally = Tally()
        self.kills: list[Kill] = []
        self._pending: tuple[float, bool] | None = None

    def run(self, kills: int, total: int) -> Tally:
        """Interrupt it up to so many times; `total` is about how many calls it makes."""
        command: Sequence[str] | str = ()
        while self.tally.ends < kills:
            command, done = self._once(command, total)
            if done:
                self._check_end(done)
                return self.tally
        self._started()
        with running(self.site.start(command)) as process:
            self._check_end(self.site.wait(process))
        return self.tally

    def _started(self) -> None:
        if self._pending is not None:
            self.kills.append(Kill(self._pending[0], time.monotonic(), self._pending[1]))
        self._pending = None

    def _once(self, command: Sequence[str] | str, total: int) -> tuple[Sequence[str] | str, Any]:
        """Start, end at a random time; return the next command, and how it ended if it is done."""
        self._started()
        until(lambda: self.server.in_flight() == 0, "the end of the dead process's calls")
        before = self.server.arrived()
        with running(self.site.start(command)) as process:
            self._wait(process, before, total)
            signalled = self._signal(process)
            ended = self.site.wait(process)
        took = time.monotonic() - signalled
        if ended.code == 0:
            self.tally.too_late += 1
            return (), ended
        self.tally.ends += 1
        self.tally.slowest = max(self.tally.slowest, took)
        called = self.server.arrived() > before
        self.tally.before_a_call += not called
        return self._judge(ended, signalled, took, called), None

    def _wait(self, process: "subprocess.Popen[bytes]", before: int, total: int) -> None:
        """Wait for a random moment: in one case of eight any, else once it has begun to call."""
        if self.rng.random() < 0.125:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.rng.uniform(0, 1.5))
            return
        calls = before + self.rng.randrange(1, max(2, total // 3))
        self.server.until_arrived(calls, process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.rng.uniform(0, 2 * LATENCY))

    def _signal(self, process: "subprocess.Popen[bytes]") -> float:
        """Send the signals; return when the first was sent that may lose something."""
        sent = time.monotonic()
        match self.end:
            case "double SIGINT":
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self.rng.uniform(0, 2 * LATENCY))
                sent = time.monotonic()
                process.send_signal(signal.SIGINT)
            case "SIGSTOP+SIGKILL":
                process.send_signal(signal.SIGSTOP)
                time.sleep(self.rng.uniform(0, 4 * LATENCY))
                process.kill()
            case name:
                process.send_signal(getattr(signal, name))
        return sent

    def _judge(
        self, ended: Ended, signalled: float, took: float, called: bool
    ) -> Sequence[str] | str:
        """Check how it ended; return the command that goes on."""
        number = {"SIGTERM": 15, "SIGINT": 2, "double SIGINT": 2, "SIGHUP": 1}.get(self.end)
        drained = self.end in ("SIGTERM", "SIGINT")
        self._pending = (signalled, drained)
        if number is None:
            return ()
        if not called and ended.code in (-number, 128 + number) and not ended.err.strip():
            return ()  # before the command line listens
        if self.end == "SIGHUP" and ended.code == -number:
            return ()  # it does not listen to this one: the process is dead
        if ended.code != 128 + number:
            self._wrong(f"ended with {ended.code} in place of {128 + number}: {ended.err[-300:]!r}")
        if self.end == "double SIGINT" and took > SECOND:
            self._wrong(f"the second signal took {took:.1f} s")
        line = ended.last_line()
        found = re.search(r"`(engine run .*)`", line) or re.search(r"(engine run .*)", line)
        if found is None:
            self._wrong(f"no line that resumes: {line!r}")
            return ()
        return found[1]

    def _check_end(self, ended: Ended) -> None:
        self._started()
        if ended.code != 0:
            self._wrong(f"the last process ended with {ended.code}: {ended.err[-500:]}")
        self._check_calls(self.server.ledger())
        if left := leftovers(self.site):
            self._wrong(f"left behind: {left}")
        self._check_store()

    def _check_calls(self, calls: Sequence[Call]) -> None:
        tally = self.tally
        allowed: Counter[str] = Counter()
        for kill in self.kills:
            open_then = [c for c in calls if c.in_flight(kill.signalled, kill.until)]
            group = [c for c in calls if c.just_ended(kill.signalled)]
            tally.in_flight += len(open_then)
            tally.group += len(group)
            if not kill.drained:
                allowed.update(c.request for c in open_then + group)
        lost = paid_twice(calls, broken=False)
        tally.paid_twice += lost
        tally.broken += sum(c.broken for c in calls)
        paid = Counter(c.request for c in calls if c.billed and not c.broken)
        for request, times in paid.items():
            if times - 1 > allowed[request]:
                entries = [c for c in calls if c.request == request]
                self._wrong(f"paid {times} times: {self._story(entries)}")
            if times > 1:
                tally.oldest = max(tally.oldest, self._age(request, calls))

    def _age(self, request: str, calls: Sequence[Call]) -> float:
        """Return how long before a signal the reply was sent that was paid for again."""
        first = next(c for c in calls if c.request == request and c.billed and not c.broken)
        ended = first.ended or 0.0
        if any(first.in_flight(kill.signalled, kill.until) for kill in self.kills):
            return 0.0
        return min((k.signalled - ended for k in self.kills if k.signalled > ended), default=0.0)

    def _story(self, entries: Sequence[Call]) -> str:
        kills = ", ".join(f"{k.signalled:.3f}" for k in self.kills)
        told = ", ".join(
            f"{c.outcome} {c.fault or ''} {c.arrived:.3f}-{c.ended or 0:.3f}" for c in entries
        )
        return f"{told}; kills at {kills}"

    def _check_store(self) -> None:
        command = [sys.executable, "-m", "engine", "store", "check", str(self.site.file)]
        with running(self.site.start(command)) as process:
            checked = self.site.wait(process)
        if checked.code != 0:
            self._wrong(f"the store is damaged: {checked.out + checked.err}")

    def _wrong(self, what: str) -> None:
        self.tally.wrong.append(f"{self.site.pipeline}, {self.end}: {what}")


def reference(folder: Path, pipeline: str, server: Server, seed: int) -> tuple[Site, int]:
    """Run a pipeline without an interruption; return where, and how many calls it took."""
    server.reset(seed=seed, **WEATHER)
    site = Site(folder, pipeline, server)
    ended = site.run()
    if ended.code != 0:
        raise RuntimeError(f"{pipeline} ended with {ended.code}: {ended.err[-2000:]}")
    return site, server.arrived()


def loop(
    folder: Path,
    server: Server,
    kills: Mapping[str, int],
    *,
    pipelines: Sequence[str] = PIPELINES,
    seed: int = 7,
    a_round: int = 5,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Tally]:
    """End runs as often as `kills` says for each way; rounds go through the pipelines in turn."""
    rng = random.Random(seed)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup: no SIGHUP would end a run
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    whole = {name: reference(folder / f"{name}-whole", name, server, seed) for name in pipelines}
    tallies: dict[str, Tally] = {}
    number = 0
    for end, wanted in kills.items():
        tally = tallies[end] = Tally()
        while tally.ends < wanted:
            pipeline = pipelines[number % len(pipelines)]
            number += 1
            server.reset(seed=seed, **WEATHER)
            site = Site(folder / f"round-{number}", pipeline, server)
            most = min(a_round, wanted - tally.ends)
            found = Round(site, server, end, rng).run(most, whole[pipeline][1])
            if site.written() != whole[pipeline][0].written():
                found.wrong.append(f"{pipeline}, {end}: other files in {site.folder}")
            add(tally, found)
            say(f"round {number}: {pipeline}, {end}: {found.ends} ends, {len(found.wrong)} wrong")
    return tallies


def embedded(folder: Path, kills: int, seed: int) -> Tally:
    """Kill the shipped pipeline on the embedded model, whose sampling is seeded by the call."""
    exact = {"resources.writer.with.slots": "1", "resources.writer.with.cache": "false"}
    exact |= {"stages.topics.with.count": "0", "stages.pairs.with.per_topic": "0"}
    whole, killed = (Site(folder / name, "pink", None, **exact) for name in ("whole", "killed"))
    rng, tally = random.Random(seed), Tally()
    started = time.monotonic()
    if (ended := whole.run("--limit", "1")).code != 0:
        raise RuntimeError(f"pink ended with {ended.code}: {ended.err[-2000:]}")
    lasted = time.monotonic() - started
    for _ in range(kills):
        with running(killed.start(killed.command("--limit", "1"))) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(1, 2 * lasted / kills))
            tally.ends += process.poll() is None
    if (ended := killed.run("--limit", "1")).code != 0:
        tally.wrong.append(f"the last process ended with {ended.code}: {ended.err[-500:]}")
    if killed.written() != whole.written():
        tally.wrong.append("the files differ")
    tally.wrong += [f"left behind: {name}" for name in leftovers(killed)]
    tally.too_late = kills - tally.ends
    return tally


def add(tally: Tally, found: Tally) -> None:
    """Add a round to its way's tally."""
    for name, value in asdict(found).items():
        before = getattr(tally, name)
        largest = name in ("oldest", "slowest")
        setattr(tally, name, max(before, value) if largest else before + value)


COLUMNS = (
    ("ends", "ends"),
    ("before a call", "before_a_call"),
    ("too late", "too_late"),
    ("in flight", "in_flight"),
    ("group", "group"),
    ("paid twice", "paid_twice"),
    ("broken", "broken"),
    ("oldest ms", "oldest"),
    ("slowest s", "slowest"),
    ("wrong", "wrong"),
)


def table(tallies: Mapping[str, Tally]) -> str:
    """Return the tallies as a table."""
    rows = [["", *(title for title, _ in COLUMNS)]]
    for end, tally in tallies.items():
        shown = {**asdict(tally), "wrong": len(tally.wrong)}
        shown["oldest"] = f"{1000 * tally.oldest:.0f}"
        shown["slowest"] = f"{tally.slowest:.2f}"
        rows.append([end, *(str(shown[name]) for _, name in COLUMNS)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in rows
    )


def main() -> int:
    """Run the loop, print the table, and return 1 where something did not hold."""
    parser = argparse.ArgumentParser(description="End runs in every way, and compare.")
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs")
    parser.add_argument("--others", type=int, default=10, help="of each other way")
    parser.add_argument("--ends", nargs="*", default=ENDS, choices=ENDS, help="ways to end a run")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--pipelines", nargs="*", default=PIPELINES, choices=PIPELINES)
    parser.add_argument("--embedded", type=int, default=0, help="kills on the embedded model")
    parser.add_argument("--json", type=Path, help="where to write the table, too")
    given = parser.parse_args()
    kills = {end: given.kills if end == "SIGKILL" else given.others for end in given.ends}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, Server() as server:
        if given.embedded:
            tallies = {"embedded": embedded(Path(folder), given.embedded, given.seed)}
        else:
            tallies = loop(
                Path(folder),
                server,
                {end: count for end, count in kills.items() if count},
                pipelines=given.pipelines,
                seed=given.seed,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
    print(table(tallies))
    wrong = [line for tally in tallies.values() for line in tally.wrong]
    print("\n".join(wrong) or "nothing wrong", f"\n{time.monotonic() - started:.0f} s")
    if given.json is not None:
        given.json.write_text(json.dumps({end: asdict(t) for end, t in tallies.items()}, indent=1))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
