"""Tiny models of several kinds, in folders and in a GGUF file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXTS = ["red green blue, one two three!", "four five six; say go run sit."]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what is made in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "st-engine"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write a causal model with random weights, and a tokenizer, to a folder."""

    def write(
        kind: str = "llama",
        name: str = "model",
        *,
        auto: str = "AutoModelForCausalLM",
        **config: Any,
    ) -> Path:
        import torch
        import transformers
        from engine_train.words import word_tokenizer

        tokenizer, _ = word_tokenizer(TEXTS)
        ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
        settings = SIZES | ids | {"vocab_size": len(tokenizer)} | config
        torch.manual_seed(1)
        described = transformers.AutoConfig.for_model(kind, **settings)
        model = getattr(transformers, auto).from_config(described)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


def permuted(weight: Any, heads: int) -> Any:
    """Return a query or key projection as llama.cpp orders its rows."""
    rows, columns = weight.shape
    parts = weight.reshape(heads, 2, rows // heads // 2, columns)
    return parts.swapaxes(1, 2).reshape(rows, columns)


@pytest.fixture
def gguf_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a llama to a GGUF file; return its path."""

    def write(model: Any, *, quantized: bool = False) -> Path:
        path = tmp_path / "tiny.gguf"
        write_gguf(model, path, quantized)
        return path

    return write


def write_gguf(model: Any, path: Path, quantized: bool) -> None:
    """Write a llama to a GGUF file, with a byte-level tokenizer and a chat template."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    letters = [chr(ord("!") + i) for i in range(config.vocab_size - 3)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<end>", *letters, '!"', "<start>"])
    writer.add_token_types([3] + [1] * len(letters) + [1, 3])
    writer.add_token_merges(['! "'])
    writer.add_bos_token_id(config.vocab_size - 1)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}<end>{% endfor %}")
    names = {"embed_tokens": "token_embd", "lm_head": "output", "norm": "output_norm"}
    inner = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, weight in model.state_dict().items():
        bare = name.removeprefix("model.").removesuffix(".weight")
        if bare.startswith("layers."):
            _, number, part = bare.split(".", 2)
            bare = f"blk.{number}.{inner[part]}"
        data = weight.float().numpy()
        if bare.endswith(("attn_q", "attn_k")):
            heads = config.num_attention_heads if bare[-1] == "q" else config.num_key_value_heads
            data = permuted(data, heads)
        kind = gguf.GGMLQuantizationType.Q8_0
        if quantized and data.ndim == 2:
            writer.add_tensor(
                f"{names.get(bare, bare)}.weight", gguf.quantize(data, kind), raw_dtype=kind
            )
        else:
            writer.add_tensor(f"{names.get(bare, bare)}.weight", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
