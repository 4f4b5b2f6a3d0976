"""Memory: what is needed is told when it runs out, and what would fit."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_train import memory, training
from engine_train.arguments import check
from engine_train.errors import TrainingError
from engine_train.jobs import Job
from engine_train.memory import GIB, Plan, available, estimate, fits, plan, ran_out
from engine_train.tuning import Tuning

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}
LONG = " ".join(["red green blue"] * 300)
ROWS: dict[str, dict[str, Any]] = {
    "sft": {"text": LONG},
    "reward": {"prompt": LONG, "chosen": "red red", "rejected": "blue"},
    "dpo": {"prompt": "one two", "chosen": LONG, "rejected": "blue"},
    "grpo": {"prompt": LONG},
}
SMOL = Plan(
    parameters=56_632_896,
    trained=56_632_896,
    layers=8,
    hidden=576,
    inner=1536,
    vocabulary=49_152,
    batch=4,
    tokens=504,
    spoken=504,
)


@pytest.fixture
def job(tmp_path: Path) -> Any:
    def make(method: str = "sft", **more: Any) -> Job:
        (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[method]) + "\n")
        settings = {
            "method": method,
            "base": {"model": {"config": LLAMA}},
            "dataset": tmp_path / "rows.jsonl",
            "output": tmp_path / "model",
            "workdir": tmp_path,
            "seed": 1,
        }
        return Job.model_validate(settings | more)

    return make


@pytest.mark.parametrize(
    ("changed", "peak"),
    [
        ({"batch": 2, "tokens": 248, "spoken": 248}, 1.98),
        ({}, 4.13),
        ({"checkpointing": True}, 3.56),
        ({"layers": 4, "trained": 14_160_384}, 3.31),
        ({"trained": 2_580_480}, 3.67),
        ({"batch": 2, "tokens": 1004, "spoken": 502}, 3.20),  # DPO: both replies, logits of them
        ({"tokens": 753, "spoken": 0}, 2.25),  # a reward: the prompt is shared
    ],
)
def test_the_estimate_is_near_what_trainings_took(changed: dict[str, Any], peak: float) -> None:
    # Peaks of resident memory in GiB: SmolLM2's first 8 layers, float32, one thread.
    assert estimate(dataclasses.replace(SMOL, **changed)) / GIB == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize(
    ("error", "ran"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 B"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)  # fmt: skip
def test_memory_that_ran_out_is_known_by_its_error(error: BaseException, ran: bool) -> None:
    assert ran_out(error) == ran


def test_torch_says_so_of_a_tensor_that_cannot_be() -> None:
    import torch

    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert ran_out(raised.value)


@pytest.mark.parametrize("method", list(ROWS))
def test_what_is_offered_needs_less_and_can_be_said(
    method: str, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(method)
    needed = estimate(plan(asked))
    monkeypatch.setattr(memory, "available", lambda device: needed - 1)
    said = fits(None, asked)
    assert said.startswith(
        f"memory ran out: about {needed / GIB:.1f} GiB are needed, and there are"
    )
    offers = re.findall(r"`(\w+): (\{.*?\})`", said)
    assert offers
    for kind, text in offers:
        settings = yaml.safe_load(text)
        if kind == "args":
            assert check(method, settings) == settings
            smaller = job(method, args=settings)
        else:
            smaller = job(method, tuning=Tuning.model_validate(settings))
        assert estimate(plan(smaller)) < needed


def test_where_nothing_fits_alone_that_is_said(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 1)
    assert "Alone none of these would fit, together they may: `args:" in fits(None, job())


def test_what_cannot_be_estimated_is_told_without_figures(job: Any, tmp_path: Path) -> None:
    asked = job()
    (tmp_path / "rows.jsonl").unlink()
    said = fits(None, asked)
    assert said.startswith("memory ran out: `args: {per_device_train_batch_size: 4")
    assert "GiB" not in said


def test_a_plan_follows_the_rows_and_what_is_said(job: Any) -> None:
    whole = plan(job())
    assert (whole.tokens, whole.spoken, whole.batch) == (900, 900, 8)
    assert whole.trained == whole.parameters
    cut = plan(job(args={"max_length": 100, "per_device_train_batch_size": 2}))
    assert (cut.tokens, cut.spoken, cut.batch) == (100, 100, 2)
    reward = plan(job("reward"))
    assert (reward.tokens, reward.spoken) == (900 + 2 * 2, 0)
    dpo = plan(job("dpo"))
    assert (dpo.tokens, dpo.spoken, dpo.reference) == (2 * 902, 2 * 900, False)
    grpo = plan(job("grpo", args={"max_completion_length": 50}))
    assert (grpo.tokens, grpo.spoken) == (950, 50)
    top = plan(job(tuning={"tune": "top", "top_layers": 2}))
    assert top.layers == 2
    assert 0 < top.trained < whole.parameters
    lora = plan(job(tuning={"tune": "lora", "lora": {"r": 2}}))
    assert lora.layers == 8
    assert 0 < lora.trained < whole.parameters


def test_a_training_that_runs_out_says_what_would_fit(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("engine_train.bases.load_causal", full)
    with pytest.raises(TrainingError, match="memory ran out: about .* What would fit: `args: {per"):
        training.train(job().model_dump(mode="json"), lambda _: None)


def test_a_container_bounds_what_there_is() -> None:
    assert GIB // 4 < available("cpu") < 1 << 50
