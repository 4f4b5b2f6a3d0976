"""Configuration files of DeepSpeed and accelerate, checked before a training begins."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from engine.errors import nearest
from engine_train.errors import TrainingError

__all__ = ["check_deepspeed", "check_launch"]

_KEYS = """
    activation_checkpointing aio autotuning bf16 checkpoint comms_logger communication_data_type
    compile compression_training csv_monitor curriculum_learning data_efficiency data_types
    dataloader_drop_last disable_allgather dump_state elasticity eigenvalue expert_parallel
    flops_profiler fp16 gradient_accumulation_steps gradient_allreduce_op gradient_clipping
    gradient_predivide_factor hybrid_engine log_level memory_breakdown monitor_config nebula
    optimizer pipeline prescale_gradients scheduler seq_parallel_communication_data_type
    sparse_attention sparse_gradients steps_per_print tensor_parallel tensorboard timers
    torch_autocast train_batch_size train_micro_batch_size_per_gpu
    use_data_before_expert_parallelism wall_clock_breakdown wandb weight_quantization
    zero_allow_untested_optimizer zero_force_ds_cpu_optimizer zero_optimization
"""
DEEPSPEED = frozenset(_KEYS.split())
"""The keys that stand at the top of a DeepSpeed configuration: it passes over others in silence."""


def check_deepspeed(given: str | Path | Mapping[str, Any]) -> None:
    """Check the file, or the mapping, that `args: {deepspeed: ...}` names.

    Raises TrainingError where it is no such configuration, or deepspeed is not installed.
    """
    label, settings = "deepspeed", given
    if isinstance(settings, (str, Path)):
        label, settings = f"deepspeed: {Path(settings).name}", _read(Path(settings), "deepspeed")
    _check_keys(label, settings, DEEPSPEED, certain=False)
    if "zero_optimization" in settings and not isinstance(settings["zero_optimization"], Mapping):
        raise TrainingError(f"{label}: `zero_optimization` should be a mapping, as {{stage: 2}}")
    if importlib.util.find_spec("deepspeed") is None:
        raise TrainingError(f"{label}: it needs `pip install deepspeed`, and a CUDA device")


def check_launch(file: Path) -> None:
    """Check a configuration of `accelerate launch`, as `accelerate config` writes it.

    Raises TrainingError where it is none.
    """
    from accelerate.commands.config.config_args import ClusterConfig

    label, settings = f"launch: {file.name}", _read(file, "launch")
    if settings.get("compute_environment", "LOCAL_MACHINE") != "LOCAL_MACHINE":
        raise TrainingError(f"{label}: only `compute_environment: LOCAL_MACHINE` can be launched")
    _check_keys(label, settings, ClusterConfig.__dataclass_fields__, certain=True)
    if settings.get("distributed_type") == "DEEPSPEED":
        inner = settings.get("deepspeed_config") or {}
        path = inner.get("deepspeed_config_file")
        check_deepspeed(_read(file.parent / path, "deepspeed_config_file") if path else {})


def _read(path: Path, name: str) -> dict[str, Any]:
    """Return the mapping that a JSON or YAML file holds."""
    if not path.is_file():
        raise TrainingError(f"`{name}`: there is no file {path.name}")
    try:
        text = path.read_text("utf-8")
        settings: Any = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise TrainingError(f"`{name}`: {path.name} is no {kind}: {reason}") from error
    if not isinstance(settings, dict):
        raise TrainingError(f"`{name}`: {path.name} should hold a mapping")
    return settings


def _check_keys(
    label: str, settings: Mapping[str, Any], known: Iterable[str], *, certain: bool
) -> None:
    known = list(known)
    for key in settings:
        near = nearest(str(key), known, say="; did you mean {!r}?")
        if key not in known and (certain or near):
            raise TrainingError(f"{label}: there is no key {key!r}{near}")
