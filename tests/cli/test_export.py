"""`engine export` writes what is there so far, as the sink would have written it."""

import json
from typing import Any


def test_a_run_that_ended_is_written_as_its_sink_wrote_it(ended: Any) -> None:
    out = ended.folder / "out.jsonl"
    whole = out.read_bytes()
    assert len(whole.splitlines()) == 6
    out.unlink()
    assert "6 rows of run 1 -> out.jsonl" in ended("export", "toy.yaml").stderr
    assert out.read_bytes() == whole


def test_a_killed_run_gives_the_rows_so_far(toy: Any) -> None:
    with toy.waiting("topic 2"):
        toy("export", "toy.yaml", "--to", "running.jsonl")  # while it runs
    toy("export", "toy.yaml@1")
    so_far = (toy.folder / "out.jsonl").read_bytes()
    assert so_far == (toy.folder / "running.jsonl").read_bytes()
    toy("run", "toy.yaml", "-q", code=3)
    whole = (toy.folder / "out.jsonl").read_bytes()
    assert len(so_far.splitlines()) == 2
    assert whole.startswith(so_far)
    assert len(whole.splitlines()) == 6


def test_to_another_file_with_the_columns_of_the_dataset(ended: Any) -> None:
    whole = (ended.folder / "out.jsonl").read_bytes()
    ended("export", "toy.yaml", "--to", "copy.jsonl")
    ended("export", "toy.yaml", "--to", "sub/copy.parquet", "--stage", "out")
    assert (ended.folder / "copy.jsonl").read_bytes() == whole
    import pyarrow.parquet as parquet

    rows = parquet.read_table(ended.folder / "sub/copy.parquet").to_pylist()
    assert rows == [json.loads(line) for line in whole.splitlines()]
    ended("export", "toy.yaml", "--to", "folder")
    card = (ended.folder / "folder" / "README.md").read_text()
    assert "6" in card
    assert "said no" in card, "the counts of the run stand in it"


def test_a_folder_is_written_byte_for_byte(ended: Any) -> None:
    ended.change("toy.yaml", "path: out.jsonl", "format: datasets, path: out")
    ended("run", "toy.yaml", "-q", code=3)
    folder = ended.folder / "out"
    whole = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    ended("export", "toy.yaml")
    assert {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == whole


def test_a_pipeline_without_a_sink(toy: Any) -> None:
    text = toy.file.read_text()
    toy.file.write_text(text[: text.index("  out:")])
    toy("run", "toy.yaml", "-q", code=3)
    assert "give --to PATH" in toy("export", "toy.yaml", code=2).stderr
    toy("export", "toy.yaml", "--to", "all.jsonl")
    rows = [json.loads(line) for line in (toy.folder / "all.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert list(rows[0]) == ["topic", "weight", "item", "said"]


def test_wrong_words_are_told(ended: Any) -> None:
    def said(*arguments: str, code: int = 2) -> str:
        return str(ended("export", "toy.yaml", *arguments, code=code).stderr)

    assert "no rows finish at a stage 'sey'; did you mean 'say'?" in said(
        "--to", "x.jsonl", "--stage", "sey"
    )
    assert "does not say in which format" in said("--to", "x.csv")
    ended.change("toy.yaml", "name: toy", "name: other")
    assert "run the pipeline first" in said(code=4)
    assert not (ended.folder / "x.csv").exists()


def test_no_rows_write_no_file(toy: Any) -> None:
    with toy.waiting("topic 0"):
        pass
    assert "has no finished rows: nothing is written" in toy("export", "toy.yaml", code=1).stderr
    assert not (toy.folder / "out.jsonl").exists()


def test_rows_that_cannot_be_told_apart_are_not_mixed(ended: Any) -> None:
    more = "  loud: {use: ./stages.py:weigh, from: say, with: {llm: llm}}\n"
    both = "  both: {use: dataset.write, from: [say, loud], with: {path: both.jsonl}}\n"
    ended.file.write_text(ended.file.read_text() + more + both)
    ended("run", "toy.yaml", "-q", code=3)
    said = ended("export", "toy.yaml", code=2).stderr
    assert "the rows of out and both cannot be told apart" in said
