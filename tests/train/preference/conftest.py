"""Tiny trainings by preference: a model of 16 dimensions, 40 words, a few rows."""

import random
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from engine_train import arguments
from engine_train.bases import Base, Scratch, load_causal
from engine_train.jobs import Job, Method
from engine_train.tuning import Tuning, apply
from transformers import TrainerCallback, set_seed

WORDS = ["the", "a", "red", "blue", "small", "big", "cat", "dog", "bird", "sings", "runs", "sees"]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}
OWN = {
    "disable_tqdm": True,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
}


class Killed(Exception):
    pass


class Kill(TrainerCallback):  # type: ignore[misc]
    """Saves at a step, and ends the training there as a kill does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = state.global_step == self.step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        raise Killed


class Ear(TrainerCallback):  # type: ignore[misc]
    """Hears what a training tells."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text)


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


@pytest.fixture
def pairs() -> list[dict[str, Any]]:
    draw = random.Random(1)
    return [
        {
            "prompt": words(draw, 4),
            "chosen": " " + words(draw, 5),
            "rejected": " " + words(draw, 3),
        }
        for _ in range(12)
    ]


@pytest.fixture
def prompts() -> list[dict[str, Any]]:
    draw = random.Random(2)
    return [{"prompt": words(draw, 4), "target": draw.randint(1, 4)} for _ in range(6)]


Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that builds a trainer, as a worker does."""

    def build(
        method: Method,
        rows: Sequence[Mapping[str, Any]],
        args: Mapping[str, Any] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        callbacks: Sequence[Any] = (),
        held_out: Sequence[Mapping[str, Any]] | None = None,
        tuning: Tuning | None = None,
        work: str = "work",
        change: Callable[[Any, Any], Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Any:
        folder, own = tmp_path / work, dict(args or {})
        job = Job(
            method=method,
            base=Base(model=Scratch(config=CONFIG | dict(config or {}))),
            dataset=tmp_path / "rows.jsonl",
            output=folder / "model",
            workdir=folder,
            seed=3,
            tuning=tuning or Tuning(),
            args=own,
            options=dict(options or {}),
        )
        module = import_module(f"engine_train.{method}")
        module.check(list(rows[0]), rows[0])
        more = {"output_dir": str(folder / "checkpoints"), "seed": 3}
        settings = arguments.build(method, own, OWN | module.defaults(job) | more)
        set_seed(3)
        model, tokenizer = load_causal(job.base, seed=3, texts=[" ".join(WORDS)])
        if change is not None:
            tokenizer = change(model, tokenizer) or tokenizer
        model, _ = apply(model, job.tuning, reward=False)
        set_seed(3)
        data = Dataset.from_list(list(rows))
        held = None if held_out is None else Dataset.from_list(list(held_out))
        return module.build(job, model, tokenizer, data, settings, list(callbacks), held)

    return build


@pytest.fixture
def resumed(make: Make, tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """Return a function that trains twice, once killed at a step: both trainers, at their ends."""

    def both(method: Method, rows: Any, args: Any, *, at: int, **more: Any) -> tuple[Any, Any]:
        whole = make(method, rows, args, work="whole", **more)
        whole.train()
        killed = make(method, rows, args, work="killed", callbacks=[Kill(at)], **more)
        with pytest.raises(Killed):
            killed.train()
        again = make(method, rows, args, work="killed", **more)
        again.train(
            resume_from_checkpoint=str(tmp_path / "killed" / "checkpoints" / f"checkpoint-{at}")
        )
        return whole, again

    return both


@pytest.fixture
def ear() -> Ear:
    return Ear()
