"""hh-rlhf's transcripts: dialogues whose spans lead to the file, and reasons for odd ones."""

import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.rows import Dialogue, Message
from engine.text import Text

pytestmark = pytest.mark.anyio
Reads = Callable[..., Awaitable[Any]]
PROMPT = "\n\nHuman: May I pet the cat?\n\nAssistant: Which one?\n\nHuman: The black one.\n\nThere."


def said(role: Any, content: str) -> Message:
    return Message(role=role, content=Text(content))


async def test_a_pair_becomes_prompt_and_two_replies(reads: Reads, tmp_path: Path) -> None:
    row = {
        "chosen": f"{PROMPT}\n\nAssistant: Yes.\n\nGently. ",
        "rejected": f"{PROMPT}\n\nAssistant: No.\n\nHuman: Why?\n\nAssistant: Fleas.",
        "source": "cats",
    }
    with gzip.open(tmp_path / "pairs.jsonl.gz", "wt") as file:
        file.write(json.dumps(row) + "\n")
    found = await reads("pairs.jsonl.gz", convert="hh-rlhf")
    assert found.fields == {
        **{"prompt": Dialogue, "chosen": Dialogue, "rejected": Dialogue, "source": Text}
    }
    (made,) = found.rows
    assert made["prompt"] == (
        said("user", "May I pet the cat?"),
        said("assistant", "Which one?"),
        said("user", "The black one.\n\nThere."),
    )
    assert made["chosen"] == (said("assistant", "Yes.\n\nGently."),)
    assert made["rejected"] == (
        said("assistant", "No."),
        said("user", "Why?"),
        said("assistant", "Fleas."),
    )
    for name, turn in (("chosen", made["prompt"][2]), ("rejected", made["rejected"][2])):
        (span,) = turn.content.spans()
        assert span.leaf.origin.op == "source:pairs.jsonl.gz"
        assert dict(span.leaf.origin.params) == {"line": 1, "field": name}
        assert row[name][span.leaf_start : span.leaf_stop] == turn.content


GOOD = "\n\nHuman: Hi.\n\nAssistant: Ho."


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("\n\nAssistant: Ho.", GOOD, "chosen: does not begin with Human"),
        ("Hi." + GOOD, GOOD, "chosen: does not begin with Human"),
        (GOOD, "", "rejected: does not begin with Human"),
        (GOOD, GOOD + "\n\nHuman: Hm.", "rejected: ends with Human"),
        (GOOD, "\n\nHuman: \n\nAssistant: Ho.", "rejected: an empty turn"),
        ("\n\nHuman: Hi.\n\nAssistant:", GOOD, "chosen: an empty turn"),
        (GOOD + "\n\nAssistant: Ho.", GOOD, "chosen: two turns of one speaker"),
        (GOOD, "\n\nHuman: No.\n\nAssistant: Ho.", "no common prompt"),
        (GOOD, GOOD, "chosen and rejected are equal"),
        (GOOD, GOOD + "\n\nHuman: Hm.\n\nAssistant: Ha.", "one goes on where the other ends"),
        (
            GOOD + "\n\nHuman: A?\n\nAssistant: Ha.",
            GOOD + "\n\nHuman: B?\n\nAssistant: Ha.",
            "they part at a turn of Human",
        ),
    ],
)
async def test_an_odd_pair_is_rejected_with_a_reason(
    reads: Reads, tmp_path: Path, chosen: str, rejected: str, reason: str
) -> None:
    fine = {"chosen": GOOD, "rejected": GOOD.replace("Ho", "Hey")}
    rows = [fine, {"chosen": chosen, "rejected": rejected}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = await reads("pairs.jsonl", convert="hh-rlhf")
    assert len(found.rows) == 1
    assert found.reasons == {reason: 1}
    ((example,),) = found.summary.stages["read"].examples.values()
    assert example.endswith("pairs.jsonl:2")


async def test_a_pair_that_is_not_whole_is_rejected(reads: Reads, tmp_path: Path) -> None:
    fine = {"chosen": GOOD, "rejected": GOOD.replace("Ho", "Hey")}
    rows = [fine, {"chosen": GOOD}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = await reads("pairs.jsonl", convert="hh-rlhf", peek=1)
    assert found.reasons == {"rejected: no text": 1}
