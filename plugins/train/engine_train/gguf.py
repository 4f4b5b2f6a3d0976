"""GGUF files as folders that transformers loads: dequantised once, kept in a cache."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine.chat.weights import digest_file
from engine_train.disk import sync
from engine_train.errors import TrainingError
from engine_train.memory import ran_out
from engine_train.spelling import write_tokenizer

__all__ = ["cached", "dequantised"]

STALE = 86_400
"""Seconds after which what is half made is nobody's."""


def dequantised(file: Path) -> Path:
    """Return the folder of a GGUF's model in float32, its tokenizer and chat template.

    It is made at the first call, in `st-engine/dequantised` of the user's cache, named by the
    file's digest. Raises TrainingError for a file that transformers cannot read.
    """
    return cached(f"dequantised/{digest_file(file)}", lambda folder: _dequantise(file, folder))


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name` in the cache; `make` fills it where it is not there.

    It appears whole or not at all, whoever else makes it at the same time.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = root / "st-engine" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}-*"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        make(made)
        for path in made.rglob("*"):
            sync(path)
        made.chmod(0o755)  # mkdtemp's are the user's alone
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _dequantise(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
    except Exception as error:  # transformers', gguf's and the tokenizers' own, or any other
        if ran_out(error):
            raise
        reason = str(error).strip("'\"").partition("\n")[0]
        raise TrainingError(
            f"{file.name} cannot be read as a model ({type(error).__name__}: {reason}): give a "
            "GGUF of an architecture that transformers knows, or the model's folder or Hub id"
        ) from error
    # transformers takes a model that it read from a GGUF for quantised, and does not save it.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    write_tokenizer(tokenizer, folder, model.get_input_embeddings().num_embeddings, file.name)
