"""What a training was told, as its card and its report show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine_train.jobs import Job

__all__ = ["every", "given", "settings"]

ARGS = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "optim", "weight_decay"),
    *("max_grad_norm", "max_length", "packing", "beta", "loss_type", "num_generations"),
    *("max_completion_length", "temperature", "num_iterations"),
)
"""The arguments of transformers and TRL that a reader asks for, given or not."""
REWARD = ("pooling", "max_prompt", "max_reply")


def settings(job: Job, config: Any, model: Any) -> dict[str, Any]:
    """Return what a training used, whoever chose it: of TRL's config and of the model's."""
    fitted = job.method == "reward" and job.tuning.tune == "head"  # without an optimizer's steps
    used = {} if fitted else {name: getattr(config, name, None) for name in ARGS}
    if job.method == "reward":
        used |= {name: getattr(model, f"reward_{name}", None) for name in REWARD}
    if (used.get("max_steps") or 0) <= 0:
        used.pop("max_steps", None)
    found = {name: getattr(value, "value", value) for name, value in used.items()}  # of enums
    return {name: value for name, value in found.items() if value is not None}


def given(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that somebody chose."""
    names = ("method", "base", "layers", "seed")
    chosen = {name: record[name] for name in names if record.get(name) is not None}
    if str(chosen.get("base")).startswith("artifact:"):  # its name is long, and read by nobody
        chosen["base"] = f"artifact {chosen['base'].split(':')[1][:12]}"
    chosen |= _chosen(record.get("tuning") or {})
    chosen |= dict(record.get("options") or {}) | dict(record.get("args") or {})
    if chosen["tune"] != "head":
        chosen.pop("l2", None)  # of the fit of a head alone
    return {name: shown(value) for name, value in _flat(chosen)}


def _chosen(tuning: Mapping[str, Any]) -> dict[str, Any]:
    """Return of the tuning what has a meaning: `lora` says nothing where all is trained."""
    kind = tuning.get("tune", "full")
    kept = {"tune": kind}
    if kind == "top":
        kept["top_layers"] = tuning.get("top_layers")
    if kind == "lora":
        kept |= {"lora": tuning.get("lora"), "save": tuning.get("save")}
    return kept


def every(record: Mapping[str, Any]) -> dict[str, str]:
    """Return all other settings, and the versions of what trained."""
    found = dict(record.get("settings") or {})
    found |= {name: record.get(name) for name in ("threads", "versions")}
    known = given(record)
    return {name: shown(value) for name, value in _flat(found) if name not in known}


def _flat(settings: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name}.")
        elif value is not None:
            yield f"{within}{name}", value


def shown(value: Any) -> str:
    """Return a setting as its YAML would say it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value))
    return repr(value) if isinstance(value, float) else str(value)
