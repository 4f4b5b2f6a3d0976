"""How a Text passes through other libraries: what is kept, what is lost, what is refused.

The table is this file's and that of `docs/text.md`. A loss is asserted as one, so that a library
(or an engine) that does better is noticed.
"""

from __future__ import annotations

import copy
import csv
import difflib
import html
import io
import json
import pickle
import re
import string
import textwrap
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from engine.text import Template, Text, dumps, group, loads, parse_json

SOURCE = Text.leaf("Ada", "source:people.jsonl", params={"line": 1})
TEMPLATE = Template("Hello, {who}!", id="hello")
t = TEMPLATE.fill(who=SOURCE)
u = Text.leaf("Bob", "source:people.jsonl", params={"line": 2})
plain = str(t)


class Loose(BaseModel):
    field: str


class Model(BaseModel):
    field: Text


class Struct(msgspec.Struct):
    field: Any


class Case(NamedTuple):
    """One idiom. `verdict` is kept (the graph, too), lost (equal text, plain str) or refused."""

    idiom: str
    verdict: str
    equal: str | bytes
    run: Callable[[], Any]


def made_csv() -> str:
    file = io.StringIO()
    csv.writer(file).writerow([t])
    return file.getvalue()


def through_parquet() -> Any:
    file = io.BytesIO()
    pq.write_table(pa.table({"x": pa.array([t])}), file)
    return pq.read_table(file).to_pylist()[0]["x"]


def matched(pattern: str = "(A)da") -> re.Match[str]:
    match = re.search(pattern, t)
    assert match is not None
    return match


QUOTED = '"Hello, Ada!"'
WIRE = '{"x":"Hello, Ada!"}'
PYTHON = [
    Case('f"{t}"', "kept", plain, lambda: f"{t}"),
    Case('f"{t:>12}"', "kept", " " + plain, lambda: f"{t:>12}"),
    Case('f"a {t}"', "lost", "a " + plain, lambda: f"a {t}"),
    Case('f"{t!s}"', "lost", plain, lambda: f"{t!s}"),
    Case('"a " + t', "kept", "a " + plain, lambda: "a " + t),
    Case('", ".join([t, u])', "lost", plain + ", Bob", lambda: ", ".join([t, u])),
    Case('Text(", ").join([t, u])', "kept", plain + ", Bob", lambda: Text(", ").join([t, u])),
    Case('"a %s" % t', "kept", "a " + plain, lambda: "a %s" % t),  # noqa: UP031
    Case('"a %s" % (t,)', "lost", "a " + plain, lambda: "a %s" % (t,)),  # noqa: UP031
    Case('Text("a %s") % (t,)', "kept", "a " + plain, lambda: Text("a %s") % (t,)),
    Case('"a {}".format(t)', "lost", "a " + plain, lambda: "a {}".format(t)),  # noqa: UP032
    Case('Text("a {}").format(t)', "kept", "a " + plain, lambda: Text("a {}").format(t)),
    Case('format(t, ">12")', "kept", " " + plain, lambda: format(t, ">12")),
    Case("copy.copy(t)", "kept", plain, lambda: copy.copy(t)),
    Case("copy.deepcopy(t)", "kept", plain, lambda: copy.deepcopy([t])[0]),
    Case("pickle.loads(pickle.dumps(t))", "kept", plain, lambda: pickle.loads(pickle.dumps(t))),
    Case("sorted([t])[0]", "kept", plain, lambda: sorted([t])[0]),
    Case("textwrap.fill(t)", "lost", plain, lambda: textwrap.fill(t)),
    Case("textwrap.dedent(t)", "lost", plain, lambda: textwrap.dedent(t)),
    Case('textwrap.indent(t, "> ")', "lost", "> " + plain, lambda: textwrap.indent(t, "> ")),
    Case(
        'string.Template("a $x").substitute(x=t)',
        "lost",
        "a " + plain,
        lambda: string.Template("a $x").substitute(x=t),
    ),
    Case(
        "difflib.get_close_matches(word, [t])",
        "kept",
        plain,
        lambda: difflib.get_close_matches("Hello", [t], cutoff=0.1)[0],
    ),
    Case("difflib.ndiff([t], [u])", "lost", "- " + plain, lambda: next(difflib.ndiff([t], [u]))),
    Case("html.escape(t)", "kept", plain, lambda: html.escape(t)),
    Case("io.StringIO(t).read()", "lost", plain, lambda: io.StringIO(t).read()),
]
PATTERNS = [
    Case("match.string", "kept", plain, lambda: matched().string),
    Case("match.group()", "lost", "Ada", lambda: matched().group()),
    Case("group(match)", "kept", "Ada", lambda: group(matched())),
    Case("match.groups()", "lost", "A", lambda: matched().groups()[0]),
    Case("group(match, 1)", "kept", "A", lambda: group(matched(), 1)),
    Case('match.expand(r"\\1")', "lost", "A", lambda: matched().expand(r"\1")),
    Case("re.findall(p, t)", "lost", "Ada", lambda: re.findall("Ada", t)[0]),
    Case('re.sub(p, "my", t)', "lost", "my, Ada!", lambda: re.sub("Hello", "my", t)),
    Case('t.sub(p, "my")', "kept", "my, Ada!", lambda: t.sub("Hello", "my")),
    Case("re.split(p, t)", "lost", "Ada!", lambda: re.split(", ", t)[1]),
    Case('t.split(", ")', "kept", "Ada!", lambda: t.split(", ")[1]),
    Case("t[match.end():]", "kept", "Ada!", lambda: t[matched(", ").end() :]),
    Case("re.escape(t)", "kept", r"Hello,\ Ada!", lambda: re.escape(t)),
]
LIBRARIES = [
    Case("json.dumps(t)", "lost", QUOTED, lambda: json.dumps(t)),
    Case("json.loads(t)", "lost", plain, lambda: json.loads('"' + t + '"')),
    Case("orjson.dumps(t)", "lost", QUOTED.encode(), lambda: orjson.dumps(t)),
    Case("orjson.dumps({t: 1})", "refused", "", lambda: orjson.dumps({t: 1})),
    Case(
        "orjson.dumps({t: 1}, option=OPT_NON_STR_KEYS)",
        "lost",
        b'{"Hello, Ada!":1}',
        lambda: orjson.dumps({t: 1}, option=orjson.OPT_NON_STR_KEYS),
    ),
    Case(
        "orjson.dumps(t, option=OPT_PASSTHROUGH_SUBCLASS)",
        "refused",
        "",
        lambda: orjson.dumps(t, option=orjson.OPT_PASSTHROUGH_SUBCLASS),
    ),
    Case("orjson.loads(t)", "refused", "", lambda: orjson.loads(Text(QUOTED))),
    Case("orjson.loads(t.encode())", "lost", plain, lambda: orjson.loads(Text(QUOTED).encode())),
    Case("msgspec.json.encode(t)", "refused", "", lambda: msgspec.json.encode(t)),
    Case(
        "msgspec.json.encode(t, enc_hook=str)",
        "lost",
        WIRE.replace("x", "field").encode(),
        lambda: msgspec.json.encode(Struct(t), enc_hook=str),
    ),
    Case(
        "msgspec.msgpack.encode(t, enc_hook=str)",
        "lost",
        b"\xab" + plain.encode(),
        lambda: msgspec.msgpack.encode(t, enc_hook=str),
    ),
    Case("msgspec.convert(t, str)", "kept", plain, lambda: msgspec.convert(t, str)),
    Case("pydantic: field `Text`", "kept", plain, lambda: Model(field=t).field),
    Case(
        "pydantic: field `Text` of a deep copy",
        "kept",
        plain,
        lambda: Model(field=t).model_copy(deep=True).field,
    ),
    Case(
        "pydantic: `Annotated[Text, Field(min_length=1)]`",
        "kept",
        plain,
        lambda: TypeAdapter(Annotated[Text, Field(min_length=1)]).validate_python(t),
    ),
    Case(
        "pydantic: `Annotated[Text, Field(pattern=p)]`",
        "lost",
        plain,
        lambda: TypeAdapter(Annotated[Text, Field(pattern="Ada")]).validate_python(t),
    ),
    Case(
        "pydantic: `Annotated[Text, StringConstraints(strip_whitespace=True)]`",
        "lost",
        plain,
        lambda: TypeAdapter(
            Annotated[Text, StringConstraints(strip_whitespace=True)]
        ).validate_python(t),
    ),
    Case("pydantic: field `str`", "lost", plain, lambda: Loose(field=t).field),
    Case("pydantic: model_dump", "lost", plain, lambda: Model(field=t).model_dump()["field"]),
    Case(
        "pydantic: model_dump_json",
        "lost",
        WIRE.replace("x", "field"),
        lambda: Model(field=t).model_dump_json(),
    ),
    Case("pyarrow: array, scalar", "lost", plain, lambda: pa.array([t])[0].as_py()),
    Case(
        "pyarrow: Table.from_pylist",
        "lost",
        plain,
        lambda: pa.Table.from_pylist([{"x": t}]).to_pylist()[0]["x"],
    ),
    Case("pyarrow: Parquet", "lost", plain, through_parquet),
    Case("yaml.safe_dump(t)", "refused", "", lambda: yaml.safe_dump(t)),
    Case("yaml.safe_dump(str(t))", "lost", "Hello, Ada!\n...\n", lambda: yaml.safe_dump(str(t))),
    Case("csv.writer", "lost", QUOTED + "\r\n", made_csv),
]
ELSEWHERE = {  # tested below: they need a folder, or a server
    "datasets: Dataset.from_list": "lost",
    "openai: message content": "lost",
}
CASES = [*PYTHON, *PATTERNS, *LIBRARIES]


def sources(text: Text) -> list[tuple[str, str]]:
    """The phrases that were read from files, each with its line's text."""
    found = []
    for span in text.spans():
        origin = span.leaf.origin
        if origin is not None and origin.op.startswith("source:"):
            found.append((str(text)[span.start : span.stop], str(span.leaf)))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.idiom)
def test_what_is_kept_is_kept_and_what_is_lost_is_lost(case: Case) -> None:
    if case.verdict == "refused":
        with pytest.raises((TypeError, ValueError, yaml.YAMLError)):
            case.run()
        return
    result = case.run()
    assert result == case.equal
    if case.verdict == "kept":
        assert type(result) is Text
        assert "Ada" not in result or ("Ada", "Ada") in sources(result)
        assert result.graph().nodes[-1].did == result.did
        assert sources(result), "a Text whose graph knows no source is a loss, too"
    elif isinstance(result, Text):
        assert not sources(result)
    else:
        assert type(result) in (str, bytes)


def test_the_page_says_the_same() -> None:
    page = (Path(__file__).parents[2] / "docs" / "text.md").read_text("utf-8")
    section = page.split("## Other libraries\n", 1)[1].split("\n## ", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    said = {idiom.replace("`", ""): verdict for idiom, verdict, _ in cells[2:]}
    tested = {case.idiom.replace("`", ""): case.verdict for case in CASES} | ELSEWHERE
    assert said == tested
    for idiom, verdict, instead in cells[2:]:
        assert instead or verdict == "kept", f"{idiom} does not say what to do instead"


def test_what_the_page_says_to_do_instead_keeps_the_graph() -> None:
    lines = Text("  ") + t + "\n  " + u
    dedented = lines.sub(r"(?m)^ +", "")
    assert dedented == textwrap.dedent(str(lines)) == plain + "\nBob"
    indented = dedented.sub(r"(?m)^(?=.)", "> ")
    assert indented == textwrap.indent(str(dedented), "> ")
    stripped = TypeAdapter(Annotated[Text, AfterValidator(Text.strip)]).validate_python(lines)
    assert stripped == str(lines).strip()
    found = Text(" ").join([group(m) or "" for m in re.finditer("Ada|Bob", lines)])
    (back,) = loads(dumps(lines))
    for text in (dedented, indented, stripped, found, back):
        assert [phrase for phrase, _ in sources(text)] == ["Ada", "Bob"]
    assert sources(parse_json(Text('"') + t + '"')) == [("Ada", "Ada")]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_carries_the_graph_under_each_protocol(protocol: int) -> None:
    (back,) = pickle.loads(pickle.dumps([t], protocol))
    assert (back, back.did) == (t, t.did)
    assert [tuple(span) for span in back.spans()] == [tuple(span) for span in t.spans()]


def test_copies_are_the_text_itself() -> None:
    assert copy.copy(t) is t
    assert copy.deepcopy({"x": (t,)})["x"][0] is t


def test_a_text_is_a_dict_key_and_a_plain_string_finds_it() -> None:
    assert {t: 1}[plain] == {plain: 1}[t] == 1
    assert json.loads(json.dumps({t: t})) == {plain: plain}


class Many(BaseModel):
    one: Text
    perhaps: Text | None = None
    several: tuple[Text, ...] = ()
    named: dict[Text, Text] = {}


def test_pydantic_reads_writes_and_describes_a_text() -> None:
    many = Many(one=t, perhaps=u, several=(t, u), named={t: u})
    assert many.one is t
    assert many.several[1] is u
    assert next(iter(many.named)) is t
    back = Many.model_validate_json(many.model_dump_json())
    assert back == many
    assert {type(x) for x in (back.one, back.perhaps, *back.several, *back.named)} == {Text}
    schema = Many.model_json_schema()["properties"]
    assert schema["one"] == {"title": "One", "type": "string"}
    assert schema["several"]["items"] == {"type": "string"}
    assert Many.model_json_schema(mode="serialization")["properties"]["one"]["type"] == "string"


@pytest.mark.parametrize("strict", [False, True])
def test_pydantic_takes_a_str_for_a_text_and_nothing_else(strict: bool) -> None:
    adapter = TypeAdapter(Text)
    assert type(adapter.validate_python("x", strict=strict)) is Text
    assert adapter.validate_python(t, strict=strict) is t
    assert type(adapter.validate_json('"x"', strict=strict)) is Text
    for wrong in (1, None, ["x"]):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong, strict=strict)


def test_msgspec_makes_texts_with_a_hook() -> None:
    def made(cls: type, value: Any) -> Any:
        return cls(value)

    texts = msgspec.json.decode(b'["x"]', type=list[Text], dec_hook=made)
    assert (texts, type(texts[0])) == (["x"], Text)


def test_datasets_holds_plain_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    row = {"x": t, "turns": [{"role": "user", "content": t}]}
    made = datasets.Dataset.from_list([row])
    assert made.features["x"].dtype == "string"
    made.save_to_disk(tmp_path / "saved")
    (back,) = datasets.load_from_disk(tmp_path / "saved").to_list()
    assert back == row
    assert type(back["x"]) is type(back["turns"][0]["content"]) is str


class Recorder(BaseHTTPRequestHandler):
    """Answers each request alike, and keeps what came."""

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))  # type: ignore[attr-defined]
        message = {"role": "assistant", "content": "hi"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        body = json.dumps(reply | {"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def test_openai_sends_a_text_as_a_plain_string() -> None:
    import openai

    server = HTTPServer(("127.0.0.1", 0), Recorder)
    server.bodies = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        with openai.OpenAI(api_key="none", base_url=url, max_retries=0, timeout=30) as client:
            reply = client.chat.completions.create(
                model="m",
                messages=[{"role": Text("user"), "content": t}],  # type: ignore[typeddict-item]
                stop=[u],
            )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    (body,) = map(json.loads, server.bodies)  # type: ignore[attr-defined]
    assert body["messages"] == [{"role": "user", "content": plain}]
    assert body["stop"] == ["Bob"]
    assert type(reply.choices[0].message.content) is str
