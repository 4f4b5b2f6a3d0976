"""TRL's reward trainer over pairs that share a row, and one that fits the head alone, exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import softplus
from trl.trainer.reward_trainer import RewardTrainer

from engine_train.disk import sync
from engine_train.errors import TrainingError
from engine_train.packing import Batch, Tokens, cut, mask_kind, pair, paired, plain, why_not
from engine_train.positions import Pooling, last_token
from engine_train.rewards import chunks, parts, row_length, token_scores

__all__ = ["HeadTrainer", "PairTrainer"]

KEPT = ("chosen_ids", "chosen_start", "rejected_ids", "rejected_start", "margin", "length")
TENSORS = ("input_ids", "attention_mask", "position_ids")


class PairTrainer(RewardTrainer):
    """Bradley-Terry on pairs, `margin` and `center_rewards_coefficient` as in TRL.

    `counts` says how many prompts and replies were cut, pairs dropped for their length, and pairs
    that are equal once cut. `unpacked` is why pairs do not share rows, None if they do.
    """

    args: Any
    model: Any
    processing_class: Any
    train_dataset: Any
    _signature_columns: Any

    def __init__(
        self,
        *,
        model: Any,
        processing_class: Any,
        pooling: Pooling,
        max_prompt: int | None,
        max_reply: int | None,
        **more: Any,
    ) -> None:
        self.pooling: Pooling = pooling
        self.sizes = (max_prompt, max_reply)
        self.counts: dict[str, int] = {}
        model.config.get_text_config().pad_token_id = processing_class.pad_token_id
        self.unpacked = why_not(model)
        self.mask = mask_kind(model)
        super().__init__(
            model=model, processing_class=processing_class, data_collator=self.collate, **more
        )

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the tensors of a batch of pairs."""
        batch = self.batch([_tokens(example) for example in examples])
        given = {**batch.inputs, "weights": batch.weights, "tokens": torch.tensor(batch.tokens)}
        if "margin" in examples[0]:
            given["margin"] = torch.tensor([e["margin"] for e in examples])
        return given

    def batch(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> Batch:
        """Lay pairs out as the model can read them."""
        pad = self.processing_class.pad_token_id
        if self.unpacked is None:
            return paired(pairs, pad, self.pooling, self.mask)
        return plain([tokens for both in pairs for tokens in both], pad, self.pooling)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, name: str) -> Any:
        """Return a dataset's pairs as tokens, cut. Raises TrainingError if none is left."""
        if "chosen_start" in dataset.column_names:
            return dataset
        found = dict.fromkeys(("cut_prompts", "cut_replies", "too_long", "equal_pairs"), 0)
        margins = "margin" in dataset.column_names
        rows = []
        for at, row in enumerate(dataset, 1):
            if (both := self._cut_pair(processing_class, row, at, found)) is None:
                continue
            chosen, rejected = both
            if args.max_length and max(len(chosen.ids), len(rejected.ids)) > args.max_length:
                found["too_long"] += 1
                continue
            found["equal_pairs"] += chosen.ids == rejected.ids
            kept: dict[str, Any] = {"margin": float(row["margin"] or 0)} if margins else {}
            kept |= {"chosen_ids": chosen.ids, "chosen_start": chosen.start}
            kept |= {"rejected_ids": rejected.ids, "rejected_start": rejected.start}
            rows.append(kept | {"length": row_length(chosen, rejected)})
        if not rows:
            raise TrainingError(
                f"no pair of the {name} dataset is left: all {len(dataset)} are longer than "
                f"`max_length: {args.max_length}` tokens; raise it, or cut with `max_prompt` and "
                "`max_reply`"
            )
        if name == "train":
            self.counts = found
        return Dataset.from_list(rows)

    def _cut_pair(
        self, tokenizer: Any, row: Mapping[str, Any], at: int, found: dict[str, int]
    ) -> tuple[Tokens, Tokens] | None:
        whole = pair(tokenizer, row, f"row {at}")
        chosen, rejected = (cut(tokens, *self.sizes) for tokens in whole)
        for name, tokens in (("chosen", chosen), ("rejected", rejected)):
            if last_token(tokens.ids, tokenizer.pad_token_id) is None:
                raise TrainingError(f"row {at}: `{name}` has no text, so there is nothing to score")
        before, after = self.sizes
        for tokens in whole:
            found["cut_prompts"] += before is not None and tokens.start > before
            found["cut_replies"] += after is not None and len(tokens.ids) - tokens.start > after
        return chosen, rejected

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(KEPT)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss; log what TRL logs."""
        mode = "train" if self.model.training else "eval"
        given = {name: inputs[name] for name in TENSORS if name in inputs}
        batch = Batch(given, inputs["weights"], 0)
        scores, _ = token_scores(model, batch)
        rewards = batch.rewards(scores).view(-1, 2)
        chosen, rejected = rewards.unbind(1)
        apart = chosen - rejected
        loss = softplus(inputs["margin"] - apart if "margin" in inputs else -apart).mean()
        if self.args.center_rewards_coefficient is not None:
            loss = loss + self.args.center_rewards_coefficient * ((chosen + rejected) ** 2).mean()
        if mode == "train":
            count = self.accelerator.gather_for_metrics(inputs["tokens"]).sum().item()
            self._total_train_tokens += count
        self._note(mode, rewards.detach())
        return (loss, {"logits": rewards.detach()}) if return_outputs else loss

    def _note(self, mode: str, rewards: torch.Tensor) -> None:
        chosen, rejected = rewards.unbind(1)
        everyone = self.accelerator.gather(rewards)
        notes = self._metrics[mode]
        notes["num_tokens"] = [self._total_train_tokens]
        notes["min_reward"].append(everyone.min().item())
        notes["mean_reward"].append(everyone.mean().item())
        notes["max_reward"].append(everyone.max().item())
        for name, value in (("accuracy", won(rewards)), ("margin", chosen - rejected)):
            mean = self.accelerator.gather_for_metrics(value.float().mean())
            notes[name].append(mean.mean().item())


class HeadTrainer(PairTrainer):
    """Fits the head alone, on the states of a backbone that does not change.

    The states are computed once, batch by batch, each kept in `features`: a run that was stopped
    goes on with the next. On them the loss is convex, and LBFGS finds its one minimum. `l2` is how
    much the weights of the standardised differences are held back.
    """

    def __init__(self, *, features: Path, l2: float, callbacks: Sequence[Any], **more: Any) -> None:
        super().__init__(callbacks=list(callbacks), **more)
        self.features, self.l2, self.watching = features, l2, callbacks

    def train(self, *_: Any, **__: Any) -> Any:
        """Compute the states, then fit."""
        states = self._states()
        if states is None:  # it was asked to stop
            return
        margin = None
        if "margin" in self.train_dataset.column_names:
            margin = torch.tensor(self.train_dataset["margin"], dtype=torch.float64)
        center = self.args.center_rewards_coefficient or 0.0
        weights, loss = fit(states.double(), self.l2, margin, center)
        head = parts(self.model)[1]
        with torch.no_grad():
            head.weight.copy_(weights.unsqueeze(0))
        self.model.train()  # what `log` takes it by
        self.state.global_step = self.state.max_steps
        self.state.epoch = 1.0
        rewards = (states.double() @ weights).float()
        self._note("train", rewards.to(self.accelerator.device))
        self.log({"loss": loss})

    def _states(self) -> torch.Tensor | None:
        """Return (pairs, 2, width), or None if it was asked to stop before it had them all."""
        from safetensors.torch import load_file, save_file

        self.model.eval()
        args, state, control = self.args, self.state, self.control
        self.features.mkdir(parents=True, exist_ok=True)
        places = list(chunks(self.train_dataset["length"]))
        state.max_steps, state.global_step = len(places), 0
        state.is_world_process_zero = self.is_world_process_zero()
        for callback in self.watching:  # of ours: there is nothing for a tracker to note
            callback.on_train_begin(args, state, control)
        found: list[torch.Tensor] = []
        for number, chosen in enumerate(places):
            path = self.features / f"{number:05d}.safetensors"
            if path.exists():
                found.append(load_file(path)["states"])
            else:
                found.append(self._forward([self.train_dataset[i] for i in chosen]))
                if self.is_world_process_zero():
                    fresh = path.with_suffix(".part")
                    save_file({"states": found[-1]}, fresh)
                    sync(fresh)
                    fresh.replace(path)
            state.global_step = number + 1
            for callback in self.watching:
                # A head that has learned nothing yet: each pair is a coin's toss.
                callback.on_log(args, state, control, logs={"loss": math.log(2)})
                callback.on_step_end(args, state, control)
            if control.should_training_stop:
                return None
        states = torch.empty(len(self.train_dataset), *found[0].shape[1:])
        for chosen, part in zip(places, found, strict=True):
            states[chosen] = part
        return states

    def _forward(self, examples: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        batch = self.batch([_tokens(example) for example in examples])
        with torch.inference_mode():
            _, states = token_scores(self.model, batch)
            pooled = batch.states(states)
        return pooled.view(-1, 2, pooled.shape[-1]).cpu().clone()


def fit(
    states: torch.Tensor, l2: float, margin: torch.Tensor | None = None, center: float = 0.0
) -> tuple[torch.Tensor, float]:
    """Return the weights of the reward, and the mean loss, of (pairs, 2, width) in float64.

    The differences are scaled to unit deviation, and the scale is folded into the weights: a plain
    linear head gives the rewards.
    """
    apart, both = states[:, 0] - states[:, 1], states.sum(1)
    scale = apart.pow(2).mean(0).sqrt().clamp_min(1e-8)
    apart, both = apart / scale, both / scale
    bound = 0.0 if margin is None else margin
    weights = torch.zeros(states.shape[-1], dtype=states.dtype, requires_grad=True)
    search = torch.optim.LBFGS(
        [weights],
        max_iter=1000,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        value = softplus(bound - apart @ weights).mean()
        return value + center * (both @ weights).pow(2).mean() if center else value

    def closure() -> torch.Tensor:
        search.zero_grad()
        value = loss() + l2 / 2 * weights.pow(2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return weights.detach() / scale, float(loss())


def won(rewards: torch.Tensor) -> torch.Tensor:
    """Return 1 where the chosen reply has the higher reward, 0.5 where both have the same."""
    chosen, rejected = rewards.unbind(1)
    return (chosen > rejected).float() + 0.5 * (chosen == rejected).float()


def _tokens(example: Mapping[str, Any]) -> tuple[Tokens, Tokens]:
    return (
        Tokens(list(example["chosen_ids"]), example["chosen_start"]),
        Tokens(list(example["rejected_ids"]), example["rejected_start"]),
    )
