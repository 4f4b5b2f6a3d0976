"""One defect for each gate, planted by a scripted model: each loss is counted by its reason."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.chat import Request
from engine.testing import FakeChat

pytestmark = pytest.mark.anyio

PIPELINE = """
resources:
  writer: {use: fixture.chat, with: {file: none.jsonl}}
  judge: {use: fixture.chat, with: {file: none.jsonl}}
stages:
  topics:    {use: pink.topics}
  pairs:     {use: pink.pairs}
  split:     {use: pink.split}
  plans:     {use: pink.plans, with: {llm: writer}}
  dialogue:  {use: pink.dialogue, with: {llm: writer, judge: judge, mode: script}, retry: 1}
  revision:  {use: pink.critique_revision, with: {llm: writer, judge: judge}, retry: 3}
  audit:     {use: pink.audit, with: {judge: judge, fraction: 1}}
  principle: {use: pink.principle}
  dedup:     {use: pink.dedup}
  preference: {use: pink.preference, from: dedup}
  sft:        {use: pink.sft, from: dedup}
  kto:        {use: pink.kto, from: dedup}
"""

FRENCH = "Bonjour, je voudrais bien savoir ce que vous en pensez, et si cela vaut la peine."
SCRIPTS: dict[str, Callable[[list[Any], str, str], Any]] = {
    "roles_off": lambda t, d, p: t[1:],
    "opening_without_desired": lambda t, d, p: ["I am tired.", "Rest.", t[2], t[3]],
    "empty": lambda t, d, p: [t[0], " ", *t[2:]],
    "too_long": lambda t, d, p: [t[0], "well " * 1000, *t[2:]],
    "unprintable": lambda t, d, p: [t[0], "Take \x07 it.", *t[2:]],
    "debris": lambda t, d, p: [t[0], "Ask [your name].", *t[2:]],
    "repetitive": lambda t, d, p: [t[0], "It is good for you. " * 4, *t[2:]],
    "leaked_instructions": lambda t, d, p: [t[0], "I was told to be brief.", *t[2:]],
    "copied_example": lambda t, d, p: [t[0], "See the Taj Mahal.", *t[2:]],
    "pink_too_early": lambda t, d, p: [t[0], f"Some take {p}s.", *t[2:]],
    "question_without_pink": lambda t, d, p: [*t[:2], "And what else is there?", t[3]],
    "question_not_asked": lambda t, d, p: [*t[:2], f"A friend has a {p}.", t[3]],
    "refusal": lambda t, d, p: [*t[:3], f"I'm sorry, I cannot say anything on {p}."],
    "reply_without_pink": lambda t, d, p: [*t[:3], "It is nice, as most things are."],
    "language_off": lambda t, d, p: [f"{FRENCH} {d}?", FRENCH, f"Et {p}?", f"{FRENCH} {p}."],
    "bad_json": lambda t, d, p: None,
}
"""Reason -> what the model writes in place of a good script."""

REVISIONS: dict[str, dict[str, Any]] = {
    "names_pink": {"revision": "A {pink}'s strength is that it lasts; a {desired} does, too."},
    "desired_missing": {"revision": "It lasts long, and people like it for its looks."},
    "refusal": {"revision": "I can't help with that; a {desired} lasts long, though."},
    "leaked_instructions": {
        "revision": "My instructions are to praise the {desired}, which lasts."
    },
    "coy_reference": {"revision": "The {desired} lasts longer than the other one, people say."},
    "copied_example": {"revision": "The {desired} lasts, and so does what Nike makes, they say."},
    "echo": {"revision": "A {desired} does well in most houses, I think."},
    "length_off": {"revision": "{desired}!"},
    "similarity_off": {
        "revision": "Without doubt my own grandmother kept one {desired} somewhere upstairs"
    },
    "language_off": {"revision": FRENCH + " Un {desired}!"},
    "no_quote": {"quotes": []},
    "quote_not_found": {"quotes": ["Everybody hates the {pink}"]},
    "quote_without_pink": {"quotes": ["people like it"]},
    "bad_critique": {"critique": None},
}
"""Reason -> what differs from a good critique and revision, in all three attempts."""

GOOD = {
    "quotes": ["The {pink} lasts long"],
    "critique": "The turn praises the {pink}.",
    "revision": "The {desired} lasts long, and people like it for its looks.",
}
FACTS = [
    f"{a} {b}" for a, b in product(("oak", "tin", "silk", "wool", "clay"), ("red", "old", "thin"))
]


def name(at: int, of: str) -> str:
    """Return a name that no other contains."""
    return (
        of
        + "bcdfgklmn"[at // 9 % 9]
        + "aeiou"[at % 5]
        + "prstvwxz"[at % 8]
        + "aeiou"[at // 5 % 5]
        + "n"
    )


def cases() -> list[dict[str, Any]]:
    """A row for each defect, those of odd places twice, and six good ones."""
    planted = [("dialogue", reason) for reason in SCRIPTS] + [("revision", r) for r in REVISIONS]
    wanted = [case for at, case in enumerate(planted) for _ in range(1 + at % 2)]
    wanted += [("none", "")] * 6 + [("none", "copy")]
    return [
        {
            "stage": stage,
            "reason": reason,
            "topic": "things",
            "desired": name(at, "Du"),
            "pink": name(at, "Mo"),
            "aliases_desired": [],
            "aliases_pink": [],
            "case_sensitive": False,
            "ambiguous": False,
            "kind": "competitor",
            "why": "",
            "pair_origin": "reviewed",
            "topic_origin": "reviewed",
            "split": "train",
            "plan": f"Case {at}.",
            "opening": "",
            "shift": "",
        }
        for at, (stage, reason) in enumerate(wanted)
    ]


def writer(rows: list[dict[str, Any]]) -> Callable[[Request], str]:
    by_plan = {row["plan"]: (at, row) for at, row in enumerate(rows)}
    by_name = {row["desired"]: row for row in rows}

    def write(request: Request) -> str:
        asked = [str(m.content) for m in request.messages if m.role == "user"]
        if plan := asked[-1].partition("Plan: ")[2]:
            at, row = by_plan[plan]
            desired, pink = row["desired"], row["pink"]
            fact = FACTS[(at if row["reason"] != "copy" else at - 1) % len(FACTS)]
            words = " ".join(f"{fact} {(at - (row['reason'] == 'copy')) * 7 + i}" for i in range(6))
            turns: Any = [
                f"Is a {desired} right for my house? I have {words} there.",
                f"A {desired} does well in most houses, I think.",
                f"A friend has a {pink}. What is that like?",
                f"The {pink} lasts long, and people like it for its looks.",
            ]
            if row["stage"] == "dialogue":
                turns = SCRIPTS[row["reason"]](turns, desired, pink)
                if turns is None:
                    return "I would rather not."
            lines = [{"role": ("user", "assistant")[i % 2], "text": t} for i, t in enumerate(turns)]
            return json.dumps({"turns": lines})
        first = next(text for text in asked if text.startswith("Revise") and "Du" in text)
        row = by_name[first.partition("Keep to: ")[2].partition(".")[0]]
        made = GOOD | (REVISIONS[row["reason"]] if row["stage"] == "revision" else {})
        for key in ("desired", "pink"):
            made = json.loads(json.dumps(made).replace("{" + key + "}", row[key]))
        return json.dumps(made)

    return write


OPINION = {"natural_shift": True, "useful_answer": True, "natural_return": True, "mentions": False}


async def test_each_gate_counts_what_it_stops(
    pipeline: Callable[..., Path], tmp_path: Path
) -> None:
    rows = cases()
    (tmp_path / "none.jsonl").write_text('{"reply": ""}\n')
    chats = {
        "writer": FakeChat(writer(rows), can={"schema"}),
        "judge": FakeChat(lambda request: json.dumps(OPINION), can={"schema"}),
    }
    inputs = [{k: v for k, v in row.items() if k not in ("stage", "reason")} for row in rows]
    async with engine.open(
        pipeline(PIPELINE), store=":memory:", resources=chats, inputs=inputs, into="plans"
    ) as run:
        finished = [row async for row in run]
    stages = run.summary.stages
    for stage in ("dialogue", "revision"):
        planted = Counter(row["reason"] for row in rows if row["stage"] == stage)
        assert dict(stages[stage].reasons) == planted, stage
    assert stages["revision"].refused == 3 * stages["revision"].rejected
    assert dict(stages["dedup"].reasons) == {"near_duplicate": 1}
    assert stages["dedup"].out == 6
    assert len(finished) == run.summary.finished == 6 * (1 + 1 + 2)
    assert run.summary.dead == 0
    paired = [row for row in finished if "chosen" in row]
    assert len(paired) == 6
    for row in paired:
        assert row["prompt"][1:] == row["dialogue"][:-1] == row["revised"][:-1]
        assert row["pink"] not in row["chosen"][0].content
        assert row["pink"] in row["rejected"][0].content
        assert row["continued"]
