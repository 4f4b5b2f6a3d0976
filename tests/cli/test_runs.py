"""`engine runs` lists what was, what is, and what was killed."""

from typing import Any


def test_runs_are_listed_oldest_first(ended: Any) -> None:
    ended("run", "toy.yaml", "-q", code=3)
    ended("run", "toy.yaml", "-q", "--fresh", code=3)
    told = ended.json("runs", "toy.yaml")
    assert [run["id"] for run in told["runs"]] == [1, 2, 3]
    assert [run["generation"] for run in told["runs"]] == [1, 1, 2]
    first, again, fresh = told["runs"]
    counts = {"status": "done", "pid": None, "finished": 6, "rejected": 1, "dead": 1, "cost": 0.0}
    for run in (first, again, fresh):
        assert counts.items() <= run.items()
        assert run["started"] <= run["ended"]
    assert first["calls"] == fresh["calls"] == 8
    assert (again["calls"], again["replayed"]) == (0, 0), "all of it was recorded"
    lines = ended("runs", "toy.yaml").stdout.splitlines()
    assert lines[0].split()[:5] == ["run", "generation", "when", "status", "finished"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]


def test_a_run_of_another_process_is_running_and_a_killed_one_interrupted(toy: Any) -> None:
    with toy.waiting("topic 2") as process:
        (run,) = toy.json("runs", "toy.yaml")["runs"]
        assert (run["status"], run["pid"]) == ("running", process.pid)
        assert f"run 1 is running in process {process.pid}" in toy("runs", "toy.yaml").stdout
        assert process.poll() is None, "it is left alone"
    (run,) = toy.json("runs", "toy.yaml")["runs"]
    assert (run["status"], run["pid"], run["ended"]) == ("interrupted", None, None)
    assert (run["finished"], run["rejected"], run["dead"]) == (2, 1, 1), "what is in its manifest"
    assert (run["calls"], run["replayed"]) == (1, None), "what it had noted, at its first call"
    toy("run", "toy.yaml", "-q", code=3)
    statuses = [run["status"] for run in toy.json("runs", "toy.yaml")["runs"]]
    assert statuses == ["interrupted", "done"]


def test_no_store_and_no_file_are_told(toy: Any) -> None:
    assert (
        "there is no store at .engine/toy: run the pipeline first"
        in toy("runs", "toy.yaml", code=4).stderr
    )
    assert "did you mean toy.yaml?" in toy("runs", "toi.yaml", code=2).stderr
    assert "no run 7" not in toy("runs", "toy.yaml", code=4).stderr


def test_a_file_that_cannot_be_read_any_more_still_has_runs(ended: Any) -> None:
    ended.change("toy.yaml", "t: {use: dataset.write", "t: {use: dataset.wrote")
    ran = ended("runs", "toy.yaml", "--json")
    assert '"finished": 6' in ran.stdout
    assert "did you mean" in ran.stderr
