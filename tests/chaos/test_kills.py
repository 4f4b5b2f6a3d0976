"""The kill loop, in short: every way to end a run, on both pipelines."""

from pathlib import Path

from harness import Server
from kill import ENDS, loop, table


def test_no_end_costs_finished_work(server: Server, tmp_path: Path) -> None:
    kills = {end: 4 if end == "SIGKILL" else 1 for end in ENDS}
    tallies = loop(tmp_path, server, kills, a_round=2)
    assert [line for tally in tallies.values() for line in tally.wrong] == []
    assert all(tallies[end].ends >= wanted for end, wanted in kills.items()), table(tallies)
    for drained in ("SIGTERM", "SIGINT"):
        assert tallies[drained].paid_twice == 0
