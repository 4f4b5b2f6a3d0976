"""Recorded replies: by what was asked, never by the order of arrival."""

from pathlib import Path

import anyio
import pytest

from engine.chat import ChatError, Message
from engine.chat.fixture_chat import FixtureChat
from engine.errors import ResourceError
from engine.rows import Row
from engine.text import Text

pytestmark = pytest.mark.anyio

LINES = """
{"match": "2 + 2?", "reply": "4", "finish": "length"}
{"match": "^Name (a|an) ", "reply": ["ash", "oak", "elm"]}

{"reply": "what?"}
"""


def ask(text: str) -> list[Message]:
    return [Message(role="user", content=Text(text))]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "replies.jsonl"
    path.write_text(LINES)
    return path


async def test_the_first_line_that_fits_answers(file: Path) -> None:
    chat = FixtureChat(file=file)
    (sum_,) = await chat.complete(ask("What is 2 + 2?"))
    (tree,) = await chat.complete(ask("Name a tree."))
    (other,) = await chat.complete(ask("Hello"))
    assert (sum_.text, sum_.finish, other.text) == ("4", "length", "what?")
    assert tree.text in {"ash", "oak", "elm"}


async def test_the_order_of_arrival_does_not_matter(file: Path) -> None:
    async def trees(order: list[int]) -> dict[int, list[str]]:
        chat, found = FixtureChat(file=file), {}

        async def one(number: int) -> None:
            view = chat.for_row(Row.of({}, bytes([number])))
            found[number] = [r.text for r in await view.complete(ask("Name a tree."), n=3)]

        async with anyio.create_task_group() as tasks:
            for number in order:
                tasks.start_soon(one, number)
        return found

    forwards = await trees(list(range(9)))
    assert forwards == await trees(list(range(8, -1, -1)))
    assert len({tuple(texts) for texts in forwards.values()}) > 1


def test_identity_is_the_content(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_text(LINES.strip())
    other = tmp_path / "other.jsonl"
    other.write_text('{"reply": "x"}')
    identities = [FixtureChat(file=path).identity for path in (file, copy, other)]
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "replies.jsonl:1: .*JSON"),
        ("{}", "replies.jsonl:1: reply: Field required"),
        ('{"reply": "x", "mach": "y"}', "replies.jsonl:1: mach: Extra inputs"),
        ('{"reply": "x", "match": "("}', "replies.jsonl:1: match: not a regular expression"),
        ('{"reply": []}', "replies.jsonl:1: reply"),
    ],
)
def test_a_bad_line_is_named(file: Path, line: str, message: str) -> None:
    file.write_text(line)
    with pytest.raises(ResourceError, match=message):
        _ = FixtureChat(file=file).identity


async def test_no_line_fits(tmp_path: Path) -> None:
    file = anyio.Path(tmp_path / "trees.jsonl")
    await file.write_text('{"match": "tree", "reply": "ash"}')
    with pytest.raises(ChatError, match=r"trees.jsonl has no reply to 'A flower\?'"):
        await FixtureChat(file=Path(file)).complete(ask("A flower?"))
