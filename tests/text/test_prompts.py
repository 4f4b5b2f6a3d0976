from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import Template, Text, TextError, load_template, load_templates


def test_literals_are_spans_of_the_templates_leaf() -> None:
    template = Template("Hi {name}, {{n}}={n} {name}", id="hi", version="3")
    assert template.fields == ("name", "n")
    name = Text.leaf("Ann", "user")
    text = template.fill(n=3, name=name)
    assert text == "Hi Ann, {n}=3 Ann"
    leaves = [span.leaf for span in text.spans()]
    assert {str(leaf) for leaf in leaves} == {str(template.leaf), "Ann", "3"}
    assert template.leaf.origin is not None
    assert template.leaf.origin.op == "template"
    assert template.leaf.origin.params == {"id": "hi", "version": "3"}
    assert [node.kind for node in text.graph().nodes] == ["leaf", "leaf", "leaf", "fill"]


@given(st.lists(st.sampled_from(["{a}", "{{", "}}", "x", "\n", "ü", "{b_1}"]), max_size=9))
def test_filling_is_formatting(parts: list[str]) -> None:
    source = "".join(parts)
    template = Template(source)
    values = {"a": Text("{A}"), "b_1": "}B{"}
    used = {k: v for k, v in values.items() if k in template.fields}
    assert set(used) == {k for k in values if "{" + k + "}" in parts}
    assert template.fill(**used) == source.format(**used)


@pytest.mark.parametrize(
    "bad", ["{0}", "{a.b}", "{a!r}", "{a:>3}", "{", "}", "{}", "{a[0]}", "{a b}"]
)
def test_other_braces_are_refused_with_their_place(bad: str) -> None:
    with pytest.raises(TextError, match=r"^name:2:3: .*write \{name\}"):
        Template(f"ok {{x}}\nab{bad}", id="name")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "'topic' is missing"),
        ({"topik": "x"}, "did you mean 'topic'"),
        ({"topic": "x", "zzz": 1}, "no field 'zzz'"),
        ({"topic": None}, "'topic' got NoneType"),
        ({"topic": True}, "'topic' got bool"),
        ({"topic": ["x"]}, "'topic' got list"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TextError, match=message):
        Template("About {topic}", id="t").fill(**values)


SECTIONS = """## system
Be {tone}.

## user
Q: {q}
## assistant
A

## user
{q}?"""


def test_messages() -> None:
    template = Template(SECTIONS, id="chat")
    assert template.fields == ("tone", "q")
    messages = template.messages(tone="kind", q=Text("why"))
    assert messages == [
        ("system", "Be kind."), ("user", "Q: why"), ("assistant", "A"), ("user", "why?")
    ]  # fmt: skip
    for _, content in messages:
        assert content.graph().nodes[0].did == template.leaf.did
    with pytest.raises(TextError, match=r"call messages\(\)"):
        template.fill(tone="", q="")
    with pytest.raises(TextError, match="before the first heading"):
        Template("lost\n## user\nx")
    assert Template("a {x}").messages(x="## system") == [("user", "a ## system")]


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("---\nversion: 2\nauthor: me\n---\nHello {x}\n\n", "utf-8")
    (tmp_path / "b.md").write_text("plain\n", "utf-8")
    (tmp_path / "notes.txt").write_text("{", "utf-8")
    templates = load_templates(tmp_path)
    assert list(templates) == ["a", "b"]
    a = templates["a"]
    assert (a.id, a.version, a.meta) == ("a", "2", {"author": "me"})
    assert a.fill(x=1) == "Hello 1\n"
    assert load_template(tmp_path / "b.md").fill() == "plain"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"---\nid: x\n---\n\nbad {", r"bad\.md:5:5: "),
        (b"---\n: [\n---\n", "front matter is not YAML"),
        (b"---\n- a\n---\n", "key: value"),
        (b"\xff", "cannot be read"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.md").write_bytes(content)
    with pytest.raises(TextError, match=message) as caught:
        load_template(tmp_path / "bad.md")
    assert str(tmp_path) in str(caught.value)


def test_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "a_plugin_for_this_test"
    (package / "prompts").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "prompts" / "ask.md").write_text("Ask {x}\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_templates(package.name)["ask"].fields == ("x",)
    monkeypatch.delitem(sys.modules, package.name)
    for wrong in ("no_such_package", "", "../x"):
        with pytest.raises(TextError, match="no package"):
            load_templates(wrong)
    with pytest.raises(TextError, match="no folder"):
        load_templates("json")
    with pytest.raises(TextError, match="no folder"):
        load_templates(tmp_path / "none")
