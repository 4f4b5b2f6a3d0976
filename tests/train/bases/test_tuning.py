"""What of a model is trained, and what stays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_train.bases import Base, load_causal, load_reward
from engine_train.errors import TrainingError
from engine_train.tuning import Lora, Tuning, apply, check
from pydantic import ValidationError

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, transformers and peft
Folder = Callable[..., Path]
KINDS = ["llama", "gpt_neox", "gemma2", "gpt2"]
BLOCK = {"llama": "model.layers", "gpt_neox": "gpt_neox.layers", "gemma2": "model.layers", "gpt2": "transformer.h"}  # fmt: skip
NORM = {"llama": "model.norm", "gpt_neox": "gpt_neox.final_layer_norm", "gemma2": "model.norm", "gpt2": "transformer.ln_f"}  # fmt: skip


def step(model: Any) -> set[str]:
    """Train one step on all that may move; return the names of what did."""
    import torch

    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    for _ in range(2):  # what is under a head of zeros moves after the head
        optimizer.zero_grad()
        logits = model(torch.tensor([[8, 9, 10], [11, 12, 13]])).logits
        (logits.flatten() * torch.linspace(1, 2, logits.numel())).sum().backward()
        optimizer.step()
    return {name for name, weight in model.state_dict().items() if not weight.equal(before[name])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reward", [False, True])
def test_only_the_top_moves(kind: str, reward: bool, folder: Folder) -> None:
    load = load_reward if reward else load_causal
    model, _ = load(Base(model=folder(kind, tie_word_embeddings=False)), seed=0)
    model, config = apply(model, Tuning(tune="top", top_layers=1), reward=reward)
    moved = step(model)
    head = "score" if reward else "lm_head"
    allowed = (f"{BLOCK[kind]}.2.", f"{NORM[kind]}.", f"{head}.")
    assert config is None
    assert all(name.startswith(allowed) for name in moved)
    assert {next(a for a in allowed if name.startswith(a)) for name in moved} == set(allowed)


@pytest.mark.parametrize("reward", [False, True])
def test_the_head_alone_moves(reward: bool, folder: Folder) -> None:
    load = load_reward if reward else load_causal
    model, _ = load(Base(model=folder()), seed=0)
    model, _ = apply(model, Tuning(tune="head"), reward=reward)
    assert step(model) == {"score.weight" if reward else "lm_head.weight"}


def test_a_head_made_of_the_embeddings_is_told_or_stays(folder: Folder) -> None:
    place = folder(tie_word_embeddings=True)
    model, _ = load_causal(Base(model=place), seed=0)
    with pytest.raises(TrainingError, match="would train the embeddings as well.*`tune: top`"):
        apply(model, Tuning(tune="head"), reward=False)
    model, _ = apply(model, Tuning(tune="top", top_layers=1), reward=False)
    assert not {"lm_head.weight", "model.embed_tokens.weight"} & step(model)


def test_all_moves_by_default(folder: Folder) -> None:
    model, _ = load_causal(Base(model=folder()), seed=0)
    model, _ = apply(model, Tuning(), reward=False)
    assert step(model) == set(model.state_dict())


@pytest.mark.parametrize("reward", [False, True])
def test_adapters_move_and_merge_into_the_model(
    reward: bool, folder: Folder, tmp_path: Path
) -> None:
    import torch

    load = load_reward if reward else load_causal
    place = folder()
    model, _ = load(Base(model=place), seed=0)
    model, config = apply(model, Tuning(tune="lora", lora=Lora(r=2, alpha=4)), reward=reward)
    assert config.r == 2
    moved = step(model)
    assert moved
    assert all("lora_" in name or ("score" in name and "modules_to_save" in name) for name in moved)
    wanted = model(torch.tensor([[8, 9]])).logits
    merged = model.merge_and_unload()
    assert torch.allclose(merged(torch.tensor([[8, 9]])).logits, wanted, atol=1e-5)
    assert not any("lora" in name for name in merged.state_dict())


@pytest.mark.parametrize(
    ("tuning", "says"),
    [
        (Tuning(tune="top", top_layers=4), "`top_layers: 4`: the model has 3"),
        (
            Tuning(tune="lora", lora=Lora(targets=("query",))),
            "fits no module of a LlamaForCausalLM",
        ),
    ],
)
def test_what_the_model_does_not_have_is_told(tuning: Tuning, says: str, folder: Folder) -> None:
    model, _ = load_causal(Base(model=folder()), seed=0)
    with pytest.raises(TrainingError, match=says):
        apply(model, tuning, reward=False)


@pytest.mark.parametrize(
    ("tuning", "base", "says"),
    [
        ({}, {"model": "a/b", "quantization": "4bit"}, "cannot be trained: say `tuning: {tune: l"),
        ({"tune": "lora"}, {"model": "a/b", "quantization": "8bit"}, "without loss: say"),
        ({"save": "adapter"}, {"model": "a/b"}, "`save: adapter` is of `tune: lora`, not of `tune: f"),
        ({"tune": "lora", "save": "adapter"}, {"model": "./b"}, "found here alone: b"),
        ({"tune": "lora", "save": "adapter"}, {"model": "a/b", "layers": 2}, "with `layers`"),
        (
            {"tune": "lora", "save": "adapter"},
            {"folder": "b", "artifact": "artifact:00:1", "adapts": "a/b"},
            "with a base that is adapters itself",
        ),
        (
            {"tune": "lora", "save": "adapter"},
            {"model": {"config": {"model_type": "llama"}}},
            "found here alone: new llama",
        ),
    ],
)  # fmt: skip
def test_what_cannot_go_together_is_told(
    tuning: dict[str, Any], base: dict[str, Any], says: str
) -> None:
    with pytest.raises(TrainingError, match=says):
        check(Tuning.model_validate(tuning), Base.model_validate(base))


def test_what_goes_together_passes() -> None:
    check(Tuning(), Base(model="a/b"))
    kept = Tuning(tune="lora", save="adapter")
    check(kept, Base(model="a/b", quantization="4bit"))
    check(kept, Base(folder=Path("somewhere"), artifact="artifact:00:1"))


@pytest.mark.parametrize("given", [{"tune": "some"}, {"lora": {"r": 0}}, {"lora": {"dropout": 1}}])
def test_a_tuning_that_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Tuning.model_validate(given)
