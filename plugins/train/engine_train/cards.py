"""The model card: the README.md of a model's folder, made of its `training.json`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from engine_train import told
from engine_train.curves import number

__all__ = ["card"]

KINDS = {
    "sft": ("fine-tuned language model", "sft"),
    "reward": ("reward model", "reward-model"),
    "dpo": ("language model trained on preferences (DPO)", "dpo"),
    "grpo": ("language model trained on rewards (GRPO)", "grpo"),
}
"""Method -> what comes of it, and the card's tag."""
CARRIED = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""What the engine's names for models are on the Hub."""
HUB = re.compile(r"([\w.-]+/[\w.-]+)(/[\w./-]+\.gguf)?")

TALK = """\
prompt = "What is a kayak?"
if tokenizer.chat_template:
    turns = [{"role": "user", "content": prompt}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
special = not tokenizer.chat_template  # a template writes them itself
ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=special)["input_ids"]
output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64)
print(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))"""
SCORE = """\
from engine_train.rewards import RewardModel

model = RewardModel.load(".")  # this folder
prompt, reply = "What is a kayak?", "A small, narrow boat."
if model.tokenizer.chat_template:
    prompt = [{"role": "user", "content": prompt}]
    reply = [{"role": "assistant", "content": reply}]
print(model.score([model.encode(prompt, reply)]))"""
READ = {
    "last": "print(model(torch.tensor([ids])).logits[0, 0].item())",
    "mean": """\
stop = max(i for i, token in enumerate(ids) if token != model.config.pad_token_id) + 1
states = model.base_model(torch.tensor([ids])).last_hidden_state[0]
print(model.score(states[start:stop]).mean().item())""",
}
TOKENS = """\
prompt, reply = "What is a kayak?", "A small, narrow boat."
if tokenizer.chat_template:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    ids = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    given = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=True)
    start = len(given["input_ids"])
else:
    ids = tokenizer(prompt + reply + (tokenizer.eos_token or ""))["input_ids"]
    start = len(tokenizer(prompt)["input_ids"])"""


def card(
    training: Mapping[str, Any],
    *,
    name: str | None = None,
    license: str | None = None,
    tags: Sequence[str] = (),
    datasets: Sequence[str] = (),
) -> str:
    """Return the README.md of a model: the same for the same training.

    `name` is the model's; `license`, `tags` and `datasets` are as the Hub spells them.
    """
    method, base = str(training["method"]), str(training.get("base") or "")
    kind, _ = KINDS.get(method, (method, method))
    known = base and not base.startswith("artifact:")
    title = name or f"{kind[0].upper()}{kind[1:]}" + (f" from {base}" if known else "")
    parts = [
        f"---\n{_front(training, license, tags, datasets)}---",
        f"# {_text(title)}",
        _what(training, kind),
        *_alarms(training.get("alarms") or ()),
        "## How to use it",
        *_uses(training),
        "## Training data",
        _data(training.get("data") or {}),
        "## Settings",
        _table(("setting", "value"), _settings(training)),
        *_metrics(training.get("metrics") or {}),
    ]
    return "\n\n".join(parts) + "\n"


def _front(
    training: Mapping[str, Any],
    license: str | None,
    tags: Sequence[str],
    datasets: Sequence[str],
) -> str:
    method = str(training["method"])
    front: dict[str, Any] = {"library_name": "peft" if _is_adapter(training) else "transformers"}
    if license:
        front["license"] = license
    if hub := _hub(training):
        front["base_model"] = hub
    if datasets:
        front["datasets"] = list(datasets)
    front["pipeline_tag"] = "text-classification" if method == "reward" else "text-generation"
    front["tags"] = list(dict.fromkeys(["trl", KINDS.get(method, (method, method))[1], *tags]))
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True)


def _what(training: Mapping[str, Any], kind: str) -> str:
    base = str(training.get("base") or "an unnamed model")
    layers = training.get("layers")
    kept = f", of which the first {layers} layers were kept" if layers else ""
    told_by = "`training.json` has all that was logged"
    return f"A {kind}. It began as {_code(base)}{kept}; {told_by}."


def _alarms(alarms: Iterable[str]) -> list[str]:
    found = [f"> - {_text(alarm)}" for alarm in alarms]
    return ["\n".join(["> **Know this first:**", ">", *found])] if found else []


def _uses(training: Mapping[str, Any]) -> list[str]:
    """Return how it is loaded, with what a reader must know of it."""
    if training["method"] != "reward":
        return [_block("import torch", _load("CausalLM", training), TALK)]
    pooling = _setting(training, "pooling") or "last"
    where = {
        "last": "at the last token that is not padding, by ids",
        "mean": "as the mean over the tokens of the reply",
    }
    said = f"It gives a reply a number, the higher the better; the reward is read {where[pooling]}."
    cuts = [
        f"the {end} {length} tokens of {what}"
        for end, what, length in (
            ("last", "a prompt", _setting(training, "max_prompt")),
            ("first", "a reply", _setting(training, "max_reply")),
        )
        if length
    ]
    if cuts:
        said += f" It was trained to read {' and '.join(cuts)}."
    load = _load("SequenceClassification", training)
    if _is_adapter(training):
        return [said, _block("import torch", load, TOKENS, READ[pooling])]
    plain = "With transformers alone"
    plain += ", which cuts nothing:" if cuts else ":"
    return [said, _block(SCORE), plain, _block("import torch", load, TOKENS, READ[pooling])]


def _load(head: str, training: Mapping[str, Any]) -> str:
    """Return the lines that give `model` and `tokenizer`."""
    kind = f"AutoModelFor{head}"
    imports = f"from transformers import {kind}, AutoTokenizer\n\n"
    lines = 'folder = "."  # this one, or its name on the Hub\n'
    lines += "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
    if not _is_adapter(training):
        return f"{imports}{lines}model = {kind}.from_pretrained(folder)"
    found = HUB.fullmatch(str(training.get("base")))
    exact = found and not found[2]  # a GGUF, or a name for one, is not quite what the Hub has
    base = found[1] if found and exact else "BASE"
    where = "" if exact else f"  # the folder of {training.get('base')}"
    labels = ", num_labels=1" if head == "SequenceClassification" else ""
    lines += f'base = {kind}.from_pretrained("{base}"{labels}){where}\n'
    lines += "model = PeftModel.from_pretrained(base, folder)"
    return f"from peft import PeftModel\n{imports}{lines}"


def _data(data: Mapping[str, Any]) -> str:
    rows = data.get("rows")
    columns = ", ".join(_code(name) for name in data.get("columns") or ())
    counted = "Not counted" if rows is None else f"{rows:,} row{'' if rows == 1 else 's'}"
    return f"{counted}, with the columns {columns}." if columns else f"{counted}."


def _settings(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    every = told.given(training) | told.every(training)
    return [(_code(name), _code(value)) for name, value in every.items()]


def _metrics(metrics: Mapping[str, float]) -> list[str]:
    if not metrics:
        return []
    rows = [(_code(name), number(value)) for name, value in metrics.items()]
    note = "What is logged at each step is the mean over the last tenth of them."
    return ["## Results", note, _table(("metric", "value"), rows)]


def _setting(training: Mapping[str, Any], name: str) -> Any:
    """Return what the reward model was trained with, else what was asked for."""
    used = (training.get("settings") or {}).get(name)
    return used if used is not None else (training.get("options") or {}).get(name)


def _hub(training: Mapping[str, Any]) -> str | None:
    """Return the base model's id on the Hub, if it has one."""
    base = str(training.get("base") or "")
    if base in CARRIED:
        return CARRIED[base]
    match = HUB.fullmatch(base)
    return match[1] if match else None


def _is_adapter(training: Mapping[str, Any]) -> bool:
    tuning = training.get("tuning") or {}
    return tuning.get("tune") == "lora" and tuning.get("save") == "adapter"


def _block(*parts: str) -> str:
    code = "\n".join(parts[:2]) + "".join(f"\n{part}" for part in parts[2:])
    return f"```python\n{code}\n```"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _code(text: str) -> str:
    return f"`{' '.join(str(text).split()).replace('`', chr(39))}`"


def _text(text: str) -> str:
    """Return a line of text that no Markdown or HTML can hide in, but for `code`."""
    return re.sub(r"([\\*_\[\]<>#|])(?=(?:[^`]*`[^`]*`)*[^`]*$)", r"\\\1", " ".join(text.split()))
