"""Base models: where the weights that a training begins with come from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveInt

from engine import InputPath
from engine_train.errors import TrainingError

if TYPE_CHECKING:
    from engine import Artifact
    from engine.services import Blobs

__all__ = [
    "Base",
    "ModelSource",
    "Name",
    "Scratch",
    "Source",
    "load_backbone",
    "load_causal",
    "load_reward",
    "look",
]

Quantization = Literal["4bit", "8bit"]
MODEL = "application/x-transformers"
"""The media type of a model: a folder that transformers loads."""
NO_MODEL = (
    "there is no model to begin with: say `with: {model: ...}`, or `take: {base: FIELD}` for one "
    "that a stage made"
)


def _named(name: str | Path) -> str | Path:
    """Return a path for what looks like one: a Hub id has two parts, a GGUF on the Hub three."""
    text = str(name)
    within = text.endswith("/") or (text.endswith(".gguf") and text.count("/") < 2)
    return Path(text) if within or text.startswith(("./", "../", "/", "~")) else name


Name = Annotated[str | InputPath, AfterValidator(_named)]
"""A Hub id, a name of `engine.chat.weights.CARRIED`, a folder, or a GGUF file (here or on the Hub).

What begins with `./`, `../`, `/` or `~`, or ends with `/`, and a .gguf not below two folders, is a
path: relative to the pipeline file, counted by its content.
"""


class _Loading(BaseModel):
    """How weights are loaded, wherever they come from."""

    model_config = ConfigDict(extra="forbid")

    revision: str | None = None
    """The branch, tag or commit of a Hub id; a branch may move, a commit does not."""
    layers: PositiveInt | None = None
    """Keep the first so many layers."""
    quantization: Quantization | None = None
    """Load through bitsandbytes: needs a CUDA device, and LoRA as the tuning."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What the weights are held in; left out, float32: a step of 1e-6 is lost in less."""


class Source(_Loading):
    """A model and how to load it; `model` is left out where a row has the `base`."""

    model: Name | None = None


class Scratch(BaseModel):
    """A new model: random weights, drawn from the training's seed."""

    model_config = ConfigDict(extra="forbid")

    config: dict[str, Any]
    """A configuration of transformers: `model_type`, and whatever differs from its defaults."""
    tokenizer: Name = "words"
    """`words`: one is built of the words in the dataset. Else that of a folder or Hub id."""
    words: tuple[str, ...] = ()
    """Words that `words` knows though the dataset may not have them."""
    max_words: PositiveInt | None = None
    """How many words `words` knows: the most frequent."""


ModelSource = Name | Source


class Base(_Loading):
    """The model that a training begins with, as a worker is told."""

    model: Name | Scratch | None = None
    folder: Path | None = None
    """The bytes of a model Artifact: they win over `model`."""
    artifact: str | None = None
    """`artifact:DIGEST:SIZE` of `folder`."""
    adapts: str | Path | None = None
    """Where `folder` holds adapters: the model that they adapt."""

    @classmethod
    def of(
        cls, model: ModelSource | Scratch | None, artifact: Artifact | None, blobs: Blobs
    ) -> Base:
        """Return the base that a stage is given: a row's Artifact wins over the configured name.

        Raises TrainingError if there is neither.
        """
        loading = model.model_dump(exclude={"model"}) if isinstance(model, Source) else {}
        if artifact is not None:
            reference = f"artifact:{artifact.digest}:{artifact.size}"
            folder = blobs.path(artifact)
            adapts = _adapted(folder, blobs)
            return cls(folder=folder, artifact=reference, adapts=adapts, **loading)
        found = model.model if isinstance(model, Source) else model
        if found is None:
            raise TrainingError(NO_MODEL)
        return cls(model=found, **loading)

    @property
    def name(self) -> str:
        """What to call it: no path of a machine."""
        if self.artifact or self.folder:
            return self.artifact or "folder"
        if isinstance(self.model, Scratch):
            return f"new {self.model.config.get('model_type', 'model')}"
        return self.model.name if isinstance(self.model, Path) else str(self.model)

    @property
    def reference(self) -> str:
        """What finds it again anywhere: a Hub id, a carried name, an Artifact; else ""."""
        return (self.artifact or "") if self.folder else "" if self.local else str(self.model)

    @property
    def local(self) -> bool:
        """Whether it is found on this machine alone."""
        return self.folder is None and not isinstance(self.model, str)


def look(model: Name | Scratch | None) -> None:
    """Raise TrainingError for a path that holds no model, as far as its names tell."""
    if not isinstance(model, Path):
        return
    if model.suffix == ".gguf":
        with model.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise TrainingError(f"{model.name} is no GGUF file")
    elif not any((model / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise TrainingError(
            f"there is no model in {model.name}: a model's folder has a config.json, or an "
            "adapter_config.json"
        )


def load_causal(base: Base, *, seed: int, texts: Iterable[str] = ()) -> tuple[Any, Any]:
    """Return a causal language model and its tokenizer, which has a pad token.

    `seed` and `texts` make what a Scratch begins with. `model.config.name_or_path` is a folder, or
    a Hub id, that loads as this very model. Raises TrainingError for what is no such model.
    """
    return _load(base, "causal", seed, texts)


def load_reward(base: Base, *, seed: int, texts: Iterable[str] = ()) -> tuple[Any, Any]:
    """Return a sequence classifier with one label, and its tokenizer, which has a pad token.

    Of a causal model it has the backbone, under a head of zeros; a reward model keeps its head.
    Raises TrainingError where transformers has no classifier of the kind.
    """
    return _load(base, "reward", seed, texts)


def load_backbone(base: Base, *, seed: int, texts: Iterable[str] = ()) -> tuple[Any, Any]:
    """Return a model without a head, and its tokenizer, which has a pad token."""
    return _load(base, "backbone", seed, texts)


def _load(
    base: Base, kind: Literal["causal", "reward", "backbone"], seed: int, texts: Iterable[str]
) -> tuple[Any, Any]:
    import torch
    import transformers

    from engine_train import memory, places

    quantized = _quantized(base.quantization)
    place = places.find(base, seed=seed, texts=texts)
    config = places.read_config(place, base.revision)
    auto = {
        "causal": transformers.AutoModelForCausalLM,
        "reward": transformers.AutoModelForSequenceClassification,
        "backbone": transformers.AutoModel,
    }[kind]
    headed = any("ForSequenceClassification" in name for name in config.architectures or ())
    if type(config) not in auto._model_mapping or (kind == "causal" and headed):
        what = "a sequence classifier" if headed else f"of type {config.model_type}"
        wanted = {"causal": "causal language model", "reward": "reward model"}.get(kind, "backbone")
        raise TrainingError(f"{base.name} is {what}: no {wanted} can be made of it")
    if kind == "reward":
        if headed and config.num_labels != 1:
            raise TrainingError(
                f"{base.name} is a classifier of {config.num_labels} labels, and a reward is one "
                "number: begin with a language model, or with a reward model"
            )
        config.num_labels = 1
    tokenizer = places.read_tokenizer(place, base.revision)
    dtype = getattr(torch, base.dtype or "float32")
    if base.quantization is None:
        memory.check(memory.parameters(config), dtype.itemsize, base.name)
    model, missing = places.read_model(
        auto,
        place,
        base.revision,
        config=config,
        **({"dtype": dtype} | quantized),
    )
    if kind == "reward" and not headed:
        missing = _new_head(model, missing)
    if missing:
        raise TrainingError(
            f"{base.name} has no weights for {', '.join(sorted(missing)[:3])}"
            f"{' and others' if len(missing) > 3 else ''}: give a checkpoint that is whole"
            + (", with its language-model head" if kind == "causal" else "")
        )
    places.fit(model, tokenizer, base.name)
    return model, tokenizer


def _adapted(folder: Path, blobs: Blobs) -> str | Path | None:
    """Return what the adapters in a folder adapt, or None if it holds none."""
    import orjson

    from engine import Artifact

    settings = folder / "adapter_config.json"
    if not settings.exists():
        return None
    name = str(orjson.loads(settings.read_bytes()).get("base_model_name_or_path") or "")
    label, _, rest = name.partition(":")
    if label != "artifact":
        return name
    digest, _, size = rest.partition(":")
    return blobs.path(Artifact(digest, MODEL, int(size), folder=True))


def _new_head(model: Any, missing: set[str]) -> set[str]:
    """Make the head that a checkpoint lacks, of zeros; return what else it lacks."""
    import torch

    heads = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and f"{name}.weight" in missing
        if module.out_features == 1
    }
    for module in heads.values():
        for weight in module.parameters():
            torch.nn.init.zeros_(weight)
    return {name for name in missing if name.rpartition(".")[0] not in heads}


def _quantized(quantization: Quantization | None) -> dict[str, Any]:
    """Return how `from_pretrained` quantises. Raises TrainingError where it cannot."""
    if quantization is None:
        return {}
    import importlib.util

    import torch

    if not torch.cuda.is_available():
        raise TrainingError(
            f"`quantization: {quantization}` needs a CUDA device, and there is none here: leave it "
            "out, and train `layers: N` of the model, or a smaller one"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TrainingError(f"`quantization: {quantization}` needs `pip install bitsandbytes`")
    from transformers import BitsAndBytesConfig

    half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    settings = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=half,
        )
        if quantization == "4bit"
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    device = int(os.environ.get("LOCAL_RANK", "0"))
    return {"quantization_config": settings, "device_map": {"": device}, "dtype": half}
