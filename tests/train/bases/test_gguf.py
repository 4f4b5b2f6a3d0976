"""GGUF files: dequantised once, into a folder that is there whole or not at all."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engine_train.bases import Base, load_causal, load_reward
from engine_train.errors import TrainingError
from engine_train.gguf import cached

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers
Folder = Callable[..., Path]


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.tensor([[5, 9, 11, 4]])).logits


def same(one: Any, other: Any) -> bool:
    import torch

    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def by_name(model: Any) -> Any:
    """Load a model again as TRL's DPO does: by the name that it bears."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model.config.name_or_path)


@pytest.mark.parametrize("quantized", [False, True])
def test_a_gguf_is_dequantised_once(
    quantized: bool,
    folder: Folder,
    gguf_file: Callable[..., Path],
    cache: Path,
    tmp_path: Path,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_pretrained(folder("llama"))
    file = gguf_file(original, quantized=quantized)
    model, tokenizer = load_causal(Base(model=file), seed=0)
    assert torch.allclose(logits(model), logits(original), atol=2e-2 if quantized else 1e-5)
    assert tokenizer.chat_template
    assert tokenizer.eos_token == tokenizer.pad_token == "<end>"
    assert len(tokenizer) == original.config.vocab_size  # transformers adds <|endoftext|>
    assert max(tokenizer("<|endoftext|> !").input_ids) < len(tokenizer)
    assert same(model, by_name(model))
    made = list((cache / "dequantised").iterdir())
    assert len(made) == 1
    before = (made[0] / "model.safetensors").stat().st_mtime_ns
    short, _ = load_reward(Base(model=file, layers=1), seed=0)
    assert short.config.num_hidden_layers == 1
    assert (made[0] / "model.safetensors").stat().st_mtime_ns == before
    model.save_pretrained(tmp_path / "saved")  # which transformers refuses of a GGUF as it loads it


def test_a_gguf_that_is_none_is_told_and_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(TrainingError, match="bad.gguf cannot be read as a model"):
        load_causal(Base(model=tmp_path / "bad.gguf"), seed=0)
    assert list((cache / "dequantised").iterdir()) == []
    with pytest.raises(TrainingError, match="no model 'gone.gguf'"):
        load_causal(Base.model_validate({"model": "gone.gguf"}), seed=0)


def test_two_that_make_a_folder_at_once_make_one(cache: Path) -> None:
    both = threading.Barrier(2)

    def make(folder: Path) -> None:
        (folder / "a").write_text("whole")
        both.wait(10)

    with ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda _: cached("new/one", make), range(2)))
    assert made == [cache / "new" / "one"] * 2
    assert [path.name for path in (cache / "new").iterdir()] == ["one"]
    assert (made[0] / "a").read_text() == "whole"


def test_what_a_killed_process_left_is_removed_in_time(cache: Path) -> None:
    for name in (".one-old", ".one-new"):
        (cache / "new" / name).mkdir(parents=True)
    os.utime(cache / "new" / ".one-old", (0, 0))
    cached("new/one", lambda folder: None)
    assert sorted(path.name for path in (cache / "new").iterdir()) == [".one-new", "one"]


@pytest.mark.embedded
def test_the_weights_that_a_package_carries_answer_in_torch() -> None:
    model, tokenizer = load_causal(Base(model="smollm2-135m-instruct"), seed=0)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    said = tokenizer.decode(model.generate(**ids, max_new_tokens=2, do_sample=False)[0])
    assert said == "The capital of France is Paris."
    reward, _ = load_reward(Base(model="smollm2-135m-instruct", layers=8), seed=0)
    assert sum(weight.numel() for weight in reward.parameters()) == 56_633_472
