"""autocrit's transcripts: dialogues, critiques and revisions that are slices of the text."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineError
from engine.rows import Dialogue, Message
from engine.text import Text

pytestmark = pytest.mark.anyio
Reads = Callable[..., Awaitable[Any]]

ASKED = "USER: May I pet the cat?\nASSISTANT: Which one?\nUSER: The black one.\n\nThere."
FIRST = f"{ASKED}\nASSISTANT: \nPull its tail.\nIt likes that. \n"
ROUND = "\nCRITIQUE REQUEST: What hurts?\nCRITIQUE: Pulling hurts.\n"
AGAIN = "\nREVISION REQUEST: Be kind.\nREVISION: Pet it gently."
MORE = "\nCRITIQUE: It may be asleep.\nREVISION: Wait until it wakes."


def said(role: Any, content: str) -> Message:
    return Message(role=role, content=Text(content))


def filled(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


async def test_rounds_become_critiques_and_revisions(reads: Reads, tmp_path: Path) -> None:
    whole = FIRST + ROUND + AGAIN + MORE
    filled(tmp_path, {"transcript": whole, "source": "cats"})
    found = await reads("a.jsonl", convert="autocrit")
    texts = tuple[Text, ...]
    assert found.fields == {
        **{"transcript": Text, "source": Text, "dialogue": Dialogue},
        **{"critiques": texts, "revisions": texts, "revised": Dialogue},
    }
    [made] = found.rows
    prompt = (
        said("user", "May I pet the cat?"),
        said("assistant", "Which one?"),
        said("user", "The black one.\n\nThere."),
    )
    assert made["dialogue"] == (*prompt, said("assistant", "Pull its tail.\nIt likes that."))
    assert made["critiques"] == ("Pulling hurts.", "It may be asleep.")
    assert made["revisions"] == ("Pet it gently.", "Wait until it wakes.")
    assert made["revised"] == (*prompt, said("assistant", "Wait until it wakes."))
    for text in (made["dialogue"][3].content, *made["critiques"], *made["revisions"]):
        [span] = text.spans()
        assert dict(span.leaf.origin.params) == {"line": 1, "field": "transcript"}
        assert whole[span.leaf_start : span.leaf_stop] == text


@pytest.mark.parametrize("name", ["iterations", "output"])
async def test_autocrits_own_files_are_read_by_their_last_round(
    reads: Reads, tmp_path: Path, name: str
) -> None:
    end = FIRST + ROUND + AGAIN + ROUND + "\nREVISION REQUEST: Be kinder."
    rounds = [
        {
            "answer": "Pull its tail.",
            "critique": "Pulling hurts.",
            "score": False,
            "context": FIRST,
        },
        {"answer": "Pet it gently.", "critique": "Pulling hurts.", "score": True, "context": end},
    ]
    (tmp_path / "a.json").write_text(json.dumps([{"question": "?", name: rounds}], indent=1))
    found = await reads("a.json", convert="autocrit")
    [made] = found.rows
    assert made["critiques"] == ("Pulling hurts.", "Pulling hurts.")  # the last was not acted on
    assert made["revisions"] == ("Pet it gently.",)
    assert made["revised"][-1].content == "Pet it gently."
    assert made[name][0]["score"] is False


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "does not begin with USER"),
        ("A cat. " + FIRST + ROUND + AGAIN, "does not begin with USER"),
        ("ASSISTANT: Yes.", "does not begin with USER"),
        ("USER: A cat?", "ends with USER"),
        ("USER: A cat?\nUSER: A cat?", "USER after USER"),
        ("USER: \nASSISTANT: Yes.", "an empty USER"),
        ("USER: A cat?\nASSISTANT: \nCRITIQUE: No.", "an empty ASSISTANT"),
        ("USER: A cat?\nCRITIQUE: No.", "CRITIQUE after USER"),
        (FIRST + AGAIN, "REVISION REQUEST after ASSISTANT"),
        (FIRST, "no REVISION"),
        (FIRST + ROUND, "no REVISION"),
        (FIRST + ROUND + "\nREVISION:", "an empty REVISION"),
        (FIRST + ROUND + ROUND + AGAIN, "CRITIQUE REQUEST after CRITIQUE"),
        (FIRST + ROUND + AGAIN + "\nREVISION: Or not.", "REVISION after REVISION"),
        (FIRST + ROUND + AGAIN + "\n" + FIRST, "USER after REVISION"),
    ],
)
async def test_what_is_none_is_rejected_with_a_reason(
    reads: Reads, tmp_path: Path, text: str, reason: str
) -> None:
    filled(tmp_path, {"context": FIRST + ROUND + AGAIN}, {"context": text})
    found = await reads("a.jsonl", convert="autocrit", peek=1)
    assert len(found.rows) == 1
    assert found.reasons == {reason: 1}
    ((example,),) = found.summary.stages["read"].examples.values()
    assert example.endswith("a.jsonl:2")


async def test_rounds_without_a_transcript_are_rejected(reads: Reads, tmp_path: Path) -> None:
    rounds = [[{"context": FIRST + ROUND + AGAIN}], [{"context": None}], []]
    filled(tmp_path, *({"iterations": each} for each in rounds))
    found = await reads("a.jsonl", convert="autocrit")
    assert len(found.rows) == 1
    assert found.reasons == {"no text": 2}


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"story": "A cat."}, "not all first rows have one of these .they have: story"),
        ({"text": "USER: A cat?", "revised": "?"}, "makes the field 'revised'"),
    ],
)
async def test_files_without_transcripts_are_refused_before_the_run(
    reads: Reads, tmp_path: Path, row: dict[str, Any], match: str
) -> None:
    filled(tmp_path, row)
    with pytest.raises(EngineError, match=match):
        await reads("a.jsonl", convert="autocrit")
