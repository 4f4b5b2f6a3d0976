"""Texts as vectors: which of them say the same, and how many different things all of them say."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from engine import InputPath
from engine.errors import ResourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

__all__ = ["Embed", "Name", "centred", "load", "vendi"]


def _named(name: str | Path) -> str | Path:
    text = str(name)
    return Path(text) if text.startswith(("./", "../", "/", "~")) or text.endswith("/") else text


Name = Annotated[str | InputPath, AfterValidator(_named)]
"""A Hub id, or a folder: what begins with `./`, `../`, `/` or `~`, or ends with `/`.

A folder is relative to the pipeline file, and counted by its content.
"""

Embed = Callable[[Sequence[str]], "Vectors"]
"""Texts to unit vectors, one row each."""

GRAM = 4
WIDTH = 1024
BATCH = 64
_FILES = ["*.json", "*.safetensors", "*.txt", "*/*.json", "*/*.safetensors"]


@cache
def load(name: str | Path | None = None) -> Embed:
    """Return what turns texts into unit vectors.

    `name` is a folder, or an id on the Hugging Face Hub, of a static table of token vectors
    (model2vec) or of a sentence-transformers model with mean pooling. Without a name, vectors are
    hashed character 4-grams weighted by TF-IDF over the texts of one call: these see copied
    wording and are blind to paraphrase, so they are for reports and never for removal.
    Raises ResourceError where there is no such model, or a library for it is missing.
    """
    if name is None:
        return _grams
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _downloaded(str(name))
    make = _transformer if _is_transformer(folder) else _static
    return make(folder, str(name))


def centred(vectors: Vectors) -> Vectors:
    """Return unit vectors around the mean of all: what sets each text apart from its fellows.

    Texts on one subject all look alike as they are.
    """
    return _unit(vectors - vectors.mean(axis=0, keepdims=True)) if len(vectors) else vectors


def vendi(vectors: Vectors) -> float:
    """Return how many different texts there are in effect: from 1, all the same, to their number.

    The Vendi score of Friedman and Dieng (2022, arXiv 2210.02410): the exponential of the entropy
    of the eigenvalues of the texts' cosine similarities over their number. Where there are more
    texts than dimensions the dual form is taken, X'X in place of XX': it has the same eigenvalues.
    """
    import numpy as np

    count, width = vectors.shape
    if not count:
        return 0.0
    unit = _unit(vectors).astype(np.float64)
    gram = unit.T @ unit if count > width else unit @ unit.T
    values = np.linalg.eigvalsh(gram)
    total = values.sum()
    if total <= 0:  # around their mean, texts that are all the same are nothing
        return 1.0
    shares = values[values > 1e-12 * total] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _unit(vectors: Vectors) -> Vectors:
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # Vectors that are equal but for rounding are zero around their mean, not noise.
    return np.where(lengths > 1e-5, vectors / np.maximum(lengths, 1e-5), 0).astype(np.float32)


def _grams(texts: Sequence[str]) -> Vectors:
    import numpy as np

    counts = np.zeros((len(texts), WIDTH), np.float32)
    for row, text in zip(counts, texts, strict=True):
        plain = " ".join(str(text).casefold().split())
        for at in range(max(1, len(plain) - GRAM + 1)):
            row[zlib.crc32(plain[at : at + GRAM].encode("utf-8", "surrogatepass")) % WIDTH] += 1
    found = (counts > 0).sum(axis=0)
    return _unit(counts * np.log((1 + len(texts)) / (1 + found) + 1).astype(np.float32))


def _downloaded(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise _missing(name, "model2vec", error) from error
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:
        raise ResourceError(
            f"embedding {name!r}: there is no such folder, and the Hugging Face Hub gave no model "
            f"of that name ({type(error).__name__}); give a folder, or an id that can be reached"
        ) from error


def _is_transformer(folder: Path) -> bool:
    """Return whether a folder holds a sentence-transformers model, not a table."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return False
    kinds = [str(module.get("type", "")) for module in json.loads(modules.read_text("utf-8"))]
    return any(kind.endswith("Transformer") for kind in kinds)


def _static(folder: Path, name: str) -> Embed:
    try:
        from model2vec import StaticModel
    except ImportError as error:
        raise _missing(name, "model2vec", error) from error
    try:
        model = StaticModel.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ResourceError(f"embedding {name!r}: no model can be read from it: {error}") from error

    def embed(texts: Sequence[str]) -> Vectors:
        return _unit(model.encode([str(text) for text in texts], use_multiprocessing=False))

    return embed


def _transformer(folder: Path, name: str) -> Embed:
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise _missing(name, "torch and transformers", error) from error
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.is_file() and not _pools_means(json.loads(pooling.read_text("utf-8"))):
        raise ResourceError(f"embedding {name!r}: only models with mean pooling can be used")
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # the terminal is the run's own view
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder).eval()
    finally:
        if bars:
            logging.enable_progress_bar()
    longest = getattr(model.config, "max_position_embeddings", None)

    def embed(texts: Sequence[str]) -> Vectors:
        import numpy as np

        means = [np.zeros((0, model.config.hidden_size), np.float32)]
        for at in range(0, len(texts), BATCH):
            part = [str(text) for text in texts[at : at + BATCH]]
            tokens = tokenizer(
                part, padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            with torch.inference_mode():
                states = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1)
            means.append(((states * mask).sum(1) / mask.sum(1)).numpy())
        return _unit(np.concatenate(means))

    return embed


def _pools_means(config: dict[str, Any]) -> bool:
    return bool(config.get("pooling_mode_mean_tokens") or config.get("pooling_mode") == "mean")


def _missing(name: str, library: str, error: ImportError) -> ResourceError:
    return ResourceError(
        f"embedding {name!r} needs {library}: pip install 'st-engine-pink-elephant[embedding]' "
        f"({error})"
    )
