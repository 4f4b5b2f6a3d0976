"""What a training was told, as its card and its report show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["every", "given"]


def given(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that somebody chose."""
    names = ("method", "base", "layers", "seed")
    chosen = {name: record[name] for name in names if record.get(name) is not None}
    chosen |= _chosen(record.get("tuning") or {})
    chosen |= dict(record.get("options") or {}) | dict(record.get("args") or {})
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
    found |= {name: record.get(name) for name in ("tuning", "threads", "versions")}
    return {name: shown(value) for name, value in _flat(found)}


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
