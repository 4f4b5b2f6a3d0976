"""The page to read rows on: what it holds, what it never lets in, and that a click tells."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest
from engine_pink_elephant.browse import Browsed, browse, page
from engine_pink_elephant.prompts import prompt
from hypothesis import given
from hypothesis import strategies as st

from engine import Context, Row, Text
from engine.chat import Answer, Message, Sampling
from engine.testing import FakeChat, run_stage

pytestmark = pytest.mark.anyio

EVIL = "</script><script>document.title='in'</script><img src=x onerror=\"document.title='in'\">"
OLD = "Yes, coffee is quick \U0001f642, and coffee is cheap."
NEW = "Yes, green tea is quick \U0001f642, and tea is cheap."


async def row(pink: str = "coffee", old: str = OLD, new: str = NEW) -> dict[str, Any]:
    """A row whose last turns a model wrote, as the pipeline would have it."""

    async def reply(stage: str, said: str) -> Text:
        ctx = Context(stage, "0" * 32)
        messages = prompt(
            "revision",
            transcript=Text.leaf("User: hi", "source:x.jsonl", params={"line": 3}),
            desired="tea",
            pink=Text(pink),
            critique="c",
        )
        sampling = Sampling(temperature=0.5)
        chat = FakeChat([Answer(said)]).bind(ctx)
        [made] = await chat.complete(messages, sampling=sampling)
        return made.text

    before = Message(role="user", content=Text(f"What about {pink}?"))
    original = Message(role="assistant", content=await reply("dialogue", old))
    revised = Message(role="assistant", content=await reply("revision", new))
    return {
        "dialogue": (before, original),
        "revised": (before, revised),
        "desired": Text("tea"),
        "pink": Text(pink),
        "quotes": (Text("coffee is cheap"),),
        "split": "train",
        "natural_shift": True,
    }


def read(content: bytes) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', content.decode())
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def joined(pieces: list[Any], leaves: list[dict[str, Any]]) -> str:
    return "".join(
        piece if isinstance(piece, str) else leaves[piece[0]]["text"][piece[1] : piece[2]]
        for piece in pieces
    )


async def shown(rows: list[Any], path: Path, **options: Any) -> dict[str, Any]:
    await run_stage(browse, rows, path=path, **options)
    return read(await anyio.Path(path).read_bytes())


async def test_it_holds_the_texts_and_what_was_changed(tmp_path: Path) -> None:
    data = await shown([await row()], tmp_path / "new" / "rows.html")
    [told], leaves = data["rows"], data["leaves"]
    assert joined(told["turns"][1][1], leaves) == OLD
    assert joined(told["revised"], leaves) == NEW

    def marked(text: str, marks: list[Any], kind: str) -> list[str]:
        return [text[start:stop] for start, stop, what in marks if what == kind]

    assert marked(OLD, told["marks"], "pink") == ["coffee", "coffee"]
    assert marked(OLD, told["marks"], "del") == ["coffee", "coffee"]
    assert marked(OLD, told["marks"], "quote") == ["coffee is cheap"]
    assert marked(NEW, told["changed"], "ins") == ["green tea", "tea"]
    assert told["audit"] == {"natural_shift": True}


async def test_a_phrase_leads_to_its_call_and_on_to_the_prompt_and_the_file(tmp_path: Path) -> None:
    data = await shown([await row()], tmp_path / "rows.html")
    leaves = data["leaves"]
    [[number, *_]] = data["rows"][0]["revised"]
    call = leaves[number]
    assert (call["kind"], call["name"], call["params"]["stage"]) == ("call", "fake", "revision")
    assert call["params"]["temperature"] == 0.5
    assert isinstance(call["params"]["seed"], int)
    assert len(call["roles"]) == len(call["in"])
    above = {leaves[p[0]]["kind"]: leaves[p[0]] for m in call["in"] for p in m if p[0] in range(99)}
    assert above["template"]["params"]["id"] == "pink.revision"
    assert above["source"]["op"] == "source:x.jsonl"
    assert sum(leaf["kind"] == "template" for leaf in leaves) == 1  # held once, for both calls


async def test_a_sample_is_drawn_by_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    turn = Message(role="user", content=Text("hi"))
    rows = [Row.of({"dialogue": (turn,), "topic": Text(f"{i}")}) for i in range(60)]
    data = await shown(rows, tmp_path / "rows.html", sample=20)
    topics = [int(told["topic"]) for told in data["rows"]]
    assert data["of"] == 60
    assert topics == sorted(topics)
    assert len(topics) == 20
    assert max(topics) > 30
    fewer = await shown(rows, tmp_path / "fewer.html", sample=5)
    assert {int(told["topic"]) for told in fewer["rows"]} < set(topics)
    before = (tmp_path / "rows.html").stat().st_mtime_ns
    await shown(rows, tmp_path / "rows.html", sample=20)
    assert (tmp_path / "rows.html").stat().st_mtime_ns == before


async def test_nothing_of_a_row_becomes_part_of_the_page() -> None:
    plain = page([Browsed.of(await row())], title="t", of=1).decode()
    evil = Browsed.of(await row(EVIL, EVIL, EVIL) | {"topic": Text(EVIL), "plan": Text(EVIL)})
    made = page([evil], title=EVIL, of=1).decode()
    for tag in ("<script", "</script", "<img", 'onerror="'):
        assert made.count(tag) == plain.count(tag)
    assert read(made.encode())["rows"][0]["topic"] == EVIL
    script = re.search(r"<script>(.*?)</script>", made, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in made
    assert not re.search(r"https?://", made)


async def test_a_row_takes_a_bounded_room() -> None:
    text = Text("x")
    for i in range(60):  # a long chain of calls, each with a long prompt of its own
        text = Text.leaf(f"{i} " * 1000, "call", inputs=[text, Text("y" * 3000)])
    turn = Message(role="assistant", content=text)
    made = page([Browsed.of({"dialogue": (turn,)})], title="t", of=1)
    empty = page([], title="t", of=0)
    assert len(made) - len(empty) < 80_000
    assert any("cut" in leaf for leaf in read(made)["leaves"])


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6))
def test_pieces_give_the_text_again(parts: list[str]) -> None:
    text = Text().join(
        Text(part) if i % 2 else Text.leaf(part, "stage:s") for i, part in enumerate(parts)
    )
    turn = Message(role="user", content=text.upper() + text)
    data = read(page([Browsed.of({"dialogue": (turn,)})], title="t", of=1))
    said = joined(data["rows"][0]["turns"][0][1], data["leaves"])
    assert said == str(turn.content).encode("utf-8", "replace").decode()


@given(*[st.lists(st.sampled_from("abcde,"), min_size=1, max_size=25)] * 2)
def test_what_is_not_marked_is_what_both_turns_have(old: list[str], new: list[str]) -> None:
    turns = [(Message(role="assistant", content=Text(" ".join(said))),) for said in (old, new)]
    row = Browsed.of({"dialogue": turns[0], "revised": turns[1]})
    [told] = read(page([row], title="t", of=1))["rows"]

    def stayed(said: list[str], marks: list[Any]) -> list[str]:
        text = " ".join(said)
        places = {at for start, stop, _ in marks for at in range(start, stop)}
        return "".join(c for at, c in enumerate(text) if at not in places).split()

    assert stayed(old, told.get("marks", [])) == stayed(new, told.get("changed", []))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")
async def test_a_click_tells_and_the_page_is_safe(tmp_path: Path, anyio_backend: str) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("once is enough")
    file = tmp_path / "rows.html"
    evil = Browsed.of(await row(EVIL, f"See {EVIL} now.", "No."))
    file.write_bytes(page([Browsed.of(await row()), evil], title="rows", of=2))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'c'}"]
    url = f"{file.as_uri()}#row=2&open=1&up=1"
    dom = (await anyio.run_process(["chromium", *flags, "--dump-dom", url])).stdout.decode()
    assert "<title>rows</title>" in dom
    assert "<img" not in dom.split("application/json")[0]
    panel = dom[dom.index('<aside id="from"') :]
    assert "Prompt file" in panel
    assert "pink.revision" in panel
