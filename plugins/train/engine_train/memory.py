"""Memory: what a training needs, and what would fit."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine_train.errors import TrainingError

if TYPE_CHECKING:
    from engine_train.jobs import Job

__all__ = ["Plan", "available", "check", "estimate", "fits", "parameters", "plan", "ran_out"]

GIB = 1 << 30
WIDTHS, INNER = 6.5, 4
"""How often a layer keeps the hidden and the inner width of each token for the way back."""
LOGITS = 6
"""Copies of the logits at the peak: themselves, in float32, in the loss, and their gradients."""
OWN = {"cpu": GIB // 2, "cuda": GIB}
"""Bytes that Python, torch and its kernels take themselves."""
SAID = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
LONGEST = 8
"""Of how many of the longest rows (in characters) the tokens are counted."""


@dataclass(frozen=True)
class Plan:
    """What the memory of a training depends on."""

    parameters: int
    trained: int
    """Parameters that are trained."""
    layers: int
    """Layers that the gradients go back through."""
    hidden: int
    inner: int
    vocabulary: int
    batch: int
    """Rows at a time on a device."""
    tokens: int
    """Tokens of the longest row, all its sequences taken together."""
    spoken: int
    """Those of them whose logits are computed."""
    width: float = 4.0
    """Bytes of a weight."""
    checkpointing: bool = False
    reference: bool = False
    """Whether a second model is held to compare with."""
    device: str = "cpu"


def estimate(plan: Plan) -> int:
    """Return about how many bytes a step takes at its peak.

    Of seven trainings of SmolLM2's first 8 layers on the CPU, each took within a tenth of it.
    """
    weights = plan.parameters * plan.width * (2 if plan.reference else 1)
    states = plan.trained * (4 + 8)  # gradients, and AdamW's two moments
    each = 4 if plan.device == "cpu" else 2
    layer = WIDTHS * plan.hidden + INNER * plan.inner
    kept = plan.layers * plan.hidden + layer if plan.checkpointing else plan.layers * layer
    activations = plan.batch * plan.tokens * kept * each
    logits = plan.batch * plan.spoken * plan.vocabulary * 4 * LOGITS
    return int(OWN[plan.device] + weights + states + activations + logits)


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a device or of the machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(s in str(error).lower() for s in SAID)


def fits(error: BaseException | None, job: Job) -> str:
    """Return a sentence that says that memory ran out, and what would fit instead."""
    try:
        now = plan(job)
    except Exception:  # what cannot be estimated is told without figures
        return "memory ran out: " + "; ".join(_say(c) for c in _changes(job, None)) + " need less"
    room = available(now.device)
    where = "the GPU has" if now.device == "cuda" else "there are"
    offers = [(_say(change), estimate(smaller)) for change, smaller in _smaller(job, now)]
    fit = [offer for offer in offers if offer[1] <= room]
    listed = "; or ".join(f"{words} (about {_gib(size)})" for words, size in fit or offers)
    head = f"memory ran out: about {_gib(estimate(now))} are needed, and {where} {_gib(room)}"
    if fit:
        return f"{head}. What would fit: {listed}"
    return f"{head}. Alone none of these would fit, together they may: {listed}"


def check(parameters: int, width: float, name: str) -> None:
    """Raise TrainingError where the weights alone, of `width` bytes each, do not fit."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    needed, room = int(parameters * width), available(device)
    if needed > room:
        where = "the GPU has" if device == "cuda" else "this machine has"
        raise TrainingError(
            f"{name} has {parameters / 1e9:.1f} billion weights, {_gib(needed)}, and {where} "
            f"{_gib(room)}: keep its first layers (`layers: N`), take `dtype: bfloat16`"
            + (", `quantization: 4bit` with LoRA," if device == "cuda" else "")
            + " or a smaller model"
        )


def available(device: str) -> int:
    """Return the bytes of a device's memory, or those that this process may have."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[1])
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        path = Path("/sys/fs/cgroup") / limit
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


def parameters(config: Any) -> int:
    """Return how many weights a language model of a configuration has."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    causal = type(config) in AutoModelForCausalLM._model_mapping
    with torch.device("meta"):
        model: Any = (AutoModelForCausalLM if causal else AutoModel).from_config(config)
    return sum(weight.numel() for weight in model.parameters())


def plan(job: Job) -> Plan:
    """Return what the memory of a job's steps depends on. May load a tokenizer, and no weights."""
    import torch

    from engine_train import places
    from engine_train.data import load_rows, texts

    rows = load_rows(job.dataset)
    place = places.find(job.base, seed=job.seed, texts=texts(rows))
    config = places.read_config(place, job.base.revision)
    part = config.get_text_config()
    args = {**import_module(f"engine_train.{job.method}").defaults(job), **job.args}
    device = "cuda" if torch.cuda.is_available() and not args.get("use_cpu") else "cpu"
    tokenizer = places.read_tokenizer(place, job.base.revision)
    prompt, reply = _longest(rows, tokenizer, args.get("max_length"))
    said = int(args.get("max_completion_length") or 256)
    tokens, spoken = {
        "sft": (prompt + reply, prompt + reply),
        "reward": (prompt + 2 * reply, 0),
        "dpo": (2 * (prompt + reply), 2 * reply),
        "grpo": (prompt + said, said),
    }[job.method]
    held = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}[job.base.dtype or "float32"]
    whole = Plan(
        parameters=parameters(config),
        trained=0,
        layers=0,
        hidden=part.hidden_size,
        inner=getattr(part, "intermediate_size", None) or 4 * part.hidden_size,
        vocabulary=part.vocab_size,
        batch=int(args["per_device_train_batch_size"]),
        tokens=tokens,
        spoken=spoken,
        width={"4bit": 0.5, "8bit": 1.0}.get(job.base.quantization or "", held),
        checkpointing=_checkpointing(args, device),
        reference=job.method == "dpo" and not args.get("precompute_ref_log_probs"),
        device=device,
    )
    return _tuned(whole, job.tuning.tune, job.tuning.top_layers, job.tuning.lora.r, part)


def _checkpointing(args: Mapping[str, Any], device: str) -> bool:
    """Return whether layers are computed twice instead of kept: on GPUs, unless told otherwise."""
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        if args.get(name) is not None:
            return bool(args[name])
    return device == "cuda"


def _tuned(whole: Plan, tune: str, top: int, rank: int, part: Any) -> Plan:
    """Return a plan with what is trained: the depth of the gradients, and how many weights."""
    depth = part.num_hidden_layers
    embedding = part.vocab_size * part.hidden_size
    layer = max(0, whole.parameters - embedding) // depth
    if tune == "full":
        return dataclasses.replace(whole, trained=whole.parameters, layers=depth)
    if tune == "lora":  # seven linear layers, none wider than about four times the hidden width
        inside = min(layer, 7 * rank * 5 * part.hidden_size)
        return dataclasses.replace(whole, trained=inside * depth, layers=depth)
    layers = min(top, depth) if tune == "top" else 0
    return dataclasses.replace(whole, trained=layer * layers, layers=layers)


def _changes(job: Job, now: Plan | None) -> Iterator[dict[str, Any]]:
    """Yield what may be said to need less, the least costly first."""
    batch = now.batch if now else int(job.args.get("per_device_train_batch_size", 8))
    parts = int(job.args.get("gradient_accumulation_steps", 1))
    if batch > 1 and job.method != "grpo":  # there a batch is a group
        yield {
            "per_device_train_batch_size": batch // 2,
            "gradient_accumulation_steps": parts * 2,
        }
    if not (now and now.checkpointing):
        yield {"gradient_checkpointing": True}
    if job.tuning.tune == "full":
        yield {"tune": "lora"}
    if job.tuning.tune in ("full", "lora"):
        yield {"tune": "top", "top_layers": 4}
    if job.tuning.tune == "top" and job.tuning.top_layers > 1:
        yield {"tune": "top", "top_layers": job.tuning.top_layers // 2}
    if job.method in ("sft", "dpo") and now and now.tokens > 128:
        yield {"max_length": now.tokens // (4 if job.method == "dpo" else 2)}


def _smaller(job: Job, now: Plan) -> Iterator[tuple[dict[str, Any], Plan]]:
    from engine_train import places
    from engine_train.data import load_rows, texts

    place = places.find(job.base, seed=job.seed, texts=texts(load_rows(job.dataset)))
    part = places.read_config(place, job.base.revision).get_text_config()
    for change in _changes(job, now):
        if "tune" in change:
            top = change.get("top_layers", job.tuning.top_layers)
            yield change, _tuned(now, change["tune"], top, job.tuning.lora.r, part)
        else:
            yield (
                change,
                dataclasses.replace(
                    now,
                    batch=change.get("per_device_train_batch_size", now.batch),
                    checkpointing=change.get("gradient_checkpointing", now.checkpointing),
                    tokens=now.tokens // 2 if "max_length" in change else now.tokens,
                    spoken=now.spoken // 2 if "max_length" in change else now.spoken,
                ),
            )


def _say(change: Mapping[str, Any]) -> str:
    inside = ", ".join(f"{k}: {str(v).lower()}" for k, v in change.items())
    return f"`{'tuning' if 'tune' in change else 'args'}: {{{inside}}}`"


def _longest(rows: Any, tokenizer: Any, cut: int | None) -> tuple[int, int]:
    """Return the tokens of the longest row: of what its replies share, and of the longer reply.

    Only the rows with most characters are counted. `cut` is TRL's `max_length`.
    """
    from engine_train.data import texts

    def halves(row: Mapping[str, Any]) -> tuple[str, str]:
        replies = [" ".join(texts([{"": row[n]}])) for n in ("chosen", "rejected") if n in row]
        same = "" if "prompt" in row or len(replies) < 2 else _beginning(*replies)
        shared = {n: v for n, v in row.items() if n not in ("chosen", "rejected")}
        longer = max(replies, key=len, default="")
        return " ".join([*texts([shared]), same]), longer[len(same) :]

    def count(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    longest = sorted(map(halves, rows), key=lambda parts: len("".join(parts)))[-LONGEST:]
    prompt, reply = max(((count(p), count(r)) for p, r in longest), key=sum)
    over = max(0, prompt + reply - cut) if cut else 0
    return prompt - min(prompt, over), reply - max(0, over - prompt)


def _beginning(one: str, other: str) -> str:
    ends = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[: next(ends, min(len(one), len(other)))]


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
