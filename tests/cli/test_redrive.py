"""`engine redrive` tries dead letters again, and pays for nothing twice."""

from typing import Any


def test_a_dead_letter_stays_dead_until_it_is_redriven(ended: Any) -> None:
    ended.change("replies.jsonl", "boom", "calm")  # another model: a run would ask it all anew
    ended.change("replies.jsonl", "calm", "boom")
    ended("run", "toy.yaml", "-q", code=3)
    assert ended.json("inspect", "toy.yaml")["stages"]["say"]["reused"] == 8
    before = ended.state
    ran = ended("redrive", "toy.yaml", "--dry-run")
    assert "run 2: 1 dead letter to try again (say 1)" in ran.stderr
    assert ended.state == before, "--dry-run runs nothing"
    ended("redrive", "toy.yaml", "-q", code=3)
    say = ended.json("inspect", "toy.yaml")["stages"]["say"]
    assert (say["reused"], say["dead"]) == (7, 1)
    assert (say["calls"], say["replayed"]) == (0, 3), "its reply was paid for before"


def test_it_lives_once_what_killed_it_is_gone(toy: Any) -> None:
    # A flag outside of what the fingerprint counts: the world, not the stage, was at fault.
    toy.change(
        "stages.py",
        'if "boom" in reply.text:',
        'if "boom" in reply.text and __import__("os").path.exists("down"):',
    )
    (toy.folder / "down").touch()
    toy("run", "toy.yaml", "-q", code=3)
    partial = (toy.folder / "out.jsonl").read_bytes()
    (toy.folder / "down").unlink()
    toy("run", "toy.yaml", "-q", code=3)
    assert (toy.folder / "out.jsonl").read_bytes() == partial, "dead is dead"
    toy("redrive", "toy.yaml@1", "-q")
    assert len((toy.folder / "out.jsonl").read_bytes().splitlines()) == 7
    run = toy.json("inspect", "toy.yaml")
    assert (run["finished"], run["dead"], run["calls"]) == (7, 0, 0)
    said = toy("redrive", "toy.yaml@1", "-q").stderr
    assert "0 dead letters to try again; 1 dead letter that any run tries again" in said
    assert len(toy.json("runs", "toy.yaml")["runs"]) == 4, "and that run is made"


def test_options_of_run_and_one_stage(ended: Any) -> None:
    ran = ended("redrive", "toy.yaml", "--stage", "items")
    assert "0 dead letters to try again" in ran.stderr
    assert len(ended.json("runs", "toy.yaml")["runs"]) == 1, "nothing to do, nothing done"
    ended("redrive", "toy.yaml", "--stage", "say", "--limit", "2", "--quiet", code=3)
    runs = ended.json("runs", "toy.yaml")["runs"]
    assert [run["finished"] for run in runs] == [6, 2]


def test_wrong_words_are_told(ended: Any) -> None:
    def said(*arguments: str) -> str:
        return str(ended("redrive", *arguments, code=2).stderr)

    assert "has no stage 'sya'; did you mean 'say'?" in said("toy.yaml", "--stage", "sya")
    ended("run", "toy.yaml", "-q", "--fresh", code=3)
    assert "run 1 belongs to generation 1, and a run goes on from generation 2" in said(
        "toy.yaml@1"
    )
