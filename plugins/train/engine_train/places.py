"""Where a base model lies, as a folder or Hub id that transformers loads, and what loads it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.chat.weights import CARRIED, find_weights
from engine.errors import ResourceError, nearest
from engine_train.errors import TrainingError
from engine_train.gguf import cached, dequantised
from engine_train.spelling import write_tokenizer

if TYPE_CHECKING:
    from engine_train.bases import Base, Scratch

__all__ = ["find", "fit", "read_config", "read_model", "read_tokenizer"]

PADS = ("<pad>", "<|pad|>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>")
"""Tokens that vocabularies have for padding, though no pad token is set."""

_log = logging.getLogger(__name__)


def find(base: Base, *, seed: int, texts: Iterable[str]) -> str | Path:
    """Return the folder or Hub id of a base; what has to be made for it is kept in the cache.

    Raises TrainingError for a name that leads nowhere.
    """
    from engine_train.bases import Scratch

    if base.folder is not None:
        place: str | Path = base.folder
    elif isinstance(base.model, Scratch):
        place = _new(base.model, seed, texts)
    elif base.model is None:
        raise TrainingError("there is no model to begin with")
    else:
        place = _locate(base.model, base.revision)
    if isinstance(place, Path) and (place / "adapter_config.json").exists():
        place = _merged(place, base.adapts)
    return place if base.layers is None else _shortened(place, base.layers, base)


def read_config(place: str | Path, revision: str | None = None) -> Any:
    """Return a model's configuration. Raises TrainingError where there is none."""
    from transformers import AutoConfig

    if isinstance(place, Path) and not (place / "config.json").is_file():
        raise TrainingError(f"there is no model in {place.name}: it has no config.json")
    with _Told(place):
        return AutoConfig.from_pretrained(place, revision=revision)


def read_tokenizer(place: str | Path, revision: str | None = None) -> Any:
    """Return a model's tokenizer. Raises TrainingError where there is none."""
    from transformers import AutoTokenizer

    with _Told(place, "its tokenizer"):
        return AutoTokenizer.from_pretrained(place, revision=revision)


def read_model(
    auto: Any, place: str | Path, revision: str | None = None, **settings: Any
) -> tuple[Any, set[str]]:
    """Return a model, and the names of the weights that it should have and has not.

    Raises TrainingError for what cannot be loaded.
    """
    with _Told(place, "its weights"):
        model, seen = auto.from_pretrained(
            place, revision=revision, output_loading_info=True, **settings
        )
    return model, set(seen["missing_keys"])


def fit(model: Any, tokenizer: Any, name: str) -> None:
    """Give the tokenizer a pad token of its vocabulary, and the model the same.

    No embedding is added: raises TrainingError where the model has too few for the tokenizer.
    """
    if tokenizer.pad_token_id is None:
        known = tokenizer.get_vocab()
        pad = next((token for token in PADS if token in known), tokenizer.eos_token)
        if pad is None:
            raise TrainingError(
                f"the tokenizer of {name} has neither a pad token nor an end-of-sequence token "
                "that could stand for it: set `pad_token` in its tokenizer_config.json"
            )
        tokenizer.pad_token = pad
        _log.warning("the tokenizer of %s has no pad token: %s is used", name, pad)
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise TrainingError(
            f"the tokenizer of {name} has {len(tokenizer)} tokens and the model reads {rows}: they "
            "do not belong together"
        )
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def _locate(name: str | Path, revision: str | None) -> str | Path:
    if isinstance(name, Path) and name.expanduser().is_dir():
        return name.expanduser().resolve()
    if isinstance(name, Path) or name in CARRIED or name.endswith(".gguf"):
        if isinstance(name, Path) and name.suffix != ".gguf":
            raise TrainingError(f"{name.name} is neither a folder nor a .gguf file")
        if revision is not None:
            raise TrainingError(f"`revision` is of a Hub id, and {name} is none: leave it out")
        try:
            return dequantised(find_weights(str(name)))
        except ResourceError as error:
            raise TrainingError(str(error)) from error
    if Path(name).exists():
        raise TrainingError(
            f"{name!r} is the name of a model on the Hub, and of a folder here: write ./{name} for "
            "the folder, or run elsewhere"
        )
    return name


def _new(scratch: Scratch, seed: int, texts: Iterable[str]) -> Path:
    """Return the folder of a model with random weights, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    from engine_train.words import word_tokenizer

    if scratch.tokenizer == "words":
        tokenizer, unknown = word_tokenizer(texts, words=scratch.words, max_words=scratch.max_words)
        if unknown:
            _log.warning("%d words of the dataset are unknown to the tokenizer", unknown)
    else:
        tokenizer = read_tokenizer(_locate(scratch.tokenizer, None))
    config = _described(scratch.config, tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    made_by = [version("torch"), version("transformers"), tokenizer.chat_template]
    key = _digest(config.to_dict(), words, seed, made_by)

    def make(folder: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
                raise TrainingError(f"no model has this configuration: {_reason(error)}") from error
        model.save_pretrained(folder)
        write_tokenizer(tokenizer, folder, config.vocab_size, "a new model")

    return cached(f"new/{key}", make)


def _described(given: dict[str, Any], tokenizer: Any) -> Any:
    """Return a configuration that suits a tokenizer; its keys must be those of its type."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = str(given.get("model_type", ""))
    if kind not in CONFIG_MAPPING_NAMES:
        near = nearest(kind, CONFIG_MAPPING_NAMES, say="; did you mean {!r}?")
        raise TrainingError(
            f"`config` needs a `model_type` that transformers knows (llama, qwen2, gpt_neox ...), "
            f"not {kind!r}{near}"
        )
    known = {*(usual := AutoConfig.for_model(kind)).to_dict(), *usual.attribute_map}
    for key in given:
        if key not in known:
            near = nearest(key, known, say="; did you mean {!r}?")
            raise TrainingError(f"`config` of a {kind} has no key {key!r}{near}")
    size = given.get("vocab_size", len(tokenizer))
    if size < len(tokenizer):
        raise TrainingError(
            f"`config: {{vocab_size: {size}}}` is less than the {len(tokenizer)} tokens of the "
            "tokenizer: leave it out, or set `max_words`"
        )
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in _ENDS}
    settings = {key: value for key, value in given.items() if key != "model_type"}
    try:
        return AutoConfig.for_model(kind, **(ids | settings | {"vocab_size": size}))
    except Exception as error:  # huggingface_hub's own for a value of a wrong type
        raise TrainingError(f"`config` of a {kind}: {_reason(error)}") from error


_ENDS = ("pad", "bos", "eos")


def _merged(place: Path, adapts: str | Path | None) -> Path:
    """Return the folder of a model into which its adapters, those in `place`, are merged."""
    from peft import PeftModel

    settings = json.loads((place / "adapter_config.json").read_text("utf-8"))
    under = adapts or settings.get("base_model_name_or_path") or ""
    if not under or str(under).startswith("artifact:"):
        raise TrainingError(
            f"{place.name} holds adapters of a model that is not named, or is in a store: train it "
            "with `tuning: {save: merged}`, or merge it there"
        )
    revision = settings.get("revision")
    if isinstance(under, str) and Path(under).is_dir():
        under = Path(under)  # adapters that were trained elsewhere name their folder so
    base = _locate(under, revision)

    def make(folder: Path) -> None:
        auto = _architecture(base, revision, settings)
        # A causal model says nothing of labels, and transformers would take two.
        more = {"num_labels": 1} if settings.get("task_type") == "SEQ_CLS" else {}
        model, _ = read_model(auto, base, revision, dtype="auto", **more)
        with _Told(place, "its adapters"):
            model = PeftModel.from_pretrained(model, place).merge_and_unload()
        model.save_pretrained(folder)
        own = (place / "tokenizer_config.json").exists()
        tokenizer = read_tokenizer(place) if own else read_tokenizer(base, revision)
        tokenizer.save_pretrained(folder)

    return cached(f"merged/{_digest(_seen(place), _seen(base, revision))}", make)


def _shortened(place: str | Path, layers: int, base: Base) -> str | Path:
    """Return the folder of a model's first layers."""
    config = read_config(place, base.revision)
    part = config.get_text_config()
    depth = part.num_hidden_layers
    if layers > depth:
        raise TrainingError(f"`layers: {layers}`: {base.name} has {depth}")
    if layers == depth:
        return place
    for name, value in list(vars(part).items()):
        if isinstance(value, list) and len(value) == depth:
            setattr(part, name, value[:layers])  # such as `layer_types`
    part.num_hidden_layers = layers

    def make(folder: Path) -> None:
        auto = _architecture(place, base.revision, {})
        model, _ = read_model(auto, place, base.revision, config=config, dtype="auto")
        model.save_pretrained(folder)
        read_tokenizer(place, base.revision).save_pretrained(folder)

    return cached(f"layers/{_digest(_seen(place, base.revision), layers)}", make)


def _architecture(place: str | Path, revision: str | None, adapter: dict[str, Any]) -> Any:
    """Return the class that loads a checkpoint with all that it has."""
    import transformers

    if adapter.get("task_type") == "SEQ_CLS":
        return transformers.AutoModelForSequenceClassification
    names = read_config(place, revision).architectures or ()
    found = [getattr(transformers, name) for name in names if hasattr(transformers, name)]
    return found[0] if found else transformers.AutoModelForCausalLM


def _seen(place: str | Path, revision: str | None = None) -> list[Any]:
    """Return what tells whether a model is still the same, at little cost."""
    if isinstance(place, str):
        return [place, getattr(read_config(place, revision), "_commit_hash", None)]
    status = [(path, path.stat()) for path in sorted(place.iterdir())]
    return [str(place), *([path.name, s.st_size, s.st_mtime_ns] for path, s in status)]


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


class _Told:
    """Turns what transformers raises for a model that it cannot load into a TrainingError."""

    def __init__(self, place: str | Path, what: str = "the model") -> None:
        self._place, self._what = place, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        from engine_train.memory import ran_out

        if not isinstance(error, Exception) or isinstance(error, TrainingError) or ran_out(error):
            return
        if isinstance(self._place, Path):
            where, advice = self._place.name, "give a folder that transformers loads"
        else:
            near = nearest(self._place, CARRIED, say="; did you mean {!r}?")
            where = f"{self._place}{near}"
            advice = "write ./FOLDER for a folder here; a Hub id needs the network, and access"
        raise TrainingError(
            f"{where}: {self._what} cannot be loaded ({_reason(error)}); {advice}"
        ) from error
