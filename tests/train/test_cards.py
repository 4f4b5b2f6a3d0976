"""The model card: what the Hub reads, what a person asks, and code that works as it stands."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_train.cards import card

pytestmark = pytest.mark.filterwarnings("ignore")  # of what transformers imports

RECORD: dict[str, Any] = {
    "method": "reward",
    "base": "org/tiny",
    "layers": 8,
    "tuning": {"tune": "full", "top_layers": 4, "lora": {"r": 16}, "save": "merged"},
    "args": {"learning_rate": 2e-5},
    "options": {"pooling": None, "max_prompt": 128},
    "settings": {"learning_rate": 2e-5, "optim": "adamw_torch", "pooling": "mean"},
    "seed": 7,
    "threads": 1,
    "data": {"rows": 1700, "columns": ["prompt", "chosen", "rejected"]},
    "versions": {"torch": "2.13.0", "trl": "1.16.0"},
    "metrics": {"accuracy": 0.6625, "loss": 0.61},
    "alarms": [],
    "history": [{"step": 1, "loss": 0.7}],
}
LORA = {"tune": "lora", "save": "adapter", "lora": {"r": 8}}


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])  # type: ignore[no-any-return]


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)


def test_the_hub_is_told_what_it_is() -> None:
    assert front(card(RECORD)) == {
        "library_name": "transformers",
        "base_model": "org/tiny",
        "pipeline_tag": "text-classification",
        "tags": ["trl", "reward-model"],
    }
    told = card(
        RECORD | {"method": "dpo", "tuning": LORA, "base": "smollm2-135m-instruct"},
        license="mit",
        tags=["pink", "trl"],
        datasets=["org/pairs"],
    )
    assert front(told) == {
        "library_name": "peft",
        "license": "mit",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "datasets": ["org/pairs"],
        "pipeline_tag": "text-generation",
        "tags": ["trl", "dpo", "pink"],
    }
    for base, hub in (
        ("org/repo/file.Q4.gguf", "org/repo"),
        ("tiny.gguf", None),
        ("new llama", None),
        ("artifact:0123:45", None),
        ("", None),
    ):
        assert front(card(RECORD | {"base": base})).get("base_model") == hub


def test_a_reader_is_told_what_was_done_with_what() -> None:
    text = card(RECORD, name="A *judge*")
    assert "\n# A \\*judge\\*\n" in text
    assert "It began as `org/tiny`, of which the first 8 layers were kept" in text
    assert "the reward is read as the mean over the tokens of the reply." in text
    assert "It was trained to read the last 128 tokens of a prompt." in text
    assert "1,700 rows, with the columns `prompt`, `chosen`, `rejected`." in text
    for line in (
        "| `seed` | `7` |",
        "| `tune` | `full` |",
        "| `optim` | `adamw_torch` |",
        "| `versions.trl` | `1.16.0` |",
        "| `accuracy` | 0.662 |",
    ):
        assert line in text
    assert text.count("`learning_rate`") == 1  # given and used: said once
    assert "`top_layers`" not in text  # nothing that has no meaning here
    assert "# Reward model from org/tiny\n" in card(RECORD)
    assert "\n# Reward model\n" in card(RECORD | {"base": "artifact:0123:45"})
    assert card(RECORD) == card(dict(reversed(RECORD.items())))


def test_alarms_come_before_the_code_and_hide_nothing() -> None:
    text = card(RECORD | {"alarms": ["chosen fell\n<b>, see `a_b`", "x|y"]})
    assert "> - chosen fell \\<b\\>, see `a_b`\n> - x\\|y\n" in text
    assert text.index("chosen fell") < text.index("```python")
    assert "Know this first" not in card(RECORD)
    odd = card(RECORD | {"args": {"a": "x|y`z\n# no heading"}})
    assert "| `a` | `x\\|y'z # no heading` |" in odd


@pytest.mark.parametrize(
    ("base", "load"),
    [
        ("org/tiny", 'from_pretrained("org/tiny")\n'),
        (
            "smollm2-135m-instruct",
            'from_pretrained("BASE")  # the folder of smollm2-135m-instruct\n',
        ),
        ("artifact:01:2", 'from_pretrained("BASE")  # the folder of artifact:01:2\n'),
    ],
)
def test_adapters_say_what_they_need(base: str, load: str) -> None:
    (code,) = blocks(card(RECORD | {"method": "sft", "tuning": LORA, "base": base}))
    assert f"base = AutoModelForCausalLM.{load}" in code
    assert "model = PeftModel.from_pretrained(base, folder)" in code
    compile(code, "card", "exec")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models with random weights: a language model, and reward models of both poolings."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
        set_seed,
    )

    text = "<pad> <eos> <unk> user assistant : What is a kayak ? A small , narrow boat ."
    words = text.split()
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    config = {
        "vocab_size": len(words),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    made = {}
    for name, head, chat in (
        ("talk", LlamaForCausalLM, False),
        ("last", LlamaForSequenceClassification, False),
        ("mean", LlamaForSequenceClassification, True),
    ):
        set_seed(0)
        folder = tmp_path_factory.mktemp(name)
        more = {} if head is LlamaForCausalLM else {"num_labels": 1, "reward_pooling": name}
        head(LlamaConfig(**config, **more)).save_pretrained(folder)
        tokenizer.chat_template = (
            "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
            "{% if add_generation_prompt %}assistant : {% endif %}"
            if chat
            else None
        )
        tokenizer.save_pretrained(folder)
        made[name] = folder
    return made


Printed = Callable[[str, Path], str]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """Run a card's code in a model's folder, as it stands there; return what it prints."""

    def run(code: str, folder: Path) -> str:
        monkeypatch.chdir(folder)
        capsys.readouterr()
        exec(code, {})
        return capsys.readouterr().out

    return run


def test_the_code_of_a_language_model_works(printed: Printed, folders: dict[str, Path]) -> None:
    (code,) = blocks(card(RECORD | {"method": "grpo"}))
    assert printed(code, folders["talk"]).split()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_code_of_a_reward_model_works_with_and_without_the_engine(
    pooling: str, printed: Printed, folders: dict[str, Path]
) -> None:
    codes = blocks(card(RECORD | {"settings": {"pooling": pooling}}))
    with_engine, alone = printed("\n".join(codes), folders[pooling]).splitlines()
    assert float(with_engine.strip("[]")) == pytest.approx(float(alone), abs=1e-6)
    assert float(alone) != 0
