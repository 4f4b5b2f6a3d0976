"""`engine inspect` shows what became of a run, and of a row."""

from typing import Any


def test_a_run_by_its_stages_reasons_and_dead_letters(ended: Any) -> None:
    run = ended.json("inspect", "toy.yaml")
    assert (run["id"], run["status"], run["finished"]) == (1, "done", 6)
    say = run["stages"]["say"]
    assert (say["received"], say["out"], say["rejected"], say["dead"]) == (8, 6, 1, 1)
    assert (say["calls"], say["replayed"]) == (8, 2)
    (reason,) = run["reasons"]
    assert (reason["stage"], reason["reason"], reason["rows"]) == ("say", "said no", 1)
    assert reason["examples"][0]["example"] == "no \x1b[31mway [/bold]"
    (letter,) = run["dead_letters"]
    assert letter["fate"] == "dead"
    assert letter["stage"] == "say"
    assert letter["class"] == "ValueError"
    assert letter["error"] == "ValueError: it said boom \x1b]8;;evil\x07 [/bold]"
    assert letter["attempts"] == 3
    assert letter["cost"] == 0.0
    assert letter["fields"] == {"topic": "topic 1", "weight": 1, "item": 1}
    assert run["kept"] == {}


def test_people_see_the_same_and_no_terminal_is_steered(ended: Any) -> None:
    shown = ended("inspect", "toy.yaml").stdout
    assert "run 1 (generation 1" in shown
    assert "6 finished, 1 rejected, 1 dead" in shown
    assert "say: 1 x said no" in shown
    assert r"no \x1b[31mway [/bold]" in shown
    assert r"ValueError: it said boom \x1b]8;;evil\x07 [/bold]" in shown
    assert "at stage say, 3 attempts" in shown
    assert "topic: topic 1" in shown
    assert not {c for c in shown if not (c.isprintable() or c == "\n")}


def test_a_row_by_the_beginning_of_its_id(ended: Any) -> None:
    (letter,) = ended.json("inspect", "toy.yaml", "--dead")
    (rejected,) = ended.json("inspect", "toy.yaml", "--rejected")
    assert (letter["fate"], rejected["fate"]) == ("dead", "rejected")
    assert len(ended.json("inspect", "toy.yaml", "--dead", "--rejected")) == 2
    assert ended.json("inspect", "toy.yaml", letter["row_id"][:9]) == [letter]
    assert ended.json("inspect", "toy.yaml@1", rejected["row_id"].upper()) == [rejected]
    row_id = ended("trace", "toy.yaml").stdout.split()[1]
    (row,) = ended.json("inspect", "toy.yaml", row_id)
    assert row["fate"] == "finished"
    assert set(row["fields"]) == {"topic", "weight", "item", "said"}
    shown = ended("inspect", "toy.yaml", row_id).stdout
    assert f"finished {row['row_id']} at stage say" in shown
    assert f"said: {row['fields']['said']}" in shown


def test_a_killed_run_is_known_by_its_rows(toy: Any) -> None:
    with toy.waiting("topic 2"):
        pass
    run = toy.json("inspect", "toy.yaml")
    assert run["status"] == "interrupted"
    assert run["stages"]["say"] == {"finished": 2, "rejected": 1, "dead": 1}
    shown = toy("inspect", "toy.yaml").stdout
    assert "interrupted: 2 finished, 1 rejected, 1 dead" in shown
    assert "said no" in shown


def test_what_was_kept_is_said(ended: Any) -> None:
    ended.change("stages.py", '"said no"', '"said never"')
    ended("run", "toy.yaml", "-q", "--keep", "stages.say", code=3)
    run = ended.json("inspect", "toy.yaml")
    assert [len(older) for older in run["kept"].values()] == [1]
    assert "stage say accepts results of 1 older fingerprint" in ended("inspect", "toy.yaml").stdout
    assert run["stages"]["say"]["reused"] == 8
    ended("run", "toy.yaml", "-q", code=3)
    assert ended.json("inspect", "toy.yaml")["kept"] == run["kept"]
    assert ended.json("plan", "toy.yaml")["stages"]["say"]["kept"] == 8


def test_wrong_words_are_told(ended: Any) -> None:
    def said(*arguments: str) -> str:
        return str(ended("inspect", *arguments, code=2).stderr)

    assert "toy.yaml has no run 7 (runs: 1)" in said("toy.yaml@7")
    assert "a run is FILE or FILE@ID, and ID is a number" in said("toy.yaml@newest")
    assert "has no row whose id begins with 'ffffffff'" in said("toy.yaml", "ffffffff")
    assert "is not the beginning of a row's id" in said("toy.yaml", "row 1")
    assert "no such file" in said("nothing.yaml@1")
