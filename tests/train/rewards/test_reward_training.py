"""Reward models are trained as TRL trains them, and a planted preference is found."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from engine_train import arguments, reward
from engine_train.bases import Base
from engine_train.errors import TrainingError
from engine_train.jobs import Job
from engine_train.packing import pair
from engine_train.rewards import RewardModel
from engine_train.tuning import Tuning, apply

# peft 0.21 asks transformers 5.24 by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Build = Callable[..., Any]


@pytest.fixture
def build(
    tmp_path: Path, models: Callable[..., Any], tokenizers: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a trainer over a tiny model, as a worker builds it; `jobs` are what it was told."""
    jobs: list[Job] = []

    def make(
        rows: list[dict[str, Any]],
        *,
        kind: str = "llama",
        tuning: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        held_out: list[dict[str, Any]] | None = None,
        name: str = "work",
        callbacks: list[Any] | None = None,
        **args: Any,
    ) -> Any:
        from datasets import Dataset

        folder = tmp_path / name
        job = Job(
            method="reward",
            base=Base(folder=folder),
            dataset=folder / "rows.jsonl",
            output=folder / "model",
            workdir=folder,
            seed=0,
            tuning=Tuning.model_validate(tuning or {}),
            options=dict(options or {}),
        )
        given = {"disable_tqdm": True, "output_dir": str(folder), "report_to": "none"}
        given |= {"save_strategy": "no", "use_cpu": True}
        config = arguments.build("reward", args, {**reward.defaults(job), **given})
        model, _ = apply(models(kind), job.tuning, reward=True)
        jobs.append(job)
        return reward.build(
            job,
            model,
            tokenizers(),
            Dataset.from_list(rows),
            config,
            callbacks or [],
            Dataset.from_list(held_out) if held_out else None,
        )

    make.jobs = jobs  # type: ignore[attr-defined]
    return make


def accuracy(trainer: Any, rows: list[dict[str, Any]]) -> float:
    model = RewardModel(trainer.model, trainer.processing_class)
    scored = model.score_pairs([pair(model.tokenizer, row) for row in rows])
    return sum(one > two for one, two in scored) / len(scored)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("tune", ["full", "top", "lora", "head"])
def test_a_planted_preference_is_found(
    build: Build, preferences: Callable[..., Any], tune: str, pooling: str
) -> None:
    tuning = {"tune": tune, "top_layers": 1, "lora": {"r": 4}}
    options = {"pooling": pooling, "l2": 0.01}
    trainer = build(
        preferences(120), tuning=tuning, options=options, learning_rate=1e-2, num_train_epochs=2
    )
    trainer.train()
    assert accuracy(trainer, preferences(60, seed=1)) > 0.9
    logged = trainer.state.log_history[-2 if tune != "head" else -1]
    assert {"accuracy", "margin", "mean_reward", "loss"} <= logged.keys()


def test_the_loss_is_trls(build: Build, preferences: Callable[..., Any]) -> None:
    """The first step's loss, margins and a centre included, equals that of TRL's own trainer."""
    from datasets import Dataset
    from trl.trainer.reward_trainer import RewardTrainer

    rows = [row | {"margin": i / 8} for i, row in enumerate(preferences(8))]
    args = {"center_rewards_coefficient": 0.1, "per_device_train_batch_size": 8}
    ours = build(rows, **args)
    theirs = RewardTrainer(
        model=ours.model,
        args=ours.args,
        train_dataset=Dataset.from_list(rows),
        processing_class=ours.processing_class,
    )
    losses = []
    for trainer in (ours, theirs):
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
        losses.append(trainer.compute_loss(trainer.model, batch).item())
    assert ours.unpacked is None
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for name in ("accuracy", "margin", "min_reward", "mean_reward", "max_reward"):
        one, two = (trainer._metrics["eval"][name][0] for trainer in (ours, theirs))
        assert one == pytest.approx(two, abs=1e-5), name


def test_packed_and_unpacked_training_agree(
    build: Build, preferences: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("packed", "unpacked"):
        if name == "unpacked":
            monkeypatch.setattr("engine_train.reward_trainer.why_not", lambda model: "a test")
        trainer = build(preferences(32), name=name, learning_rate=1e-3)
        trainer.train()
        assert reward.metrics(trainer, [])["packed"] == (name == "packed")
        found.append([record.get("loss") for record in trainer.state.log_history])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_a_head_is_the_minimum_of_its_loss(build: Build, preferences: Callable[..., Any]) -> None:
    import torch
    from engine_train.reward_trainer import fit

    torch.manual_seed(1)
    states = torch.randn(50, 2, 6, dtype=torch.float64) * torch.arange(1, 7)
    margin = torch.rand(50, dtype=torch.float64)
    weights, _ = fit(states, 0.1, margin, 0.05)
    weights.requires_grad_()
    apart, both = states[:, 0] - states[:, 1], states.sum(1)
    scale = apart.square().mean(0).sqrt()
    loss = torch.nn.functional.softplus(margin - apart @ weights).mean()
    loss = loss + 0.05 * (both @ weights).square().mean()
    loss = loss + 0.05 * (weights * scale).square().sum()
    loss.backward()
    assert weights.grad is not None
    assert weights.grad.abs().max() < 1e-5


def test_a_head_moves_nothing_else_and_resumes_from_its_states(
    build: Build, preferences: Callable[..., Any], tmp_path: Path
) -> None:
    trainer = build(preferences(40), tuning={"tune": "head"}, name="one")
    before = {n: w.clone() for n, w in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert [n for n in before if not before[n].equal(after[n])] == ["score.weight"]
    assert sorted((tmp_path / "one" / "features").iterdir())

    again = build(preferences(40), tuning={"tune": "head"}, name="one")
    again._forward = None  # the states that are kept must do
    again.train()
    assert again.model.score.weight.equal(after["score.weight"])


class Killed(BaseException):
    """A kill."""


def test_a_head_whose_states_were_cut_short_ends_the_same(
    build: Build, preferences: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine_train.rewards import chunks
    from transformers import TrainerCallback

    class Kill(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                raise Killed

    monkeypatch.setattr("engine_train.reward_trainer.chunks", lambda sizes: chunks(sizes, 100))
    tuning = {"tune": "head"}
    whole = build(preferences(40), tuning=tuning, name="whole")
    whole.train()
    with pytest.raises(Killed):
        build(preferences(40), tuning=tuning, name="cut", callbacks=[Kill()]).train()
    again = build(preferences(40), tuning=tuning, name="cut")
    forward, computed = again._forward, []
    again._forward = lambda examples: computed.append(1) or forward(examples)
    again.train()
    assert again.model.score.weight.equal(whole.model.score.weight)
    assert len(computed) == len(list((whole.features).iterdir())) - 3


def test_a_saved_model_is_read_as_it_was_trained(
    build: Build, preferences: Callable[..., Any], tmp_path: Path
) -> None:
    options = {"pooling": "mean", "max_prompt": 4, "max_reply": 2}
    trainer = build(preferences(24), tuning={"tune": "head"}, options=options)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    trainer.processing_class.save_pretrained(tmp_path / "saved")
    model = RewardModel.load(tmp_path / "saved")
    assert (model.pooling, model.max_prompt, model.max_reply) == ("mean", 4, 2)
    assert reward.metrics(trainer, [])["cut_prompts"] > 0
    assert reward.metrics(trainer, [])["cut_replies"] > 0
    kept = {"pooling": None, "max_prompt": None, "max_reply": None}
    again = build(preferences(8), options=kept)
    assert again.pooling == "last"


def test_the_base_says_what_is_left_out(
    build: Build, preferences: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaConfig

    monkeypatch.setattr(LlamaConfig, "reward_pooling", "mean", raising=False)
    monkeypatch.setattr(LlamaConfig, "reward_max_prompt", 5, raising=False)
    trainer = build(preferences(8))
    assert (trainer.pooling, trainer.sizes) == ("mean", (5, None))
    told = build.jobs[-1].options  # type: ignore[attr-defined]
    assert told == {"pooling": "mean", "max_prompt": 5, "max_reply": None}
    assert build(preferences(8), options={"pooling": "last"}).pooling == "last"


def test_held_out_pairs_are_evaluated(build: Build, preferences: Callable[..., Any]) -> None:
    trainer = build(
        preferences(40),
        tuning={"tune": "head"},
        held_out=preferences(20, seed=2),
        options={"pooling": "mean"},
    )
    trainer.train()
    found = trainer.evaluate()
    assert found["eval_loss"] < 0.6
    assert trainer.state.log_history[-1]["eval_accuracy"] > 0.8


def test_pairs_that_are_too_long_are_counted(build: Build, preferences: Callable[..., Any]) -> None:
    long = {"chosen_ids": [5] * 90 + [6], "rejected_ids": [5] * 90 + [7]}
    short = {"chosen_ids": [5, 6], "rejected_ids": [5, 7]}
    trainer = build([long, short], max_length=50)
    assert len(trainer.train_dataset) == 1
    assert reward.metrics(trainer, [])["too_long"] == 1
    with pytest.raises(
        TrainingError, match="no pair .* is left: all 1 are longer than `max_length"
    ):
        build([long], max_length=50)


def test_a_reply_without_text_is_an_error(build: Build) -> None:
    with pytest.raises(TrainingError, match="row 1: `rejected` has no text"):
        build([{"chosen_ids": [5, 6], "rejected_ids": [0, 0]}])


def test_a_row_that_lacks_a_reply_is_named(build: Build) -> None:
    rows = [{"chosen_ids": [5, 6], "rejected_ids": [5, 7]}, {"chosen_ids": [5, 6]}]
    with pytest.raises(TrainingError, match="row 2: `rejected_ids` is empty or missing"):
        build(rows)


def test_rows_without_a_margin_have_none(build: Build) -> None:
    pairs = {"chosen_ids": [5, 6], "rejected_ids": [5, 7]}
    trainer = build([pairs | {"margin": 2.0}, pairs])
    assert list(trainer.train_dataset["margin"]) == [2.0, 0.0]


def test_adapters_apart_cannot_say_how_they_are_read(
    build: Build, preferences: Callable[..., Any]
) -> None:
    tuning = {"tune": "lora", "save": "adapter"}
    with pytest.raises(TrainingError, match="adapters keep no `pooling: mean`"):
        build(preferences(8), tuning=tuning, options={"pooling": "mean"})
    assert build(preferences(8), tuning=tuning).pooling == "last"


TEXT, MESSAGES = "yes", [{"role": "assistant", "content": "yes"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": TEXT, "answer": TEXT},
            "needs `chosen` and `rejected`; the dataset has prompt, answer",
        ),
        (
            {"chosen": TEXT, "text": TEXT},
            "needs `chosen` and `rejected`; the dataset has chosen, text",
        ),
        ({"chosen": TEXT, "rejected": MESSAGES}, "`chosen` is a text, `rejected` is a list"),
        ({"prompt": TEXT, "chosen": MESSAGES, "rejected": MESSAGES}, "`prompt` is a text"),
        ({"chosen": 1, "rejected": 2}, "`chosen` is int"),
        ({"chosen": TEXT, "rejected": TEXT, "margin": "big"}, "`margin` is a text: it must be a"),
        ({"chosen_ids": "5 6", "rejected_ids": "5 7"}, "`chosen_ids` is a text"),
    ],
)
def test_a_dataset_of_another_kind_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        reward.check(list(row), row)


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": TEXT, "rejected": TEXT},
        {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES, "margin": 0.5, "set": "a"},
        {"chosen_ids": [5], "rejected_ids": [6]},
        {"chosen_ids": [5], "rejected_ids": [6], "chosen": TEXT, "rejected": TEXT},
    ],
)
def test_trls_formats_go_in_unchanged(row: dict[str, Any]) -> None:
    reward.check(list(row), row)
