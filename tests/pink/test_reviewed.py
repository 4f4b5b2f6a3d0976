"""Files of reviewed topics and pairs: what is shipped, and what a user may give."""

import json
from pathlib import Path

import pytest
from engine_pink_elephant import naming, reviewed
from engine_pink_elephant.registry import Registry

from engine import Text
from engine.errors import InputError


@pytest.mark.parametrize(
    ("file", "kind", "topics", "pairs"),
    [
        ("competitors", "competitor", 20, 80),
        ("topics", "topic", 6, 10),
        ("unsafe", "unsafe", 7, 10),
    ],
)
def test_what_is_shipped(file: str, kind: str, topics: int, pairs: int) -> None:
    found = reviewed.read(reviewed.SHIPPED[file])
    made = [pair for entry in found.values() for pair in entry]
    assert (len(found), len(made)) == (topics, pairs)
    registry = Registry(1)  # no term stands in two pairs
    assert not any(map(registry.add, made))
    near = naming.Topics()
    for topic in found:
        assert not near.near(topic)
        near.add(topic)
    for pair in made:
        assert pair.kind == kind
        assert pair.why
        if pair.described:
            assert min(len(pair.aliases_desired), len(pair.aliases_pink)) >= 2
        else:
            assert pair.ambiguous >= any(map(naming.homonym, (pair.desired, pair.pink)))


ROW = {"topic": "tea", "desired": "green tea", "pink": "black tea"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.yaml",
            "- topic: pets\n  kind: topic\n  pairs:\n"
            "    - {desired: cats, pink: dogs, aliases_pink: [puppy, pup], kind: competitor}\n"
            "    - {desired: what fish eat, pink: what birds eat}\n",
        ),
        (
            "a.jsonl",
            '\n{"topic": "pets", "desired": "cats", "pink": "dogs", "aliases_pink": ["puppy", "pup"]}\n'
            '{"topic": "pets", "desired": "what fish eat", "pink": "what birds eat", "kind": "topic"}\n',
        ),
        (
            "a.csv",
            "\ufefftopic,desired,pink,aliases_pink,kind,ambiguous\n"
            "pets,cats,dogs,puppy; pup,,no\r\npets,what fish eat,what birds eat,,topic,false\n",
        ),
    ],
)
def test_a_users_file_says_the_same_in_each_form(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, newline="")
    [(topic, pairs)] = reviewed.read(tmp_path / name).items()
    assert topic == "pets"
    assert [(pair.desired, pair.kind) for pair in pairs] == [
        ("cats", "competitor"),
        ("what fish eat", "topic"),
    ]
    assert pairs[0].aliases_pink == ("puppy", "pup")
    assert not pairs[0].ambiguous
    assert pairs[0].pair_origin == "reviewed"
    [span] = Text(pairs[0].pink).spans()
    assert span.leaf.origin is not None
    assert span.leaf.origin.op == f"source:{name}"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "- topic: a\n  pairs:\n  - desired: Pepsi\n    pink: Pepsi Max", "line 3: Pepsi - Pepsi Max: terms_overlap"),
        ("a.yaml", "- topic: a\n\n- topic: b\n  pairs: [{desired: b}]", "line 4: pairs.0.pink: Field required"),
        ("a.yaml", "- topic: a\n  pairz: []", "line 2: pairz: .* not permitted"),
        ("a.yaml", "- topic: a\n  kind: rival", "line 2: kind: Input should be 'competitor'.*not 'rival'"),
        ("a.yaml", "- a\n- b", "line 1: .*not 'a'"),
        ("a.yaml", "topic: a", "line 1: a list of topics"),
        ("a.yaml", "topic: [", "line 2, column 1"),
        ("a.yaml", "- topic: a\n  pairs: [{desired: cats, pink: dogs}, {desired: Dog, pink: the cat}]", "line 2: Dog - the cat: pair_repeated"),
        ("a.yaml", "- topic: a\n  pairs: [{desired: a term of some five words, pink: b}]", "not_a_term"),
        ("a.jsonl", json.dumps(ROW) + "\n{", "line 2: no JSON"),
        ("a.jsonl", json.dumps(ROW) + "\n\n[1]", "line 3: .*not \\[1\\]"),
        ("a.jsonl", json.dumps(ROW | {"why": 7}), "line 1: why: .*not 7"),
        ("a.jsonl", json.dumps(ROW) + "\n" + json.dumps(ROW), "line 2: green tea - black tea: pair_repeated"),
        ("a.csv", "topic,desired,pink\ntea,green tea", "line 2: it has not as many cells"),
        ("a.csv", "topic,desired,pink\ntea,green tea,black tea,x", "line 2: it has not as many cells"),
        ("a.csv", "topic,desired\ntea,green tea", "line 2: pink: Field required"),
        ("a.csv", 'topic,desired,pink\ntea,"green', "after line 1: unexpected end"),
        ("a.csv", "topic,desired,pink,ambiguous\ntea,green tea,black tea,maybe", "line 2: ambiguous: .*not 'maybe'"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_refused_by_its_line(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        reviewed.read(file)
    assert str(file) in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        reviewed.read(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no topics and pairs"):
        reviewed.read(tmp_path / "a.yaml")
