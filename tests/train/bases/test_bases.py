"""Base models: found by any of their names, whole or shortened, with the head that is asked for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_train.bases import Base, Scratch, Source, load_backbone, load_causal, load_reward
from engine_train.errors import TrainingError

from engine import Artifact

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers
Folder = Callable[..., Path]
KINDS = ["llama", "qwen2", "gpt_neox", "gemma2", "gpt2"]
TEXTS = ["red green blue, one two three!", "four five six; say go run sit."]
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


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


def test_a_folder_is_loaded_in_float32_with_what_its_tokenizer_has(folder: Folder) -> None:
    import torch

    model, tokenizer = load_causal(Base(model=folder()), seed=0)
    assert model.dtype == torch.float32
    assert tokenizer.pad_token == "<pad>"
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    assert tokenizer.chat_template
    assert same(model, by_name(model))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layers_are_those_of_the_whole(kind: str, folder: Folder) -> None:
    import torch

    place = folder(kind)
    whole, _ = load_backbone(Base(model=place), seed=0)
    short, _ = load_causal(Base(model=place, layers=2), seed=0)
    assert short.config.num_hidden_layers == 2
    kept = short.base_model.state_dict()
    assert sum(".2." in name for name in whole.state_dict()) > 0
    assert not any(name.startswith(("layers.2.", "h.2.")) for name in kept)
    assert all(torch.equal(weight, whole.state_dict()[name]) for name, weight in kept.items())
    assert same(short, by_name(short))


def test_more_layers_than_there_are_is_an_error(folder: Folder) -> None:
    with pytest.raises(TrainingError, match="`layers: 4`: model has 3"):
        load_causal(Base(model=folder(), layers=4), seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_model_has_the_backbone_and_a_head_of_zeros(kind: str, folder: Folder) -> None:
    import torch

    place = folder(kind)
    model, tokenizer = load_reward(Base(model=place), seed=0)
    backbone, _ = load_backbone(Base(model=place), seed=0)
    assert same(model.base_model, backbone)
    assert model.num_labels == 1
    ids = torch.tensor([[8, 9, 10], [8, tokenizer.pad_token_id, tokenizer.pad_token_id]])
    assert model(ids).logits.tolist() == [[0.0], [0.0]]
    assert torch.count_nonzero(model.score.weight) == 0


def test_a_head_that_is_there_is_kept(folder: Folder) -> None:
    import torch

    place = folder(auto="AutoModelForSequenceClassification", num_labels=1)
    one, _ = load_reward(Base(model=place), seed=0)
    other, _ = load_reward(Base(model=place, layers=2), seed=0)
    assert torch.count_nonzero(one.score.weight) > 0
    assert torch.equal(one.score.weight, other.score.weight)


@pytest.mark.parametrize(
    ("load", "made", "says"),
    [
        (load_causal, {"auto": "AutoModelForSequenceClassification"}, "a sequence classifier: no causal"),
        (load_reward, {"auto": "AutoModelForSequenceClassification"}, "a classifier of 2 labels"),
        (load_causal, {"auto": "AutoModel"}, "no weights for lm_head.weight: .*language-model head"),
        (load_causal, {"kind": "vit", "auto": "AutoModel"}, "of type vit: no causal"),
        (load_reward, {"kind": "vit", "auto": "AutoModel"}, "of type vit: no reward"),
    ],
)  # fmt: skip
def test_a_model_of_another_kind_is_told(
    load: Any, made: dict[str, Any], says: str, folder: Folder
) -> None:
    with pytest.raises(TrainingError, match=says):
        load(Base(model=folder(**made)), seed=0)


def test_a_folder_that_holds_no_model_or_no_tokenizer_is_told(
    folder: Folder, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="there is no model in empty: it has no config.json"):
        load_causal(Base(model=tmp_path / "empty"), seed=0)
    place = folder()
    for path in place.glob("tok*"):
        path.unlink()
    with pytest.raises(TrainingError, match="model: its tokenizer cannot be loaded"):
        load_causal(Base(model=place), seed=0)
    (place / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(TrainingError, match="model: its "):
        load_backbone(Base(model=place), seed=0)
    (tmp_path / "weights.bin").touch()
    with pytest.raises(TrainingError, match="weights.bin is neither a folder nor a .gguf file"):
        load_causal(Base(model=tmp_path / "weights.bin"), seed=0)


def test_a_hub_id_is_not_mistaken_for_a_folder_here(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(name="org/name")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match="write ./org/name for the folder"):
        load_causal(Base(model="org/name"), seed=0)
    assert load_causal(Base.model_validate({"model": "./org/name"}), seed=0)


def test_a_hub_id_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TrainingError, match="smollm2-135m-instuct; did you mean 'smollm2-135m-in"):
        load_causal(Base(model="smollm2-135m-instuct"), seed=0)


def test_a_pad_token_is_found_or_the_end_is_taken(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    place = folder()
    settings = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}))
    model, tokenizer = load_causal(Base(model=place), seed=0)
    assert tokenizer.pad_token == "<pad>"  # it is in the vocabulary, though it was not set
    words = (place / "tokenizer.json").read_text().replace('"<pad>"', '"<other>"')
    (place / "tokenizer.json").write_text(words)
    caplog.clear()
    model, tokenizer = load_causal(Base(model=place), seed=0)
    assert tokenizer.pad_token == "<eos>"
    assert model.config.pad_token_id == tokenizer.eos_token_id
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)  # none was added
    assert "has no pad token: <eos> is used" in caplog.text
    settings = settings | {"pad_token": None, "eos_token": None}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(TrainingError, match="neither a pad token nor an end-of-sequence token"):
        load_causal(Base(model=place), seed=0)


def test_a_tokenizer_of_another_model_is_told(folder: Folder) -> None:
    with pytest.raises(TrainingError, match="has 25 tokens and the model reads 20"):
        load_causal(Base(model=folder(vocab_size=20)), seed=0)


def test_a_new_model_is_its_seeds_and_its_texts(cache: Path) -> None:
    base = Base(model=Scratch(config=LLAMA))
    one, tokenizer = load_causal(base, seed=1, texts=TEXTS)
    again, _ = load_causal(base, seed=1, texts=reversed(TEXTS))
    other, _ = load_causal(base, seed=2, texts=TEXTS)
    assert same(one, again)
    assert not same(one, other)
    assert same(one, by_name(one))
    assert one.config.vocab_size == len(tokenizer)
    ends = {name: getattr(one.config, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    assert ends == {name: getattr(tokenizer, f"{name}_token_id") for name in ends}
    assert len(list((cache / "new").iterdir())) == 2
    shutil.rmtree(cache)
    made_anew, _ = load_causal(base, seed=1, texts=TEXTS)
    assert same(one, made_anew)


def test_a_new_model_may_tie_its_embeddings_or_use_a_tokenizer_that_is_there(
    folder: Folder,
) -> None:
    tied = Scratch(config=LLAMA | {"tie_word_embeddings": True})
    model, _ = load_causal(Base(model=tied), seed=0, texts=TEXTS)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    given = Scratch(config=LLAMA, tokenizer=folder())
    model, tokenizer = load_causal(Base(model=given), seed=0)
    assert model.config.vocab_size == len(tokenizer) == 25
    reward, _ = load_reward(Base(model=given), seed=0)
    assert reward.num_labels == 1


def test_a_tokenizer_that_transformers_would_read_as_another_is_told(cache: Path) -> None:
    base = Base(model=Scratch(config=LLAMA | {"model_type": "qwen2"}))
    with pytest.raises(
        TrainingError, match="reads the tokenizer of a new model otherwise beside a q"
    ):
        load_causal(base, seed=0, texts=TEXTS)
    assert list((cache / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "`config` needs a `model_type` that transformers knows"),
        ({"model_type": "lama"}, "not 'lama'; did you mean 'llama'"),
        (LLAMA | {"hiden_size": 8}, "has no key 'hiden_size'; did you mean 'hidden_size'"),
        (LLAMA | {"hidden_size": "big"}, "`config` of a llama: .*hidden_size"),
        (LLAMA | {"vocab_size": 5}, "is less than the 25 tokens of the tokenizer"),
        ({"model_type": "vit"}, "no model has this configuration"),
        (LLAMA | {"num_attention_heads": 0}, "`config` of a llama|no model has this config"),
    ],
)
def test_a_configuration_that_cannot_be_is_told(config: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        load_causal(Base(model=Scratch(config=config)), seed=0, texts=TEXTS)


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine_train import memory

    place = folder()
    monkeypatch.setattr(memory, "available", lambda device: 100_000)
    with pytest.raises(TrainingError, match="model has 0.0 billion weights, .*`layers: N`"):
        load_causal(Base(model=place), seed=0)


def test_quantization_needs_a_device_that_is_here(folder: Folder) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(TrainingError, match="`quantization: 4bit` needs a CUDA device"):
        load_causal(Base(model=folder(), quantization="4bit"), seed=0)


def test_adapters_are_merged_into_what_they_adapt(folder: Folder, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    place = folder()
    model, _ = load_causal(Base(model=place), seed=0)
    plain = logits(model)
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.1)
    wanted = logits(adapted)
    adapted.save_pretrained(tmp_path / "adapters")
    found, tokenizer = load_causal(Base(model=tmp_path / "adapters"), seed=0)
    assert torch.allclose(logits(found), wanted, atol=1e-5)
    assert not torch.allclose(wanted, plain, atol=1e-3)
    assert tokenizer.pad_token == "<pad>"
    assert same(found, by_name(found))
    settings = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "artifact:00:1"
    (tmp_path / "adapters" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(TrainingError, match="adapters of a model that is not named, or is in a st"):
        load_causal(Base(model=tmp_path / "adapters"), seed=0)
    found, _ = load_causal(Base(folder=tmp_path / "adapters", adapts=place), seed=0)
    assert torch.allclose(logits(found), wanted, atol=1e-5)


class Blobs:
    """Blobs that lie in a folder under their digests."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, artifact: Artifact) -> Path:
        return self.root / artifact.digest


def test_a_rows_artifact_wins_and_is_loaded_as_the_configuration_says(tmp_path: Path) -> None:
    (tmp_path / "aa").mkdir()
    blobs: Any = Blobs(tmp_path)
    made = Artifact("aa", "application/x-transformers", 7, folder=True)
    base = Base.of(Source(model="org/name", layers=2), made, blobs)
    assert (base.folder, base.layers, base.model) == (tmp_path / "aa", 2, None)
    assert base.name == base.reference == "artifact:aa:7"
    assert Base.of("org/name", None, blobs) == Base(model="org/name")
    adapter = tmp_path / "aa" / "adapter_config.json"
    adapter.write_text('{"base_model_name_or_path": "artifact:bb:9"}')
    assert Base.of(None, made, blobs).adapts == tmp_path / "bb"
    adapter.write_text('{"base_model_name_or_path": "org/name"}')
    assert Base.of(None, made, blobs).adapts == "org/name"
    for nothing in (None, Source(layers=2)):
        with pytest.raises(TrainingError, match="there is no model to begin with: say `with: {mo"):
            Base.of(nothing, None, blobs)


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("org/name", False),
        ("org/repo/file.gguf", False),
        ("smollm2-135m-instruct", False),
        ("./name", True),
        ("../name", True),
        ("~/name", True),
        ("name/", True),
        ("file.gguf", True),
        ("models/file.gguf", True),
    ],
)
def test_what_looks_like_a_path_is_one(said: str, path: bool) -> None:
    found = Source.model_validate({"model": said}).model
    assert isinstance(found, Path) == path
    assert str(found) == str(Path(said))
    base = Base(model=found)
    assert Base.model_validate(base.model_dump(mode="json")) == base or said.rstrip("/").endswith(
        "name"
    )
    assert base.reference == ("" if path else said)
