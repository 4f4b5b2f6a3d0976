"""TRL's DPO trainer, with its traps looked for and its reference kept over a kill."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from trl.trainer import utils
from trl.trainer.dpo_trainer import DPOTrainer

from engine_train import dpo
from engine_train.disk import sync
from engine_train.errors import TrainingError
from engine_train.jobs import Job
from engine_train.references import ReferenceTrainer

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Mended", "PreferenceTrainer", "mend"]

PART = 32
"""Batches of reference log-probabilities that are kept at once."""
SHOWN = 5
"""Rows that an error names."""
COUNTS = ("doubled_bos", "doubled_eos", "no_end", "boundary", "equal")


class PreferenceTrainer(ReferenceTrainer, DPOTrainer):
    """DPO that cuts no reply, mends tokens that are doubled, and pays for its reference once."""

    args: Any
    model: Any

    def __init__(self, job: Job, options: dpo.Options, *, model: Any, **given: Any) -> None:
        self.options = options
        self.found: dict[str, float] = {}
        self.warnings: list[str] = []
        self._kept = job.workdir / "reference"
        self._told: set[str] = set()
        self._chosen_tokens = 1.0
        self._context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._ends = _ends(model, given["processing_class"])
        adapters = hasattr(model, "peft_config")
        # TRL would load the reference by the model's name: another model, where this one was cut,
        # drawn or changed since. A copy is what it must be.
        reference = None
        if not adapters and not given["args"].precompute_ref_log_probs:
            reference = copy.deepcopy(model)
        super().__init__(model=model, ref_model=reference, **given)
        if adapters and self.precompute_ref_logps and "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")  # its log-probabilities are all that is needed of it

    def _prepare_dataset(
        self, dataset: Dataset, processing_class: Any, args: Any, dataset_name: str
    ) -> Dataset:
        """Tokenise as TRL does, then mend the tokens and leave no row that would be cut."""
        whole = copy.copy(args)
        whole.max_length = None  # TRL would drop rows without a word
        rows = super()._prepare_dataset(dataset, processing_class, whole, dataset_name)
        rows = rows.map(
            _mended,
            fn_kwargs={
                "tokenizer": processing_class,
                "bos": processing_class.bos_token_id,
                "ends": self._ends,
            },
            num_proc=args.dataset_num_proc,
            desc=f"Looking for traps in the {dataset_name} dataset",
        )
        counts = {name: int(sum(rows[name])) for name in COUNTS}
        lengths = _lengths(rows)
        cut = self._check_lengths(lengths, args.max_length, dataset_name)
        dropped = 0
        if cut and args.truncation_mode == "keep_start":
            kept = [i for i, n in enumerate(rows["prompt_ids"]) if len(n) < args.max_length]
            dropped = len(rows) - len(kept)
            rows = rows.select(kept)
        rows = rows.select([i for i, equal in enumerate(rows["equal"]) if not equal])
        if not len(rows):
            raise TrainingError(
                f"nothing is left of the {dataset_name} dataset: `chosen` and `rejected` are the "
                "same in every row"
                if not dropped
                else f"no row of the {dataset_name} dataset has a reply within max_length "
                f"{args.max_length}"
            )
        if dataset_name == "train":
            self._chosen_tokens = sum(map(len, rows["chosen_ids"])) / len(rows)
            self._note(counts, max(lengths), cut, dropped)
        return rows.remove_columns([*COUNTS])

    def _check_lengths(self, lengths: Sequence[int], given: int | None, name: str) -> int:
        """Return how many rows are cut. Raises TrainingError where that was not asked for."""
        limit = min(n for n in (given, self._context, max(lengths)) if n)
        over = [i + 1 for i, n in enumerate(lengths) if n > limit]
        if not over or (limit == given and self.options.allow_truncation):
            return len(over)
        rows = ", ".join(map(str, over[:SHOWN])) + (", ..." if len(over) > SHOWN else "")
        what = f"`max_length: {given}`" if limit == given else f"the model reads {limit}"
        raise TrainingError(
            f"{len(over)} of {len(lengths)} rows of the {name} dataset have more tokens than "
            f"{what} (the longest {max(lengths)}; rows {rows}), so that replies would lose their "
            f"ends: shorten them, or say `args: {{max_length: {limit}}}` and "
            "`allow_truncation: true`"
        )

    def _note(self, counts: Mapping[str, int], longest: int, cut: int, dropped: int) -> None:
        """Keep what was found in the rows, for the metrics and the alarms."""
        self.found = {
            "longest": longest,
            "truncated": cut,
            "dropped_rows": dropped,
            "equal_pairs": counts["equal"],
            "doubled_bos": counts["doubled_bos"],
            "doubled_eos": counts["doubled_eos"],
            "no_end": counts["no_end"],
            "boundary_mismatches": counts["boundary"],
        }
        says = {
            "equal_pairs": "have equal `chosen` and `rejected`, and were left out",
            "dropped_rows": "have a prompt as long as max_length, and were left out",
            "truncated": "were cut at max_length",
            "doubled_bos": "began with two begin-of-sequence tokens, of which one was taken away",
            "no_end": "have a reply without an end-of-sequence token, so that it never ends",
            "boundary_mismatches": (
                "have a prompt whose last token changes when the reply follows it, so that the "
                "model is trained on another prompt than it will see: end prompts where a token "
                "ends (not in a space), or take a chat template"
            ),
        }
        self.warnings = [
            f"{count:.0f} rows {says[name]}"
            for name, count in self.found.items()
            if count and name in says
        ]

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Compute the reference part by part; a part that a killed training computed is read."""
        if self.accelerator.num_processes > 1:  # what one machine has kept, another may not have
            return super()._precompute_ref_logps(dataset, name, batch_size)
        from datasets import concatenate_datasets

        self._kept.mkdir(parents=True, exist_ok=True)
        size, parts = batch_size * PART, []
        for start in range(0, len(dataset), size):
            part = dataset.select(range(start, min(start + size, len(dataset))))
            path = self._kept / f"{name}-{start}-{self._part_key(part)}.json"
            if path.exists():
                columns = orjson.loads(path.read_bytes())
                for column, values in columns.items():
                    part = part.add_column(column, values)
            else:
                part = super()._precompute_ref_logps(part, name, batch_size)
                columns = {c: list(part[c]) for c in ("ref_chosen_logps", "ref_rejected_logps")}
                fresh = path.with_suffix(".tmp")
                fresh.write_bytes(orjson.dumps(columns))
                sync(fresh)
                fresh.replace(path)
                part = part.remove_columns([*columns])
                for column, values in columns.items():
                    part = part.add_column(column, values)
            parts.append(part)
        return concatenate_datasets(parts)

    def _part_key(self, part: Dataset) -> str:
        """Return what a part's log-probabilities depend on, digested."""
        a = self.args
        said = (a.max_length, a.truncation_mode, a.pad_to_multiple_of, a.ld_alpha, a.bf16, a.fp16)
        ids = [list(part[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
        key = orjson.dumps([self._precompute_model_hash, list(map(str, said)), ids])
        return hashlib.blake2b(key, digest_size=12).hexdigest()

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """Score the replies alone."""
        with _replies_alone():
            return super().compute_ref_log_probs(model, inputs)

    def compute_loss(self, *given: Any, **named: Any) -> Any:
        """Score the replies alone."""
        with _replies_alone():
            return super().compute_loss(*given, **named)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log how far the chosen replies have fallen, too; tell of it when it is far."""
        mode = "train" if self.model.training else "eval"
        rewards = self._metrics[mode].get("rewards/chosen")
        if rewards:
            fell = -sum(rewards) / len(rewards) / self.beta / self._chosen_tokens
            logs[dpo.FELL if mode == "train" else f"eval_{dpo.FELL}"] = fell
        super().log(logs, start_time)
        for alarm in dpo.alarms(self, self.state.log_history):
            kind = alarm.partition(":")[0]  # the figure in it changes with each step
            if kind not in self._told:
                self._told.add(kind)
                self._say(alarm)

    def _say(self, text: str) -> None:
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "say"):
                callback.say(text)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save without the reference, which every start makes anew."""
        super()._save(output_dir, state_dict)
        shutil.rmtree(Path(output_dir or self.args.output_dir) / "ref", ignore_errors=True)


class Mended(NamedTuple):
    """A pair's tokens, and what was found in them."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    doubled_bos: bool
    doubled_eos: bool
    no_end: bool
    equal: bool


def mend(
    prompt: Sequence[int],
    chosen: Sequence[int],
    rejected: Sequence[int],
    *,
    bos: int | None,
    ends: frozenset[int],
    blank: frozenset[int] = frozenset(),
) -> Mended:
    """Return a pair that begins with one `bos` at most, and whose replies stop after their end.

    `ends` are the tokens that end a reply; what a template writes after one (`blank` tokens, as a
    line break is) is cut off, as the model never writes it.
    """
    before = list(prompt)
    doubled_bos = bos is not None and bos not in ends and before[:2] == [bos, bos]
    if doubled_bos:
        before = before[1:]
    doubled = no_end = False
    replies = []
    for reply in (chosen, rejected):
        ids = list(reply)
        last = len(ids)
        while last and ids[last - 1] in blank:
            last -= 1
        if last and ids[last - 1] in ends:
            ids = ids[:last]
            while ids[-2:] == [ids[-1]] * 2:
                ids.pop()
                doubled = True
        else:
            no_end = True
        replies.append(ids)
    equal = replies[0] == replies[1]
    return Mended(before, replies[0], replies[1], doubled_bos, doubled, no_end, equal)


def _mended(
    row: Mapping[str, Any], tokenizer: Any, bos: int | None, ends: Sequence[int]
) -> dict[str, Any]:
    """Return the mended tokens of a row, and what was found."""
    ids = (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"])
    tail = {i for reply in ids[1:] for i in reply[-3:]} - set(ends)
    blank = frozenset(i for i in tail if not tokenizer.decode([i]).strip())
    pair = mend(*ids, bos=bos, ends=frozenset(ends), blank=blank)
    boundary = len(_prompt(row, tokenizer)) > len(row["prompt_ids"])
    return pair._asdict() | {"boundary": boundary}


def _prompt(row: Mapping[str, Any], tokenizer: Any) -> list[int]:
    """Return the tokens of a row's prompt alone, as the model sees it when it is used."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
        if ids and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token):
            ids.pop()  # a tokenizer that ends every text
        return ids
    tools = row.get("tools")
    tools = orjson.loads(tools) if isinstance(tools, str) else tools
    more = {"tools": tools, **(row.get("chat_template_kwargs") or {})}
    return list(
        tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=True, **more
        )["input_ids"]
    )


def _lengths(rows: Dataset) -> list[int]:
    columns = (rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"])
    return [len(p) + max(len(c), len(r)) for p, c, r in zip(*columns, strict=True)]


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a reply: the tokenizer's, and those that the model stops at."""
    stops = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stops = stops if isinstance(stops, list) else [stops]
    return sorted({i for i in (tokenizer.eos_token_id, *stops) if i is not None})


@contextmanager
def _replies_alone() -> Iterator[None]:
    """Make TRL's fused head skip what is not a reply on a CPU as it does on a GPU."""
    trl: Any = utils
    usual = trl._use_triton
    trl._use_triton = lambda device: device.type == "cpu" or usual(device)
    try:
        yield
    finally:
        trl._use_triton = usual
