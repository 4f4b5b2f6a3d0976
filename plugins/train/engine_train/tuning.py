"""What of a model is trained: all of it, its top layers, its head, or adapters beside it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from engine_train.bases import Base
from engine_train.errors import TrainingError

__all__ = ["Lora", "Tuning", "apply", "check", "head", "layers"]


class Lora(BaseModel):
    """Adapters of low rank, through peft."""

    model_config = ConfigDict(extra="forbid")

    r: PositiveInt = 16
    """The rank."""
    alpha: PositiveInt = 32
    """The adapters' output is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """The ends of the names of the modules that get one."""


class Tuning(BaseModel):
    """What is trained of a model, and how it is saved."""

    model_config = ConfigDict(extra="forbid")

    tune: Literal["full", "lora", "top", "head"] = "full"
    """`full`: all weights; `lora`: adapters; `top`: the last layers, the final norm and the head;
    `head`: the head alone, over features that stay as they are."""
    top_layers: PositiveInt = 4
    """How many layers `top` trains."""
    lora: Lora = Lora()
    save: Literal["merged", "adapter"] = "merged"
    """Whether `lora` is saved as a whole model, or as adapters that need their base model."""


def check(tuning: Tuning, base: Base) -> None:
    """Raise TrainingError where a base model cannot be tuned so."""
    if base.quantization is not None:
        if base.layers is not None:
            raise TrainingError(
                f"`quantization: {base.quantization}` with `layers`: its adapters would fit no "
                "model that others can load; leave one of them out"
            )
        if tuning.tune != "lora":
            raise TrainingError(
                f"`quantization: {base.quantization}` holds weights that cannot be trained: say "
                "`tuning: {tune: lora, save: adapter}`"
            )
        if tuning.save == "merged":
            raise TrainingError(
                f"adapters cannot be merged into `quantization: {base.quantization}` without loss: "
                "say `tuning: {tune: lora, save: adapter}`"
            )
    if tuning.save == "adapter":
        if tuning.tune != "lora":
            raise TrainingError(f"`save: adapter` is of `tune: lora`, not of `tune: {tuning.tune}`")
        why = ""
        if base.layers is not None:
            why = "`layers`"
        elif base.adapts is not None:
            why = "a base that is adapters itself"
        elif not base.reference:
            why = f"a base that is found here alone: {base.name}"
        if why:
            raise TrainingError(
                f"`save: adapter` with {why}: others could not load what it adapts; say "
                "`save: merged`"
            )


def apply(model: Any, tuning: Tuning, *, reward: bool) -> tuple[Any, Any]:
    """Return the model with what must not move frozen, and peft's configuration of LoRA, or None.

    With LoRA the model that is returned is peft's. A `reward` model's head is always trained.
    Raises TrainingError for layers or modules that the model does not have.
    """
    if tuning.tune == "lora":
        return _adapted(model, tuning.lora, reward)
    if tuning.tune == "full":
        return model, None
    trained = [head(model)]
    if tuning.tune == "head" and not reward and _tied(model):
        raise TrainingError(
            "`tune: head` would train the embeddings as well, of which the head of this model is "
            "made: say `tune: top`"
        )
    if tuning.tune == "top":
        stack = layers(model)
        if tuning.top_layers > len(stack):
            raise TrainingError(f"`top_layers: {tuning.top_layers}`: the model has {len(stack)}")
        trained += stack[len(stack) - tuning.top_layers :]
        trained += _norms_after(model, stack)
        if _tied(model):  # a head that is made of the embeddings stays as they are
            trained = trained[1:]
    model.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    return model, None


def layers(model: Any) -> Any:
    """Return a model's decoder layers in order. Raises TrainingError if none are found."""
    import torch

    depth = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    raise TrainingError(f"no list of {depth} layers is found in a {type(model).__name__}")


def head(model: Any) -> Any:
    """Return the module that is put on top of a model. Raises TrainingError if it has none."""
    output = model.get_output_embeddings()
    for name in ("score", "classifier", "classification_head"):
        output = output if output is not None else getattr(model, name, None)
    if output is None:
        raise TrainingError(f"a {type(model).__name__} has no head")
    return output


def _tied(model: Any) -> bool:
    output, given = model.get_output_embeddings(), model.get_input_embeddings()
    return output is not None and output.weight is given.weight


def _norms_after(model: Any, stack: Any) -> list[Any]:
    """Return what stands beside the layers and comes after them: the final norm."""
    for parent in model.modules():
        children = list(parent.children())
        if any(child is stack for child in children):
            after = children[[child is stack for child in children].index(True) + 1 :]
            return [child for child in after if "norm" in type(child).__name__.lower()]
    return []


def _adapted(model: Any, lora: Lora, reward: bool) -> tuple[Any, Any]:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        task_type="SEQ_CLS" if reward else "CAUSAL_LM",
        inference_mode=False,
    )
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        model = prepare_model_for_kbit_training(model)
    try:
        return get_peft_model(model, config), config
    except ValueError as error:
        raise TrainingError(
            f"`lora: {{targets: {lora.targets}}}` fits no module of a {type(model).__name__}: "
            "leave `targets` out, or name its linear layers, such as q_proj and v_proj"
        ) from error
