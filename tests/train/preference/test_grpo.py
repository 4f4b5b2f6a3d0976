"""GRPO: what rewards a reply, what is checked before the start, and a resume to the bit."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_train import grpo
from engine_train.errors import TrainingError
from engine_train.history import clean
from engine_train.tuning import Tuning

pytestmark = pytest.mark.filterwarnings("ignore")
Make = Callable[..., Any]
Rows = list[dict[str, Any]]
ARGS = {"max_steps": 1, "num_generations": 4, "max_completion_length": 6, "learning_rate": 1e-2}
HERE = "def reward(prompts, completions, target, **columns):\n"
NEAR = HERE + "    return [-abs(len(set(c.split())) - t) for c, t in zip(completions, target)]\n"


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("trl").setLevel(logging.ERROR)


@pytest.fixture
def scored(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Return a function that writes a reward file, and gives the options that name it."""

    def write(text: str = NEAR, **more: Any) -> dict[str, Any]:
        path = tmp_path / "score.py"
        path.write_text(text)
        return {"reward_file": path, **more}

    return write


def same(one: Any, two: Any) -> bool:
    first, second = one.model.state_dict(), two.model.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    ("args", "at"),
    [
        ({"max_steps": 8}, 7),  # in the second epoch, whose order is another
        # Replies are made every 4 steps: the checkpoint falls into the midst of them.
        ({"max_steps": 7, "num_iterations": 2, "steps_per_generation": 2}, 5),
        ({"max_steps": 4, "beta": 0.1, "gradient_accumulation_steps": 2}, 2),
    ],
)
def test_a_resumed_training_ends_in_the_same_bits(
    resumed: Callable[..., tuple[Any, Any]],
    prompts: Rows,
    scored: Callable[..., Any],
    args: dict[str, Any],
    at: int,
) -> None:
    whole, again = resumed("grpo", prompts, ARGS | args, at=at, options=scored())
    assert same(whole, again)
    history = clean(whole.state.log_history)
    assert history == clean(again.state.log_history)
    assert len({record["grad_norm"] for record in history}) > 2


def test_the_order_of_each_epoch_is_another(
    make: Make, prompts: Rows, scored: Callable[..., Any]
) -> None:
    trainer = make("grpo", prompts, ARGS, options=scored())
    sampler = trainer._get_train_sampler()
    orders = []
    for epoch in (0, 1, 1):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] != orders[1] == orders[2]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted([*range(6)] * 4)


def shaken(model: Any, tokenizer: Any) -> None:
    """Change a model after it was loaded, as cutting layers off does."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.sin(torch.arange(parameter.numel())).view_as(parameter) * 0.1)
    model.config._name_or_path = ""


def test_the_reference_is_the_model_that_the_training_begins_with(
    make: Make, prompts: Rows, scored: Callable[..., Any]
) -> None:
    args = ARGS | {"beta": 0.5, "max_steps": 2}
    trainer = make("grpo", prompts, args, options=scored(), change=shaken)
    assert trainer.model.config._name_or_path == ""
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert first["kl"] == pytest.approx(0, abs=1e-9)
    assert second["kl"] > 1e-9


def test_a_function_is_given_the_columns(
    make: Make, prompts: Rows, scored: Callable[..., Any]
) -> None:
    options = scored(
        "SEEN = []\ndef mine(completions, target, *, prompts):\n"
        "    SEEN.extend(zip(prompts, target))\n"
        "    return [float(t) for t in target[:-1]] + [None]\n",
        reward_function="mine",
    )
    trainer = make("grpo", prompts, ARGS, options=options)
    trainer.train()
    seen = trainer.reward_funcs[0].__wrapped__.__globals__["SEEN"]
    assert len(seen) == 4
    assert set(seen) == {(seen[0][0], seen[0][1])} <= {(r["prompt"], r["target"]) for r in prompts}
    assert trainer.state.log_history[0]["rewards/mine/mean"] == seen[0][1]


def test_a_coroutine_may_reward(make: Make, prompts: Rows, scored: Callable[..., Any]) -> None:
    options = scored("async def reward(completions):\n    return [float(len(completions))] * 4\n")
    trainer = make("grpo", prompts, ARGS, options=options)
    trainer.train()
    assert trainer.state.log_history[0]["reward"] == 4


def test_a_function_of_a_package_may_reward(make: Make, prompts: Rows) -> None:
    trainer = make("grpo", prompts, ARGS, options={"reward_function": "operator:length_hint"})
    assert trainer.reward_func_names == ["length_hint"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing rewards the replies"),
        ({"reward_function": "reward"}, "names no module: say `package.module:function`"),
        ({"reward_function": "no.such:reward"}, "No module named 'no'"),
        (
            {"reward_function": "json:reward"},
            "json has no function reward; its functions are: .*dump",
        ),
        ({"reward_file": Path("gone.py")}, "there is no Python file gone.py"),
    ],
)
def test_a_reward_that_is_not_there_is_an_error(
    make: Make, prompts: Rows, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        make("grpo", prompts, ARGS, options=options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "def reward(completions, answer): ...",
            "asks for answer, which is no column of the dataset",
        ),
        ("def reward(completions, prompt): ...", "asks for prompt, which is no column"),
        ("def score(completions): ...", "has no function reward; its functions are: score"),
        ("import nothing_such", "score.py fails: ModuleNotFoundError"),
        ("def reward(:", "score.py fails: SyntaxError"),
    ],
)
def test_a_reward_that_cannot_be_called_is_an_error_before_the_start(
    make: Make, prompts: Rows, scored: Callable[..., Any], text: str, said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        make("grpo", prompts, ARGS, options=scored(text))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("[1.0]", r"reward\(\) gave 1 rewards for 4 replies"),
        ("1.0", r"reward\(\) gave 1 rewards for 4 replies"),
        ("['good'] * 4", "is no number"),
        ("[float('nan')] * 4", "gave the reward nan: a reward is a finite number, or None"),
    ],
)
def test_rewards_that_are_no_numbers_are_an_error(
    make: Make, prompts: Rows, scored: Callable[..., Any], answer: str, said: str
) -> None:
    options = scored(f"def reward(completions, **columns):\n    return {answer}\n")
    with pytest.raises(TrainingError, match=said):
        make("grpo", prompts, ARGS, options=options).train()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_function_that_fails_is_named(
    make: Make, prompts: Rows, scored: Callable[..., Any], kind: str
) -> None:
    options = scored(f"{kind} reward(completions):\n    return {{}}['x']\n")
    with pytest.raises(RuntimeError, match=r"reward\(\) failed: KeyError: 'x' \(score.py:2\)"):
        make("grpo", prompts, ARGS, options=options).train()


def test_a_reward_model_may_reward(make: Make, prompts: Rows, tmp_path: Path) -> None:
    from engine_train.rewards import RewardModel
    from transformers import LlamaConfig, LlamaForSequenceClassification

    plain = make("grpo", prompts, ARGS, options={"reward_function": "operator:length_hint"})
    tokenizer = plain.processing_class
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path / "reward"
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    trainer = make("grpo", prompts, ARGS, options={"reward_model": folder})
    replies = [" cat sings", " the dog"]
    given = [row["prompt"] for row in prompts[:2]]
    found = trainer.reward_funcs[0](prompts=given, completions=replies, target=[1, 2])
    model = RewardModel.load(folder)
    assert found == model.score([model.encode(*both) for both in zip(given, replies, strict=True)])
    trainer.train()
    assert trainer.state.log_history[0]["rewards/reward_model/std"] > 0


def test_rewards_that_are_all_equal_are_an_alarm(
    make: Make, prompts: Rows, scored: Callable[..., Any], ear: Any
) -> None:
    options = scored("def reward(completions):\n    return [0.0] * len(completions)\n")
    trainer = make("grpo", prompts, ARGS | {"max_steps": 12}, options=options, callbacks=[ear])
    trainer.train()
    history = trainer.state.log_history
    (said,) = grpo.alarms(trainer, history)
    assert "in 100% of the groups all replies had the same reward (the mean is 0)" in said
    assert grpo.metrics(trainer, history) == {"groups_without_signal": 1}
    assert ear.heard == [said]


def test_rewards_that_differ_are_none(
    make: Make, prompts: Rows, scored: Callable[..., Any]
) -> None:
    trainer = make("grpo", prompts, ARGS | {"max_steps": 2}, options=scored())
    trainer.train()
    assert grpo.alarms(trainer, trainer.state.log_history) == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            {"max_completion_length": 126},
            "prompt of row 1 has 4 tokens .*126: more than the 128 .*max_completion_length: 124",
        ),
        ({"per_device_train_batch_size": 28}, "6 prompts and a batch of replies needs 7"),
        ({"per_device_train_batch_size": 6}, r"\(6\) must be divisible by num_generations \(4\)"),
        ({"num_generations": 1}, "at least 2 generations"),
        ({"reward_weights": [1.0, 2.0]}, "`reward_weights` has 2 numbers for 1 rewards"),
    ],
)
def test_sizes_that_do_not_fit_are_an_error_before_the_start(
    make: Make, prompts: Rows, scored: Callable[..., Any], args: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        make("grpo", prompts, ARGS | args, options=scored())


def test_held_out_prompts_are_evaluated(
    make: Make, prompts: Rows, scored: Callable[..., Any]
) -> None:
    more: dict[str, Any] = {"options": scored(), "held_out": prompts[4:]}
    trainer = make("grpo", prompts[:4], ARGS, **more)
    trainer.train()
    assert trainer.evaluate()["eval_reward"] <= 0
    with pytest.raises(TrainingError, match="`per_device_eval_batch_size: 6` must be a multiple"):
        make("grpo", prompts[:4], ARGS | {"per_device_eval_batch_size": 6}, **more)


def test_the_batch_follows_the_group(make: Make, prompts: Rows, scored: Callable[..., Any]) -> None:
    trainer = make("grpo", prompts, ARGS | {"num_generations": 6}, options=scored())
    assert trainer.args.per_device_train_batch_size == 6


def test_adapters_leave_the_model_below_as_it_is(
    make: Make, prompts: Rows, scored: Callable[..., Any]
) -> None:
    args = ARGS | {"max_steps": 2, "beta": 0.5}
    trainer = make("grpo", prompts, args, options=scored(), tuning=Tuning(tune="lora"))
    before = {k: v.clone() for k, v in trainer.model.state_dict().items() if "lora" not in k}
    trainer.train()
    after = trainer.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert trainer.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "a"}, "needs `prompt`; the dataset has question"),
        ({"prompt": 3}, "`prompt` to be a text or a list of messages"),
        ({"prompt": "a", "completions": "b"}, "the column completions has a name"),
    ],
)
def test_other_columns_are_an_error(row: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        grpo.check(list(row), row)


def test_conversations_are_prompts(make: Make, prompts: Rows, scored: Callable[..., Any]) -> None:
    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in prompts]
    options = scored(
        "def reward(completions):\n    return [float(len(c[0]['content'])) for c in completions]\n"
    )
    trainer = make("grpo", rows, ARGS, options=options)
    trainer.train()
    assert trainer.state.log_history[0]["reward"] > 0

    def untemplated(model: Any, tokenizer: Any) -> None:
        tokenizer.chat_template = None

    with pytest.raises(TrainingError, match="no chat template"):
        make("grpo", rows, ARGS, options=options, change=untemplated)
