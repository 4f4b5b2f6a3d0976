"""Tiny reward models with random weights, and a planted preference: the reply that says thanks."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = ("[PAD]", "[END]", "[UNK]", "user", "assistant", ":", "help", "me", "now", "thanks", "no")
WORDS += ("yes", "the", "a", "cat", "dog")
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' [END] ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)


@pytest.fixture
def tokenizer() -> Any:
    """A tokenizer of words, whose pad token is its end-of-sequence token if the test says so."""
    return make_tokenizer()


def make_tokenizer(pad: str = "[PAD]") -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, eos_token="[END]", unk_token="[UNK]"
    )
    made.chat_template = TEMPLATE
    return made


def make_model(kind: str, pad: int = 0, attention: str = "sdpa") -> Any:
    """Return a sequence classifier with random weights, a random head included."""
    import torch
    import transformers as t

    size: dict[str, Any] = {"vocab_size": 40, "num_labels": 1, "pad_token_id": pad}
    size |= {"eos_token_id": 1, "bos_token_id": None}
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 24}
    torch.manual_seed(0)
    config = {
        "llama": lambda: t.LlamaConfig(**size, **shape, num_key_value_heads=1),
        "qwen2": lambda: t.Qwen2Config(**size, **shape, num_key_value_heads=1),
        "gpt_neox": lambda: t.GPTNeoXConfig(**size, **shape),
        "mistral": lambda: t.MistralConfig(**size, **shape, num_key_value_heads=1),
        "falcon": lambda: t.FalconConfig(**size, **shape, alibi=True),
        "bloom": lambda: t.BloomConfig(**size, hidden_size=16, n_layer=2, n_head=2),
    }[kind]()
    model = t.AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    with torch.no_grad():  # so that a slip is seen: random weights are small
        for weight in model.parameters():
            weight.mul_(4)
    return model.eval()


@pytest.fixture
def models() -> Callable[..., Any]:
    return make_model


@pytest.fixture
def tokenizers() -> Callable[..., Any]:
    return make_tokenizer


@pytest.fixture
def preferences() -> Callable[..., list[dict[str, Any]]]:
    return make_preferences


def make_preferences(count: int, seed: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Return pairs of which the chosen reply says thanks and the rejected one does not."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [draw.choice(["the cat", "a dog", "help me", "now"]) for _ in range(3)]
        same = " ".join(draw.choice(["yes", "no", "the cat"]) for _ in range(draw.randint(1, 3)))
        row = {
            "prompt": [{"role": "user", "content": " ".join(words)}],
            "chosen": [{"role": "assistant", "content": f"{same} thanks"}],
            "rejected": [{"role": "assistant", "content": f"{same} {draw.choice(['no', 'now'])}"}],
        }
        rows.append(row | more)
    return rows


@pytest.fixture
def reward_folder(tmp_path: Path) -> Callable[..., Path]:
    """Save a tiny reward model with its tokenizer; return its folder."""

    def save(kind: str = "llama", name: str = "model", **settings: Any) -> Path:
        model = make_model(kind)
        for key, value in settings.items():
            setattr(model.config, key, value)
        model.save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
        return tmp_path / name

    return save
