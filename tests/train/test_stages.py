"""Trainings in pipelines: what is refused before a run, and models that travel from stage to stage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from engine_train.errors import TrainingError
from engine_train.stages import sft
from engine_train.workers import Trainer
from kill_training import CONFIG, rows

import engine
from engine import Context, PipelineError
from engine.store.blobs import BlobFolder

pytestmark = pytest.mark.anyio
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def write(pipeline: Write, tmp_path: Path) -> Write:
    def make(text: str, method: str = "sft") -> Path:
        lines = [orjson.dumps(row) for row in rows(method, 16)]
        (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
        (tmp_path / "rows.gguf").write_bytes(b"\n".join(lines))
        (tmp_path / "empty").mkdir()
        return pipeline(text)

    return make


ONE = """
stages:
  read:  {{use: dataset.read, with: {{path: rows.jsonl}}}}
  pack:  {{use: dataset.pack}}
  train: {{use: train.{method}, with: {{{given}}}}}
"""


@pytest.mark.parametrize(
    ("method", "rows_of", "given", "message"),
    [
        ("sft", "dpo", "model: gpt2", "needs `messages`, or `prompt` and `completion`, or `text`"),
        (
            "dpo",
            "sft",
            "model: gpt2",
            "needs `chosen` and `rejected`; the dataset has prompt, comp",
        ),
        ("grpo", "sft", "args: {}", "no model to begin with: say `with: {model: ...}`"),
        ("grpo", "grpo", "model: gpt2", "nothing rewards the replies: say `reward_file"),
        ("sft", "sft", "model: ./empty", "there is no model in empty: a model's folder has a con"),
        ("sft", "sft", "model: ./rows.gguf", "rows.gguf is no GGUF file"),
        ("dpo", "dpo", "model: gpt2, args: {loss_type: sigmod}", "one or more of aot, .*'sigmod'"),
        ("sft", "sft", "model: gpt2, args: {learning_rat: 1}", "learning_rat.*learning_rate"),
        ("sft", "sft", "model: gpt2, args: {learning_rate: fast}", "learning_rate"),
        ("sft", "sft", "model: gpt2, args: {output_dir: x}", "output_dir"),
        ("sft", "sft", "model: gpt2, args: {report_to: wandb}", "pip install wandb"),
        ("sft", "sft", "model: gpt2, args: {eval_strategy: epoch}", "epoch. needs .held_out"),
        ("sft", "sft", "model: gpt2, tuning: {tune: some}", "tune"),
        ("sft", "sft", "model: ./nowhere", "nowhere"),
    ],
)
async def test_refused_before_a_run(
    write: Write, method: str, rows_of: str, given: str, message: str
) -> None:
    path = write(ONE.format(method=method, given=given), rows_of)
    with pytest.raises(PipelineError, match=message) as caught:
        async with engine.open(path, store=None):
            pass
    assert "p.yaml:" in str(caught.value)


SWEEP = f"""
seed: 3
resources:
  workers: {{use: train.workers, with: {{workers: 2, threads: 1}}}}
stages:
  grid:   {{use: sweep.grid, with: {{over: {{seed: [0, 1]}}}}}}
  rows:   {{use: ./stages.py:examples}}
  pack:   {{use: dataset.pack, with: {{by: [seed], fields: [text]}}}}
  start:
    use: train.sft
    with: {{model: {{config: {CONFIG}}}, args: {{max_steps: 3}}, trainer: workers}}
    give: {{metrics: start_metrics}}
    concurrency: 2
  pairs:  {{use: ./stages.py:pairs}}
  again:  {{use: dataset.pack, with: {{by: [seed, model], fields: [prompt, chosen, rejected]}}}}
  prefer:
    use: train.dpo
    with: {{args: {{max_steps: 2}}, trainer: workers}}
    take: {{base: model}}
    concurrency: 2
"""
STAGES = """
from collections.abc import AsyncIterator
from engine import Row, Text, stage

class Example(Row):
    text: Text

class Pair(Row):
    prompt: Text
    chosen: Text
    rejected: Text

@stage("x.examples")
async def examples(seed: int) -> AsyncIterator[Example]:
    for i in range(8):
        yield Example(Text(f"say {i % 3} red or blue {seed}"))

@stage("x.pairs")
async def pairs(seed: int) -> AsyncIterator[Pair]:
    for i in range(8):
        yield Pair(Text(f"say {i % 3}"), Text(" red"), Text(" blue"))
"""


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_sweep_trains_side_by_side_and_a_model_goes_on(pipeline: Write) -> None:
    """Two seeds, each started by SFT on its own rows; the model then goes on by DPO."""
    path = pipeline(SWEEP, stages=STAGES)
    async with engine.open(path) as run:
        found = {row["seed"]: row async for row in run}
        summary = run.summary
    assert set(found) == {0, 1}
    assert summary.stages["start"].out == summary.stages["prefer"].out == 2
    models = {row["model"].digest for row in found.values()}
    assert len(models) == 2
    assert all(row["metrics"]["steps"] == 2 for row in found.values())
    async with engine.open(path) as run:
        again = {row["seed"]: row["model"].digest async for row in run}
        assert run.summary.stages["prefer"].reused == 2
    assert again == {seed: row["model"].digest for seed, row in found.items()}


async def test_two_trainings_of_a_row_log_apart(tmp_path: Path) -> None:
    """A row keeps its id from stage to stage."""

    class Asked(Trainer):
        async def call(self, function: str, payload: Any, *rest: Any, **more: Any) -> Any:
            folders.append(payload["log_dir"])
            raise TrainingError("seen")

    folders: list[str] = []
    blobs = BlobFolder(tmp_path / "blobs")
    with blobs.new("application/jsonl") as dataset:
        dataset.path.write_text("{}")
    for key in ("start", "prefer"):
        ctx = Context(key, row_id="ab", make_workdir=lambda: tmp_path, open_blobs=blobs)
        with pytest.raises(TrainingError, match="seen"):
            await sft(
                dataset.artifact, model="a/b", log_dir=tmp_path / "runs", trainer=Asked(), ctx=ctx
            )
    assert folders == [str(tmp_path / "runs" / key / "ab") for key in ("start", "prefer")]
