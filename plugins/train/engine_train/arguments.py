"""TRL's own arguments: checked before anything runs, and made into its configuration."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from engine import InputFile
from engine.errors import nearest
from engine_train.errors import TrainingError
from engine_train.launching import check_deepspeed, check_launch

__all__ = ["FILES", "READ", "build", "check", "check_launch"]

CONFIGS = {"sft": "SFTConfig", "reward": "RewardConfig", "dpo": "DPOConfig", "grpo": "GRPOConfig"}

FILES = ("accelerator_config", "chat_template_path", "deepspeed", "fsdp_config")
"""Arguments that may be the path of a file, which is relative to the pipeline file."""
READ: Any = InputFile.__metadata__[0]  # type: ignore[attr-defined]
"""Marks a stage's `args`: the files among them are to be there, and count by their content."""

LOSSES = (
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "bco_pair",
    "discopop",
    "exo_pair",
    "hinge",
    "ipo",
    "nca_pair",
    "robust",
    "sft",
    "sigmoid",
    "sigmoid_norm",
    "sppo_hard",
)
"""DPO's losses in TRL."""

_ARTIFACT = "the model is an Artifact: `artifact.write` puts it at a path"
_HUB = "`artifact.write` with `hub:` pushes the model"
_RESUMES = "a run that is run again goes on from its last checkpoint"
_SAVES = "checkpoints are the engine's; `save_steps` says how often, and the last model is kept"
_PLAIN = "a training is one process for each device; `launch:` of `train.workers` starts more"
_MODEL = "say it of the model: `model: {model: ..., revision: ..., dtype: ..., quantization: ...}`"
OWNED = {
    "output_dir": _ARTIFACT,
    "do_train": "a training stage trains",
    "do_eval": "give `held_out` to evaluate",
    "do_predict": "a training stage trains",
    "resume_from_checkpoint": _RESUMES,
    "overwrite_output_dir": _RESUMES,
    "ignore_data_skip": _RESUMES,
    "restore_callback_states_from_checkpoint": _RESUMES,
    "eval_on_start": "a training that goes on would evaluate again: `held_out` is at the end",
    "logging_strategy": "checkpoints fall on logs: say `logging_steps`, a share below 1 included",
    "save_strategy": _SAVES,
    "save_only_model": _SAVES,
    "save_on_each_node": _SAVES,
    "enable_jit_checkpoint": _SAVES,
    "load_best_model_at_end": _SAVES,
    "metric_for_best_model": _SAVES,
    "greater_is_better": _SAVES,
    "push_to_hub": _HUB,
    "logging_dir": "say `log_dir`, beside `args`",
    "seed": "rows carry a `seed`, and else it is the pipeline's",
    "local_rank": _PLAIN,
    "model_init_kwargs": _MODEL,
    "trust_remote_code": "code of the Hub is not run: take a model of transformers' own",
}
"""Arguments that are not the user's: why, and what to say instead."""

_PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "dvclive": "dvclive"}


def check(method: str, args: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a method, the files among them as paths.

    Raises ValueError for one that TRL does not have, or that the engine sees to, or whose value is
    of a wrong type, or cannot be: what it is, and what to do.
    """
    if not args:
        return args
    if method == "dpo" and isinstance(args.get("loss_type"), str):
        args = args | {"loss_type": [args["loss_type"]]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_names(method, args)
        _check_values(method, args)
    paths = {name for name in FILES if name in args and _is_path(name, args[name])}
    return {name: Path(value) if name in paths else value for name, value in args.items()}


def build(method: str, args: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    """Return TRL's configuration: `args`, and `defaults` where they say nothing.

    Without a device that computes in bfloat16, weights and steps are float32. Raises TrainingError
    for what this machine cannot do.
    """
    import torch
    import trl

    gpu = torch.cuda.is_available()
    half = gpu and torch.cuda.is_bf16_supported()
    _check_device(args, gpu, half)
    if args.get("use_cpu"):
        gpu = half = False
    usual = {"bf16": half and not args.get("fp16"), "gradient_checkpointing": gpu}
    if "activation_checkpointing" in args:
        del usual["gradient_checkpointing"]
    settings = {**usual, **defaults, **_check_files(args)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return getattr(trl, CONFIGS[method])(**settings)
        except (ImportError, ValueError) as error:
            raise TrainingError(f"args: {_sentence(error)}") from error


def _check_names(method: str, args: Mapping[str, Any]) -> None:
    known = {field.name for field in dataclasses.fields(_config(method)) if field.init}
    for name in args:
        if name in OWNED or name.startswith("hub_"):
            raise ValueError(f"`{name}` is not yours to set: {OWNED.get(name, _HUB)}")
        if name not in known:
            mine = sorted(known - OWNED.keys())
            near = nearest(str(name), mine, say="; did you mean {!r}?")
            raise ValueError(f"{CONFIGS[method]} has no argument {name!r}{near}")


def _check_values(method: str, args: Mapping[str, Any]) -> None:
    config = _config(method)
    hints = get_type_hints(config)
    fields = {field.name: field for field in dataclasses.fields(config)}
    for name, value in args.items():
        _check_type(name, value, hints[name])
        if method == "dpo" and name == "loss_type":
            for loss in value:
                if loss not in LOSSES:
                    raise ValueError(_unlike(name, loss, f"one or more of {', '.join(LOSSES)}"))
        choices = fields[name].metadata.get("choices")
        if choices and value not in choices:
            raise ValueError(_unlike(name, value, " or ".join(map(str, choices))))
    _check_trackers(args.get("report_to"))
    import torch

    gpu = torch.cuda.is_available()
    _check_device(args, gpu, gpu and torch.cuda.is_bf16_supported())
    _construct(method, config, args)


def _check_type(name: str, value: Any, hint: Any) -> None:
    for kind in get_args(hint):
        if isinstance(kind, type) and issubclass(kind, Enum) and isinstance(value, str):
            names = [str(member.value) for member in kind]
            if value not in names:
                near = nearest(value, names, say="; did you mean {!r}?")
                raise ValueError(f"{_unlike(name, value, ', '.join(names))}{near}")
            return
    try:
        TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(
            value, strict=True
        )
    except ValidationError as error:
        says = dict.fromkeys(e["msg"].removeprefix("Input should be ") for e in error.errors())
        raise ValueError(_unlike(name, value, " or ".join(says))) from None


def _check_trackers(report_to: str | list[str] | None) -> None:
    """Raise ValueError for a tracker that is not known, or not installed."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in [report_to] if isinstance(report_to, str) else report_to or ():
        if name in ("all", "none"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            near = nearest(name, INTEGRATION_TO_CALLBACK, say="; did you mean {!r}?")
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise ValueError(f"{_unlike('report_to', name, f'one of {known}')}{near}")
        module = "tensorboardX" if name == "tensorboard" and not _has(name) else name
        if not _has("azureml" if name == "azure_ml" else module):
            raise ValueError(f"`report_to: {name}` needs `pip install {_PACKAGES.get(name, name)}`")


def _check_device(args: Mapping[str, Any], gpu: bool, half: bool) -> None:
    """Raise TrainingError for arguments that need another device."""
    if args.get("use_cpu"):
        return
    if args.get("bf16") and not half:
        missing = "and this one has none" if gpu else "and there is no CUDA device here"
        raise TrainingError(f"`bf16: true` needs a device with bfloat16, {missing}: leave it out")
    if args.get("fp16") and not gpu:
        raise TrainingError(
            "`fp16: true` needs a CUDA device, and there is none here: leave it out"
        )
    if args.get("tf32") and not gpu:
        raise TrainingError(
            "`tf32: true` needs a CUDA device, and there is none here: leave it out"
        )


def _check_files(args: Mapping[str, Any]) -> dict[str, Any]:
    settings = {n: str(v) if isinstance(v, Path) else v for n, v in args.items()}
    if settings.get("deepspeed") is not None:
        check_deepspeed(settings["deepspeed"])
    for name in FILES:
        value = settings.get(name)
        if isinstance(value, str) and _is_path(name, value) and not Path(value).is_file():
            raise TrainingError(f"`{name}`: there is no file {Path(value).name}")
    return settings


def _construct(method: str, config: Any, args: Mapping[str, Any]) -> None:
    """Let TRL say what it thinks of the values together, without asking for a device."""
    import torch

    one = {"device": torch.device("cpu"), "world_size": 1, "n_gpu": 0}
    deviceless = type(config.__name__, (config,), one)
    machine = {*FILES, "bf16", "fp16", "tf32", "torch_compile", "report_to", "fsdp", "use_cpu"}
    settings = {name: value for name, value in args.items() if name not in machine}
    if method == "grpo" and "num_generations" in args:  # the batches follow it where none is said
        settings.setdefault("per_device_train_batch_size", args["num_generations"])
        settings.setdefault("per_device_eval_batch_size", args["num_generations"])
    try:
        deviceless(output_dir="unused", report_to="none", bf16=False, **settings)
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(_sentence(error)) from error


def _config(method: str) -> Any:
    import trl

    return getattr(trl, CONFIGS[method])


def _is_path(name: str, value: Any) -> bool:
    """Return whether an argument is a file: a chat template may be a model's as well."""
    if isinstance(value, Path) or not isinstance(value, str) or value.startswith("{"):
        return isinstance(value, Path)
    return name != "chat_template_path" or value.endswith(".jinja")


def _unlike(name: str, value: Any, expected: str) -> str:
    return f"`{name}` should be {expected}, not {value!r}"


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
