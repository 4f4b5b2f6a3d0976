"""`engine plan` says what a run would do, and does nothing."""

import json
from typing import Any

import pytest

from engine.chat import Answer, Endpoint, Feature, Limiter
from engine.pipeline import read_pipeline
from engine.planning import make_plan
from engine.resources import resource
from engine.store import find_runs

KNOWN = ("rows", "reused", "again", "work", "more")


def stages(plan: Any, *names: str) -> dict[str, tuple[Any, ...]]:
    return {
        key: tuple(stage[name] for name in names or KNOWN) for key, stage in plan["stages"].items()
    }


def test_before_the_first_run(toy: Any) -> None:
    before = toy.state
    plan = toy.json("plan", "toy.yaml")
    assert (plan["store"], plan["run"], plan["finished"]) == (None, None, 0)
    # What takes neither resource nor context is cheap, and planned by doing it.
    assert stages(plan) == {
        "topics": (4, 0, 0, 0, 0),
        "items": (4, 0, 4, 0, 0),
        "say": (8, 0, 0, 8, 0),
        "out": (0, 0, 0, 0, 8),
    }
    assert plan["stages"]["say"]["why"] == {"first run": 8}
    assert plan["stages"]["out"]["waits_for"] == ["say"]
    assert toy.state == before, "no store is made"
    shown = toy("plan", "toy.yaml").stdout
    assert "there is no store yet" in shown
    assert "out (up to 8 rows more)" in shown


def test_after_a_run_there_is_nothing_to_do(ended: Any) -> None:
    before = ended.state
    plan = ended.json("plan", "toy.yaml")
    assert (plan["run"], plan["status"], plan["finished"]) == (1, "done", 6)
    assert stages(plan) == {
        "topics": (4, 0, 0, 0, 0),
        "items": (4, 4, 0, 0, 0),
        "say": (8, 8, 0, 0, 0),
        "out": (6, 0, 0, 0, 0),
    }
    assert stages(plan, "rejected", "dead")["say"] == (1, 1), "they are remembered"
    assert all(stage["why"] == {} for stage in plan["stages"].values())
    assert ended.state == before, "the store is as it was"


@pytest.mark.parametrize(
    ("assignment", "stage", "expected", "reason"),
    [
        # One more row of the source, two items of it, which nothing was said of.
        ("stages.topics.with.count=5", "items", (5, 4, 1, 0, 0), "new or changed upstream"),
        ("stages.items.with.per_topic=3", "say", (12, 8, 0, 4, 0), "new or changed upstream"),
        # A gate over replies that are there already costs nothing.
        ("stages.say.with.end=so", "say", (8, 0, 8, 0, 0), 'end: "." -> "so"'),
        # Sampling seeds follow from the pipeline's, and replies are found under what was asked.
        ("seed=8", "say", (8, 0, 8, 0, 0), "seed 7 -> 8"),
        ("stages.say.with.stop=there", "say", (8, 8, 0, 0, 0), None),
        ("stages.topics.with.weight=2", "say", (8, 8, 0, 0, 0), None),
    ],
)
def test_why_something_is_done_again(
    ended: Any, assignment: str, stage: str, expected: tuple[int, ...], reason: str | None
) -> None:
    plan = ended.json("plan", "toy.yaml", "--set", assignment)
    assert stages(plan)[stage] == expected
    _, _, again, work, _ = expected
    assert plan["stages"][stage]["why"] == ({reason: again + work} if reason else {})
    shown = ended("plan", "toy.yaml", "--set", assignment).stdout
    assert reason is None or reason in shown


def test_code_and_replies_that_changed(ended: Any) -> None:
    ended.change("stages.py", '"said no"', '"said NO"')
    plan = ended.json("plan", "toy.yaml")
    assert stages(plan)["say"] == (8, 0, 8, 0, 0)
    say = plan["stages"]["say"]
    assert say["why"] == {"code changed in stages.py": 8}
    # Three for the row that died, as it had three attempts, each of which replays.
    assert say["calls_held"] == 10
    assert "calls would be answered from the store" in ended("plan", "toy.yaml").stdout
    ended.change("replies.jsonl", "the third", "the last")
    plan = ended.json("plan", "toy.yaml")
    assert stages(plan)["say"] == (8, 0, 0, 8, 0), "another model is asked anew"
    (why,) = plan["stages"]["say"]["why"]
    assert why.startswith("code changed in stages.py; resource llm: fixture ")
    assert " -> fixture " in why


def test_values_that_changed_upstream_are_named(ended: Any) -> None:
    ended.change(
        "toy.yaml", "  out:", "  weigh: {use: ./stages.py:weigh, with: {llm: llm}}\n  out:"
    )
    plan = ended.json("plan", "toy.yaml")
    assert plan["stages"]["weigh"]["why"] == {"a new stage": 6}
    ended("run", "toy.yaml", "-q", code=3)
    plan = ended.json("plan", "toy.yaml", "--set", "stages.topics.with.weight=2")
    weigh = plan["stages"]["weigh"]
    assert (weigh["reused"], weigh["again"]) == (2, 4), "twice nothing is nothing"
    assert weigh["why"] == {"values of weight changed upstream": 4}


def test_limit_and_a_run_that_did_not_end(toy: Any) -> None:
    with toy.waiting("topic 2") as process:
        plan = toy.json("plan", "toy.yaml")  # while another engine owns the store
        assert process.poll() is None
        assert stages(plan)["say"] == (8, 4, 0, 4, 0)
        assert plan["stages"]["say"]["why"] == {"not done by run 1, which did not end": 4}
        assert stages(toy.json("plan", "toy.yaml", "--limit", 2))["say"] == (4, 4, 0, 0, 0)
    assert "run 1, which did not end" in toy("plan", "toy.yaml").stdout


def test_a_stream_waits_for_all_its_rows(ended: Any) -> None:
    ended.change("toy.yaml", "  out:", "  unique: {use: ./stages.py:unique}\n  out:")
    ended("run", "toy.yaml", "-q", code=3)
    plan = ended.json("plan", "toy.yaml")
    assert stages(plan)["unique"] == (6, 6, 0, 0, 0)
    plan = ended.json("plan", "toy.yaml", "--set", "stages.items.with.per_topic=3")
    assert stages(plan, "rows", "waiting", "more", "waits_for")["unique"] == (6, 6, 4, ["say"])
    assert plan["stages"]["out"]["more"] == 10, "all that it may pass on"


def test_what_it_prints_steers_no_terminal(ended: Any) -> None:
    ended.change("stages.py", 'end: str = "."', r'end: str = "\x1b[2J"')
    shown = ended("plan", "toy.yaml").stdout
    assert r"\u001b[2J" in shown
    assert "\x1b" not in shown


def test_wrong_words_are_told(ended: Any) -> None:
    def said(*arguments: str) -> str:
        return str(ended("plan", "toy.yaml", *arguments, code=2).stderr)

    assert "did you mean 'say'?" in said("--keep", "stages.sya")
    assert "has no recorded results" in said("--keep", "stages.out")
    assert "write stages.KEY" in said("--keep", "say")
    assert "no such file" in ended("plan", "toi.yaml", code=2).stderr


# --- nothing is opened, asked or written --------------------------------------------------------

TOUCHED: list[str] = []


@resource("trap.chat")
class Trap(Endpoint):
    """Notes whoever opens or asks it."""

    def __init__(self) -> None:
        self.limiter = Limiter(longest=0)

    @property
    def identity(self) -> str:
        return "trap"

    @property
    def can(self) -> frozenset[Feature]:
        return frozenset()

    async def __aenter__(self) -> Any:
        TOUCHED.append("opened")
        return self

    async def send(self, request: Any) -> Answer:
        TOUCHED.append("asked")
        return Answer("a fine reply", "stop")


@pytest.mark.anyio
async def test_no_resource_is_opened_and_no_call_is_made(toy: Any) -> None:
    toy.change("toy.yaml", "{use: fixture.chat, with: {file: replies.jsonl}}", "{use: trap.chat}")
    pipeline = read_pipeline(toy.file, plugins=[Trap])
    TOUCHED.clear()
    plan = await make_plan(pipeline, None)
    assert plan.stages["say"].work == 8
    assert TOUCHED == []
    import engine

    await engine.run(pipeline, limit=2)
    assert TOUCHED == ["opened"] + ["asked"] * 4
    store = find_runs(toy.folder / ".engine" / "toy")
    try:
        for limit, keep in ((None, ()), (2, ("say",))):
            changed = read_pipeline(toy.file, plugins=[Trap], overrides=["stages.say.with.end=x"])
            await make_plan(changed, store, limit=limit, keep=keep)
    finally:
        store.close()
    assert TOUCHED == ["opened"] + ["asked"] * 4


def test_the_json_is_one_object_whatever_a_module_prints(ended: Any) -> None:
    ended.change("stages.py", "import sys\n", 'import sys\n\nprint("a module that talks")\n')
    ran = ended("plan", "toy.yaml", "--json")
    assert json.loads(ran.stdout)["pipeline"] == "toy"
    assert "a module that talks" in ran.stderr


def test_a_pilot_is_shown_and_told_of(toy: Any) -> None:
    shown = toy("plan", "toy.yaml", "--pilot", 4, "--rows", 1000)
    assert not (toy.folder / "out.jsonl").exists(), "no sink writes"
    assert "accepted rows: 1,000 (those that leave say)" in shown.stdout
    assert "a run reuses them" in shown.stdout
    made = toy.json("plan", "toy.yaml", "--pilot", 4)
    assert made["paid"]["calls"] == 0
    assert made["stages"]["say"]["calls"] >= made["stages"]["say"]["rows_in"] == 8
    assert [run["status"] for run in toy.json("runs", "toy.yaml")["runs"]] == ["pilot", "pilot"]
    assert "a pilot, whose rows are a sample" in toy("export", "toy.yaml", code=2).stderr
    assert "run 2, which was a pilot" in toy("plan", "toy.yaml").stdout
    toy("run", "toy.yaml", "-q", code=3)
    assert toy.json("plan", "toy.yaml")["finished"] == 6
    assert "give --pilot, too" in toy("plan", "toy.yaml", "--rows", 5, code=2).stderr
