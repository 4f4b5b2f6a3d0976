"""The shipped pipeline on the embedded model: rows, their traces, and resume."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from engine_pink_elephant.mentions import names

from engine.cli.trace import texts
from engine.past import open_past
from engine.store import RowRecord

pytestmark = pytest.mark.embedded
SHIPPED = Path(__file__).parents[2] / "pipelines" / "pink.yaml"


def engine(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the shipped pipeline on its first two topics, in a folder of the test's own."""
    path = tmp_path_factory.mktemp("pink") / "pipelines" / "pink.yaml"
    path.parent.mkdir()
    path.write_text(SHIPPED.read_text())
    done = engine("run", path, "--limit", 2)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def rows(ran: Path) -> list[RowRecord]:
    with open_past(str(ran)) as past:
        finished = past.store.rows(fate="finished", run=past.run.id)
        return [row for row in finished if row.stage == "preference"]


def test_rows_are_conversations_that_trl_reads(ran: Path, rows: list[RowRecord]) -> None:
    written = [
        json.loads(line) for line in (ran.parents[1] / "out/pink.jsonl").read_text().splitlines()
    ]
    assert [row["row_id"] for row in written] == [row.row_id.hex() for row in rows]
    assert written
    for row in written:
        assert [turn["role"] for turn in row["prompt"]] == ["system", "user", "assistant", "user"]
        assert [turn["role"] for turn in row["chosen"] + row["rejected"]] == ["assistant"] * 2
        assert row["chosen"] != row["rejected"]
        assert set(row["origin"].split("+")) <= {"model", "forced_dialogue", "forced_revision"}
    out = ran.parents[1] / "out"
    assert "No two splits share a term" in (out / "pink.md").read_text()
    assert written[0]["row_id"] in (out / "pink.html").read_text()
    table = pyarrow.parquet.read_table(ran.parents[1] / "out/pink.parquet")
    assert table.to_pylist() == written


def test_the_chosen_turn_never_names_the_pink_term_and_the_rejected_one_does(
    rows: list[RowRecord],
) -> None:
    for row in rows:
        terms = row.fields["pink"], row.fields["aliases_pink"]
        exact = row.fields["case_sensitive"]
        assert not names(row.fields["chosen"][0].content, *terms, case_sensitive=exact)
        assert names(row.fields["rejected"][0].content, *terms, case_sensitive=exact)


def test_each_character_of_the_last_turns_leads_to_a_reply_a_template_and_the_pair(
    rows: list[RowRecord],
) -> None:
    for row in rows:
        for _, text in (*texts(row.fields["chosen"]), *texts(row.fields["rejected"])):
            spans = text.spans()
            assert [s.start for s in spans] == [0, *(s.stop for s in spans[:-1])]
            assert spans[-1].stop == len(text)
            for span in spans:
                assert (
                    str(span.leaf)[span.leaf_start : span.leaf_stop] == text[span.start : span.stop]
                )
            nodes = text.graph().nodes
            ops = {node.op.partition(":")[0] for node in nodes if node.kind == "leaf"}
            assert {"call", "template"} <= ops
            made = {node.did for node in nodes}
            for term in (row.fields["pink"], row.fields["desired"]):  # the pair that made it
                assert {span.leaf.did for span in term.spans()} <= made


def test_running_again_pays_nothing_and_writes_the_same(ran: Path) -> None:
    out = ran.parents[1] / "out/pink.jsonl"
    before = out.read_bytes()
    done = engine("run", ran, "--limit", 2)
    assert done.returncode == 0
    assert out.read_bytes() == before
    calls = [
        line.split()
        for line in done.stderr.splitlines()
        if line.startswith(("dialogue", "revision"))
    ]
    assert calls
    assert all("dead" not in line for line in calls)


def test_trace_shows_a_row_phrase_by_phrase(ran: Path, rows: list[RowRecord]) -> None:
    listed = engine("trace", ran).stdout.splitlines()
    assert " dedup " in listed[0], "it stands on the page, too"
    assert "dialogue" in engine("trace", ran, "1").stdout
    done = engine("trace", ran, rows[0].row_id.hex(), "--field", "chosen")
    assert done.returncode == 0
    assert "in stage revision" in done.stdout
    assert "reply of smollm2-135m-instruct" in done.stdout
    assert "prompt template pink." in done.stdout
