"""How a model is loaded to answer, and what tells it from every other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import orjson

from engine.chat import Feature, Sampling
from engine.chat.weights import CARRIED, digest_file, find_weights
from engine.errors import ResourceError
from engine_train.bases import Base, load_causal
from engine_train.errors import TrainingError
from engine_train.generating import Decoder

__all__ = ["CAN", "DEFAULTS", "Dtype", "Serving", "identify", "no_bars", "pinned"]

Dtype = Literal["float32", "bfloat16", "float16"]

CAN: frozenset[Feature] = frozenset(("banned", "logprobs", "prefix", "seed"))

DEFAULTS = Sampling(
    temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, repeat_penalty=1.0, max_tokens=512
)
"""Those of `embedded.chat`: a model and its GGUF are sampled alike."""


@dataclass(frozen=True)
class Serving:
    """What is the same for all models that one resource serves."""

    device: str | None
    dtype: Dtype | None
    slots: int
    context: int | None
    deadline: float
    template: Path | None
    sampling: Sampling

    @cached_property
    def _template(self) -> str | None:
        return None if self.template is None else self.template.read_text("utf-8")

    @property
    def identity(self) -> str:
        """All that changes a reply, but for the model."""
        template = "its own template"
        if self._template is not None:
            digest = blake2b(self._template.encode(), digest_size=16).hexdigest()
            template = f"template {digest}"
        dtype = f"{self.dtype}, " if self.dtype else ""
        return f"{dtype}{template}, {self.sampling.model_dump_json(exclude_defaults=True)}"

    def load(self, base: Base) -> tuple[Any, Any]:
        """Return a model, on its device, and its tokenizer. Raises TrainingError."""
        device = self.pick()
        base = base.model_copy(update={"dtype": self._held(device)})
        with no_bars():
            model, tokenizer = load_causal(base, seed=0)
        return model.to(device).eval(), tokenizer

    def decoder(self, model: Any, tokenizer: Any, name: str) -> Decoder:
        """Return what answers calls with a model. Raises TrainingError where it cannot chat."""
        return Decoder(
            model,
            tokenizer,
            name=name,
            slots=self.slots,
            context=self.context,
            template=self._template,
        )

    def pick(self) -> str:
        """Return the device. Raises TrainingError for one that is not here."""
        import torch

        if self.device is None:
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.empty(0, device=self.device)
        except (AssertionError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise TrainingError(f"`device: {self.device}` is not here: {reason}") from error
        return self.device

    def _held(self, device: str) -> Dtype:
        import torch

        if self.dtype is not None:
            return self.dtype
        fast = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        return "bfloat16" if fast else "float32"


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep transformers' progress bars from the terminal, where the run's own view is."""
    logging: Any = import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def pinned(base: Base) -> Base:
    """Return the base with the commit that its Hub id stands for now, so that it loads as such.

    Raises TrainingError for a model that neither the Hub nor its cache has.
    """
    if base.folder is not None or not isinstance(base.model, str) or _is_file(base.model):
        return base
    from engine_train.places import read_config

    commit = getattr(read_config(base.model, base.revision), "_commit_hash", None)
    return base.model_copy(update={"revision": commit or base.revision})


def identify(base: Base) -> str:
    """Return what tells a model from every other; of a Hub id that is pinned, its commit.

    A folder has the digest that it has as an Artifact. Raises TrainingError for what is no model.
    """
    if base.artifact is not None:
        return f"{base.artifact.split(':')[1]}{_adapted(base.folder, base.adapts)}"
    if base.folder is not None:
        return _folder(base.folder, base.adapts)
    if isinstance(base.model, Path) and base.model.expanduser().is_dir():
        return _folder(base.model.expanduser(), None)
    if isinstance(base.model, (str, Path)) and _is_file(base.model):
        try:
            return f"gguf {digest_file(find_weights(str(base.model)))}"
        except ResourceError as error:
            raise TrainingError(str(error)) from error
    if isinstance(base.model, str):
        return f"{base.model}@{base.revision or 'main'}"
    raise TrainingError(
        f"there is no model at {base.name}: give a folder, a .gguf file or a Hub id"
    )


def _is_file(model: str | Path) -> bool:
    return str(model) in CARRIED or str(model).endswith(".gguf")


def _folder(folder: Path, adapts: str | Path | None) -> str:
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise TrainingError(
            f"there is no model in {folder.name}: it has no config.json, nor an adapter_config.json"
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    status = [(path, path.stat()) for path in files]
    seen = tuple((str(path), s.st_size, s.st_mtime_ns) for path, s in status)
    return f"{_digest(folder, seen)}{_adapted(folder, adapts)}"


@lru_cache(maxsize=64)
def _digest(folder: Path, seen: tuple[tuple[str, int, int], ...]) -> str:
    """Return a folder's digest as the store's blobs have it; read once while nothing changes."""
    manifest = [
        [Path(path).relative_to(folder).as_posix(), digest_file(Path(path)), size]
        for path, size, _ in seen
    ]
    return blake2b(orjson.dumps(manifest), digest_size=16).hexdigest()


def _adapted(folder: Path | None, adapts: str | Path | None) -> str:
    """Return the identity of the model that a folder's adapters adapt, or ""."""
    settings = None if folder is None else folder / "adapter_config.json"
    if settings is None or not settings.is_file():
        return ""
    read = orjson.loads(settings.read_bytes())
    named = str(read.get("base_model_name_or_path") or "")
    if named.startswith("artifact:"):
        return f" on {named.split(':')[1]}"
    under = Base(model=adapts or named, revision=read.get("revision"))
    return f" on {identify(pinned(under))}"
