"""Tokenizers that are written to a folder, and read again as the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine_train.errors import TrainingError

__all__ = ["write_tokenizer"]

PROBE = "Hello, world! It's 12345 red-green.\n  def f(x):\n\treturn x  # naïve, 東京"
WORDS = 64
"""How many of the vocabulary's first tokens are spelt, too."""


def write_tokenizer(tokenizer: Any, folder: Path, rows: int, name: str) -> None:
    """Write a tokenizer beside the model in a folder, which has embeddings for `rows` tokens.

    A token that transformers added beyond them, and no model has seen, is taken out again. Raises
    TrainingError where transformers would read what was written as another tokenizer: for some
    types of models it puts its own class over any that is there.
    """
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    _cut(folder, rows)
    try:
        read = AutoTokenizer.from_pretrained(folder)
        text = " ".join([PROBE, *sorted(read.get_vocab())[:WORDS]])
        alike = read(text)["input_ids"] == tokenizer(text)["input_ids"]
    except Exception:  # the tokenizers' own, as bare as this
        alike = False
    if not alike:
        kind = json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
        raise TrainingError(
            f"transformers reads the tokenizer of {name} otherwise beside a {kind}: take a model "
            "type that keeps it, such as llama, or give a folder or Hub id with its own tokenizer"
        )


def _cut(folder: Path, rows: int) -> None:
    """Take the tokens out that have no embedding."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    state = json.loads(path.read_text("utf-8"))
    beyond = {t["content"] for t in state.get("added_tokens", ()) if t["id"] >= rows}
    if not beyond:
        return
    state["added_tokens"] = [t for t in state["added_tokens"] if t["id"] < rows]
    path.write_text(json.dumps(state, ensure_ascii=False), "utf-8")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    settings.pop("added_tokens_decoder", None)
    kept = {name: value for name, value in settings.items() if str(value) not in beyond}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False), "utf-8")
