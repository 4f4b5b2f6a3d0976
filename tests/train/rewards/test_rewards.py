"""Where a reward is read, by ids, and that padding and batches change nothing."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_train.errors import TrainingError
from engine_train.packing import Tokens
from engine_train.positions import Span
from engine_train.rewards import RewardModel, chunks, parts

PAD = END = 1  # one token for both, as GPT-NeoX has it


def sequences() -> list[Tokens]:
    """Return sequences of many lengths; every other one has an end-of-sequence token appended."""
    draw = random.Random(3)
    found = []
    for i in range(10):
        ids = [draw.randrange(2, 40) for _ in range(draw.randint(2, 12))]
        found.append(Tokens(ids + [END] * (i % 2), 1))
    return found


def forward(model: Any, ids: list[list[int]], mask: list[list[int]]) -> list[float]:
    """Return what transformers itself gives."""
    import torch

    with torch.no_grad():
        said = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    return [float(reward) for reward in said.logits[:, 0]]


@pytest.mark.parametrize("kind", ["gpt_neox", "llama"])
def test_last_is_what_transformers_gives(models: Callable[..., Any], kind: str) -> None:
    model = models(kind, pad=PAD)
    ours = RewardModel(model, None).score(sequences())
    theirs = [forward(model, [s.ids], [[1] * len(s.ids)])[0] for s in sequences()]
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("kind", ["gpt_neox", "llama"])
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_a_padded_batch_is_what_transformers_gives(
    models: Callable[..., Any], kind: str, left: bool
) -> None:
    model = models(kind, pad=PAD)
    width = max(len(s.ids) for s in sequences())
    ids, mask = [], []
    for sequence in sequences():
        gap = width - len(sequence.ids)
        one, pads = [1] * len(sequence.ids), [PAD] * gap
        ids.append(pads + sequence.ids if left else sequence.ids + pads)
        mask.append([0] * gap + one if left else one + [0] * gap)
    ours = RewardModel(model, None).score(sequences(), left=left)
    assert ours == pytest.approx(forward(model, ids, mask), abs=1e-5)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("kind", ["gpt_neox", "llama"])
def test_padding_and_batches_change_no_reward(
    models: Callable[..., Any], kind: str, pooling: str
) -> None:
    model = RewardModel(models(kind, pad=PAD), None)
    model.pooling = pooling
    alone = [model.score([sequence])[0] for sequence in sequences()]
    assert model.score(sequences()) == pytest.approx(alone, abs=1e-5)
    assert model.score(sequences(), left=True) == pytest.approx(alone, abs=1e-5)
    assert model.score(sequences()[::-1])[::-1] == pytest.approx(alone, abs=1e-5)
    assert max(alone) - min(alone) > 0.1


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_an_appended_end_that_is_also_padding_changes_nothing(
    models: Callable[..., Any], pooling: str
) -> None:
    model = RewardModel(models("gpt_neox", pad=PAD), None)
    model.pooling = pooling
    bare, ended = Tokens([5, 6, 7, 8], 2), Tokens([5, 6, 7, 8, END], 2)
    assert model.position(*ended) == model.position(*bare)
    assert model.position(*ended).position == 3
    assert model.score([ended]) == pytest.approx(model.score([bare]), abs=1e-6)


def test_an_appended_end_that_is_no_padding_is_read(models: Callable[..., Any]) -> None:
    model = RewardModel(models("gpt_neox", pad=0), None)
    assert model.position([5, 6, 7, END], 1) == Span(3, 4)


def test_the_mean_is_over_the_reply(models: Callable[..., Any]) -> None:
    import torch

    model = RewardModel(models("llama"), None)
    model.pooling = "mean"
    ids = [5, 6, 7, 8, 9]
    backbone, head = parts(model.model)
    with torch.no_grad():
        states = backbone(input_ids=torch.tensor([ids])).last_hidden_state[0]
        expected = float(head(states[3:].mean(0)))
    assert model.position(ids, 3) == Span(3, 5)
    assert model.score([Tokens(ids, 3)]) == pytest.approx([expected], abs=1e-5)


def test_a_reply_of_padding_alone_is_read_at_the_prompt(models: Callable[..., Any]) -> None:
    model = RewardModel(models("llama", pad=PAD), None)
    model.pooling = "mean"
    assert model.position([5, 6, END], 2) == Span(1, 2)


def test_a_sequence_of_padding_alone_is_an_error(models: Callable[..., Any]) -> None:
    model = RewardModel(models("llama", pad=PAD), None)
    with pytest.raises(ValueError, match="2 tokens has none but padding .1.: there is nothing"):
        model.score([[END, END]])


def test_a_folder_says_how_it_is_read(reward_folder: Callable[..., Path]) -> None:
    folder = reward_folder(reward_pooling="mean", reward_max_prompt=3, reward_max_reply=2)
    model = RewardModel.load(folder)
    assert (model.pooling, model.max_prompt, model.max_reply) == ("mean", 3, 2)
    prompt = [{"role": "user", "content": "the cat the dog"}]
    tokens = model.encode(prompt, [{"role": "assistant", "content": "yes no thanks"}])
    assert model.tokenizer.decode(tokens.ids) == "[END] assistant : yes no"
    assert tokens.start == 3


def test_a_folder_without_settings_is_read_at_the_last_token(
    reward_folder: Callable[..., Path],
) -> None:
    assert RewardModel.load(reward_folder()).pooling == "last"


def test_another_kind_of_model_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    LlamaForCausalLM(
        LlamaConfig(**size, num_attention_heads=2, vocab_size=40)  # type: ignore[arg-type]
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match="has no reward head .*train one with `train.reward`"):
        RewardModel.load(tmp_path)
    with pytest.raises(TrainingError, match="is no reward model"):
        RewardModel.load(tmp_path / "nowhere")


def test_batches_depend_on_lengths_alone_and_keep_to_the_budget() -> None:
    lengths = [random.Random(5).randint(1, 50) for _ in range(40)]
    found = list(chunks(lengths, budget=100))
    assert sorted(i for places in found for i in places) == list(range(40))
    assert all(len(p) * max(lengths[i] for i in p) <= 100 for p in found)
    assert list(chunks([500, 3], budget=100)) == [[0], [1]]
