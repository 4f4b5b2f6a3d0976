"""DPO: the traps of its data and of TRL, and a resume to the bit."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_train import dpo
from engine_train.dpo_trainer import PreferenceTrainer, mend
from engine_train.errors import TrainingError
from engine_train.history import clean
from engine_train.tuning import Tuning

pytestmark = pytest.mark.filterwarnings("ignore")
Make = Callable[..., Any]
Rows = list[dict[str, Any]]
ARGS = {"max_steps": 1, "gradient_accumulation_steps": 1, "learning_rate": 1e-2}


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return dict(trainer.model.state_dict())


def same(one: Any, two: Any) -> bool:
    first, second = weights(one), weights(two)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("loss", ["sigmoid", ["sigmoid", "sft"]])
def test_a_resumed_training_ends_in_the_same_bits(
    resumed: Callable[..., tuple[Any, Any]], pairs: Rows, loss: Any
) -> None:
    args = ARGS | {"max_steps": 9, "loss_type": loss}
    whole, again = resumed("dpo", pairs, args, at=7)  # in the second epoch
    assert same(whole, again)
    history = clean(whole.state.log_history)
    assert history == clean(again.state.log_history)
    assert history[0]["loss"] != history[-1]["loss"]


def test_the_reference_is_paid_for_once(
    make: Make, pairs: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    usual = PreferenceTrainer.compute_ref_log_probs

    def count(self: Any, *given: Any) -> Any:
        calls.append(1)
        return usual(self, *given)

    monkeypatch.setattr(PreferenceTrainer, "compute_ref_log_probs", count)
    monkeypatch.setattr("engine_train.dpo_trainer.PART", 2)
    columns = ("ref_chosen_logps", "ref_rejected_logps")
    first = make("dpo", pairs, ARGS, held_out=pairs[:4])
    assert len(calls) == 6 + 2
    second = make("dpo", pairs, ARGS, held_out=pairs[:4])
    assert len(calls) == 8
    for name in ("train_dataset", "eval_dataset"):
        one, two = getattr(first, name), getattr(second, name)
        assert [list(one[c]) for c in columns] == [list(two[c]) for c in columns]
    make("dpo", pairs[:4], ARGS)  # other rows: the part of the first four is another
    assert len(calls) == 8
    make("dpo", pairs, ARGS, change=shaken)  # another model
    assert len(calls) == 8 + 6


def test_a_killed_reference_goes_on(
    make: Make, pairs: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    usual = PreferenceTrainer.compute_ref_log_probs

    def die(self: Any, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return usual(self, *given)

    monkeypatch.setattr(PreferenceTrainer, "compute_ref_log_probs", die)
    monkeypatch.setattr("engine_train.dpo_trainer.PART", 2)
    with pytest.raises(KeyboardInterrupt):
        make("dpo", pairs, ARGS)
    make("dpo", pairs, ARGS)
    assert len(calls) == 5 + 2


def shaken(model: Any, tokenizer: Any) -> None:
    """Change a model after it was loaded, as cutting layers off does."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.sin(torch.arange(parameter.numel())).view_as(parameter) * 0.1)
    model.config._name_or_path = ""


@pytest.mark.parametrize("precomputed", [True, False])
def test_the_reference_is_the_model_that_the_training_begins_with(
    make: Make, pairs: Rows, precomputed: bool
) -> None:
    args = ARGS | {"precompute_ref_log_probs": precomputed}
    trainer = make("dpo", pairs, args, change=shaken)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-6)
    assert first["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_nothing_is_cut_unless_it_is_asked_for(make: Make, pairs: Rows) -> None:
    long = [row | {"chosen": " cat" * 1100} for row in pairs[:2]]
    trainer = make("dpo", long, ARGS, config={"max_position_embeddings": 2048})
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[1] == 1105  # TRL's own default cuts at 1,024
    assert trainer.found["truncated"] == 0
    assert trainer.found["longest"] == 1105


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            {"max_length": 9},
            "12 of 12 rows of the train dataset have more tokens than `max_length: 9`",
        ),
        ({"max_length": 9}, r"the longest 10; rows 1, 2, 3, 4, 5, \.\.\."),
        ({"max_length": 9, "truncation_mode": "keep_end"}, "`allow_truncation: true`"),
    ],
)
def test_rows_that_would_be_cut_are_an_error(
    make: Make, pairs: Rows, args: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        make("dpo", pairs, ARGS | args)


def test_rows_longer_than_the_model_reads_are_an_error(make: Make, pairs: Rows) -> None:
    rows = [*pairs, pairs[0] | {"rejected": " dog" * 200}]
    for args in ({}, {"max_length": 500}):
        with pytest.raises(
            TrainingError, match="1 of 13 rows.* the model reads 128 .*205; rows 13"
        ):
            make("dpo", rows, ARGS | args, options={"allow_truncation": True})


def test_cutting_may_be_asked_for_and_is_counted(make: Make, pairs: Rows) -> None:
    rows = [*pairs, pairs[0] | {"prompt": "red" + " red" * 19}]
    args = ARGS | {"max_length": 9}
    trainer = make("dpo", rows, args, options={"allow_truncation": True})
    assert trainer.found["truncated"] == 13
    assert trainer.found["dropped_rows"] == 1
    assert len(trainer.train_dataset) == 12
    assert "1 rows have a prompt as long as max_length" in "; ".join(dpo.alarms(trainer, []))


def doubling(model: Any, tokenizer: Any) -> None:
    """Make a tokenizer put a begin and an end around whatever it is given."""
    from tokenizers.processors import TemplateProcessing

    begin, end = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(begin, tokenizer.bos_token_id), (end, tokenizer.eos_token_id)],
    )


def test_begin_and_end_stand_once(make: Make, pairs: Rows) -> None:
    rows = [row | {"prompt": "<bos> " + row["prompt"]} for row in pairs]
    trainer = make("dpo", rows, ARGS, change=doubling)
    tokenizer = trainer.processing_class
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    for row in trainer.train_dataset:
        assert row["prompt_ids"].count(begin) == 1
        assert row["prompt_ids"][0] == begin
        assert end not in row["prompt_ids"]
        for reply in (row["chosen_ids"], row["rejected_ids"]):
            assert reply.count(end) == 1
            assert reply[-1] == end
    assert trainer.found["doubled_bos"] == trainer.found["doubled_eos"] == 12
    assert trainer.found["boundary_mismatches"] == 0
    assert any("two begin-of-sequence tokens" in said for said in dpo.alarms(trainer, []))


def test_what_a_template_writes_after_the_end_is_cut_off() -> None:
    pair = mend([1, 5], [6, 2, 9], [7, 2, 9], bos=1, ends=frozenset({2}), blank=frozenset({9}))
    assert (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) == ([1, 5], [6, 2], [7, 2])
    assert not any(pair[3:])


def test_a_reply_that_never_ends_is_left_whole_and_counted() -> None:
    pair = mend([5], [6, 9], [7, 2], bos=1, ends=frozenset({2}), blank=frozenset({9}))
    assert (pair.chosen_ids, pair.no_end) == ([6, 9], True)


def test_a_begin_that_is_also_the_end_is_left() -> None:
    pair = mend([2, 2, 5], [6, 2], [7, 2], bos=2, ends=frozenset({2}))
    assert (pair.prompt_ids, pair.doubled_bos) == ([2, 2, 5], False)


def merging(model: Any, tokenizer: Any) -> Any:
    """Return a tokenizer of bytes, in which a space and the letter after it are one token."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator(
        ["a cat a cat a cat"], vocab_size=262, special_tokens=["<pad>", "<end>"]
    )
    model.resize_token_embeddings(inner.get_vocab_size())
    return PreTrainedTokenizerFast(
        tokenizer_object=inner._tokenizer, pad_token="<pad>", eos_token="<end>"
    )


def test_a_token_merged_over_the_boundary_is_counted(make: Make) -> None:
    rows = [
        {"prompt": "a dog ", "chosen": "cat", "rejected": "bird"},
        {"prompt": "a dog", "chosen": " cat", "rejected": " bird"},
    ]
    trainer = make("dpo", rows, ARGS, change=merging)
    assert trainer.found["boundary_mismatches"] == 1
    assert any("last token changes" in said for said in dpo.alarms(trainer, []))
    text = trainer.processing_class.decode(
        trainer.train_dataset[0]["prompt_ids"] + trainer.train_dataset[0]["chosen_ids"]
    )
    assert text == "a dog cat<end>"  # no character is lost


def test_equal_replies_are_left_out_and_told(make: Make, pairs: Rows) -> None:
    equal = [row | {"rejected": row["chosen"]} for row in pairs]
    trainer = make("dpo", [*equal[:3], *pairs[3:]], ARGS)
    assert len(trainer.train_dataset) == 9
    assert "3 rows have equal `chosen` and `rejected`" in dpo.alarms(trainer, [])[0]
    with pytest.raises(TrainingError, match="the same in every row"):
        make("dpo", equal, ARGS)


@pytest.mark.parametrize(("loss", "alarmed"), [("apo_down", True), ("apo_zero", False)])
def test_chosen_replies_that_fall_are_an_alarm(
    make: Make, pairs: Rows, ear: Any, loss: str, alarmed: bool
) -> None:
    args = ARGS | {"max_steps": 12, "loss_type": loss, "lr_scheduler_type": "constant"}
    trainer = make("dpo", pairs, args, callbacks=[ear])
    trainer.train()
    history = trainer.state.log_history
    said = dpo.alarms(trainer, history)
    fell = dpo.metrics(trainer, history)["chosen_fell"]
    assert (fell > 0.1) is alarmed
    assert any("have become less likely" in text for text in said) is alarmed
    assert len(ear.heard) == alarmed  # once, though each step would


def test_the_fall_is_that_of_the_log_probabilities(make: Make, pairs: Rows) -> None:
    args = ARGS | {"max_steps": 6, "loss_type": "apo_down", "per_device_train_batch_size": 12}
    trainer = make("dpo", pairs, args)
    trainer.train()
    first, *_, last = (r for r in trainer.state.log_history if "logps/chosen" in r)
    tokens = sum(map(len, trainer.train_dataset["chosen_ids"])) / 12
    fell = (first["logps/chosen"] - last["logps/chosen"]) / tokens
    assert last["chosen_fell"] == pytest.approx(fell, rel=1e-3)


def test_the_head_scores_the_replies_alone(
    make: Make, pairs: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.trainer import utils

    seen: list[int] = []

    class Spy:
        @staticmethod
        def apply(states: Any, *given: Any) -> Any:
            seen.append(len(states))
            return usual.apply(states, *given)

    usual = utils._ChunkedLogProbFunction
    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Spy)
    trainer = make("dpo", pairs, ARGS | {"per_device_train_batch_size": 12})
    trainer.train()
    replies = sum(map(len, trainer.train_dataset["chosen_ids"]))
    replies += sum(map(len, trainer.train_dataset["rejected_ids"]))
    assert seen == [replies, replies]  # the reference's, the step's
    assert not utils._use_triton(torch.device("cpu"))  # other trainings in this worker


def test_adapters_leave_the_model_below_as_it_is(make: Make, pairs: Rows, tmp_path: Any) -> None:
    for precomputed in (True, False):
        trainer = make(
            "dpo",
            pairs,
            ARGS | {"max_steps": 3, "precompute_ref_log_probs": precomputed},
            tuning=Tuning(tune="lora"),
        )
        before = {k: v.clone() for k, v in weights(trainer).items() if "lora" not in k}
        trainer.train()
        after = weights(trainer)
        assert all(torch.equal(after[k], v) for k, v in before.items())
        assert trainer.state.log_history[0]["rewards/chosen"] == pytest.approx(0, abs=1e-6)
        assert trainer.state.log_history[2]["rewards/chosen"] != 0
        folder = tmp_path / f"saved-{precomputed}"
        trainer.save_model(str(folder))
        assert not (folder / "ref").exists()


def test_held_out_pairs_are_evaluated(make: Make, pairs: Rows) -> None:
    trainer = make("dpo", pairs[:8], ARGS, held_out=pairs[8:])
    trainer.train()
    found = trainer.evaluate()
    assert 0 <= found["eval_rewards/accuracies"] <= 1
    assert "eval_chosen_fell" in trainer.state.log_history[-1]


def test_conversations_go_in_unchanged(make: Make, pairs: Rows) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
            "score_chosen": 1.0,
        }
        for row in pairs
    ]
    trainer = make("dpo", rows, ARGS)
    trainer.train()
    assert trainer.found["boundary_mismatches"] == trainer.found["no_end"] == 0
    whole = [{k: row["prompt"] + row[k] for k in ("chosen", "rejected")} for row in rows]
    implicit = make("dpo", whole, ARGS, work="implicit")
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert list(implicit.train_dataset[name]) == list(trainer.train_dataset[name])

    def untemplated(model: Any, tokenizer: Any) -> None:
        tokenizer.chat_template = None

    with pytest.raises(TrainingError, match="no chat template"):
        make("dpo", rows, ARGS, change=untemplated)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"prompt": "a", "completion": "b", "label": True},
            "needs `chosen` and `rejected`; the dataset has prompt, completion",
        ),
        (
            {"prompt": "a", "chosen": "b"},
            "needs `chosen` and `rejected`; the dataset has prompt, chosen",
        ),
        ({"prompt": [{"role": "user"}], "chosen": "b", "rejected": "c"}, "`chosen` is a text"),
        ({"chosen": 1, "rejected": 2}, "`chosen` is neither"),
        ({"chosen": "b", "rejected": "c", "images": []}, "drop the column images"),
    ],
)
def test_other_columns_are_an_error(row: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        dpo.check(list(row), row)


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("trl").setLevel(logging.ERROR)
