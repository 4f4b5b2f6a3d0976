"""A training, as a worker runs it: what it writes, how it resumes, what stops it."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from engine_train.bases import Base, load_reward
from engine_train.callbacks import Keeper
from engine_train.errors import TrainingError
from engine_train.training import train
from kill_training import SCORE, rows

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and TRL
METHODS = ["sft", "reward", "dpo", "grpo"]
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}
ARGS = {"max_steps": 8, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4}
MORE = {"grpo": {"num_generations": 2, "max_completion_length": 6, "learning_rate": 1e-3}}
Say = Callable[[Mapping[str, Any]], None]


class Killed(BaseException):
    """What a kill is in these tests: nothing that runs after it can mend anything."""


def nobody(answer: Mapping[str, Any]) -> None:
    """Listen to nothing."""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Make a job of a method: a tiny new model, made-up rows."""

    def make(method: str, name: str = "work", *, data: Any = None, **args: Any) -> dict[str, Any]:
        workdir = tmp_path / name
        workdir.mkdir(exist_ok=True)
        dataset = tmp_path / f"{method}.jsonl"
        lines = [orjson.dumps(row) for row in (rows(method) if data is None else data)]
        dataset.write_bytes(b"\n".join(lines))
        (tmp_path / "score.py").write_text(SCORE)
        options = {"reward_file": str(tmp_path / "score.py")} if method == "grpo" else {}
        return {
            "method": method,
            "base": {"model": {"config": LLAMA}},
            "dataset": str(dataset),
            "output": str(workdir / "model"),
            "workdir": str(workdir),
            "seed": 5,
            "args": ARGS | MORE.get(method, {}) | args,
            "options": options,
        }

    return make


def files(asked: Mapping[str, Any]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(asked["output"]).iterdir()}


def killed_at(step: int) -> Say:
    def listen(answer: Mapping[str, Any]) -> None:
        if answer["say"].startswith(f"step {step} "):
            raise Killed

    return listen


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_training_ends_in_the_same_bytes(
    method: str, job: Callable[..., dict[str, Any]]
) -> None:
    whole, killed = job(method, "whole"), job(method, "killed")
    train(whole, nobody)
    for step in (3, 7):  # once between checkpoints, once after some
        with pytest.raises(Killed):
            train(killed, killed_at(step))
    said: list[str] = []
    train(killed, lambda answer: said.append(answer["say"]))
    assert next(text for text in said if text.startswith("step")).startswith(
        "step 7 of 8 (resumed after 6)"
    )
    assert files(whole) == files(killed)
    assert "model.safetensors" in files(whole)


@pytest.mark.parametrize("method", ["sft", "reward"])
def test_rows_grouped_by_length_are_resumed_within_a_later_epoch(
    method: str, job: Callable[..., dict[str, Any]]
) -> None:
    """Five steps an epoch: killed in the second one, within which the order must be the same."""
    args = {"max_steps": 13, "train_sampling_strategy": "group_by_length"}
    data = list(rows(method, 20))
    whole, killed = (
        job(method, "whole", data=data, **args),
        job(method, "killed", data=data, **args),
    )
    train(whole, nobody)
    for step in (9, 13):
        with pytest.raises(Killed):
            train(killed, killed_at(step))
    train(killed, nobody)
    assert files(whole) == files(killed)


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_a_reference_that_follows_the_model_is_resumed(
    method: str, job: Callable[..., dict[str, Any]]
) -> None:
    args = {"sync_ref_model": True, "ref_model_sync_steps": 2, "learning_rate": 1e-2}
    args |= {"beta": 0.5} if method == "grpo" else {}
    whole, killed = job(method, "whole", **args), job(method, "killed", **args)
    train(whole, nobody)
    with pytest.raises(Killed):
        train(killed, killed_at(5))
    train(killed, nobody)
    assert files(whole) == files(killed)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_tells_nothing_of_the_machine(
    method: str, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    asked = job(method)
    train(asked, nobody)
    found = files(asked)
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= found.keys()
    assert "training_args.bin" not in found
    for name, data in found.items():
        assert str(tmp_path).encode() not in data, name
        assert b"runtime" not in data, name
    record = json.loads(found["training.json"])
    assert record["method"] == method
    assert [r["step"] for r in record["history"] if "loss" in r] == list(range(1, 9))
    assert record["metrics"]["steps"] == 8


def test_a_checkpoint_that_was_cut_short_is_not_used(job: Callable[..., dict[str, Any]]) -> None:
    whole, cut = job("sft", "whole"), job("sft", "cut")
    train(whole, nobody)
    with pytest.raises(Killed):
        train(cut, killed_at(7))
    last = Path(cut["workdir"], "checkpoints", "checkpoint-6")
    (last / "complete").unlink()  # as a kill while it was written leaves it
    (last / "model.safetensors").write_bytes(b"half")
    train(cut, nobody)
    assert files(whole) == files(cut)


def test_a_kill_while_a_checkpoint_is_saved_leaves_the_one_before(
    job: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = (
        job("sft", "whole", save_total_limit=1),
        job("sft", "killed", save_total_limit=1),
    )
    train(whole, nobody)
    with monkeypatch.context() as patch:

        def on_save(self: Any, args: Any, state: Any, *given: Any, **more: Any) -> Any:
            if state.global_step == 6:
                raise Killed
            return usual(self, args, state, *given, **more)

        usual = Keeper.on_save
        patch.setattr(Keeper, "on_save", on_save)
        with pytest.raises(Killed):
            train(killed, nobody)
    said: list[str] = []
    train(killed, lambda answer: said.append(answer["say"]))
    assert next(text for text in said if text.startswith("step")).startswith("step 5 of 8")
    assert files(whole) == files(killed)


def test_steps_as_shares_of_the_training(job: Callable[..., dict[str, Any]]) -> None:
    """A log every six steps, and a checkpoint no more often, though one is due every three."""
    shares = {"logging_steps": 0.5, "save_steps": 0.25, "max_steps": 12}
    whole, killed = job("sft", "whole", **shares), job("sft", "killed", **shares)
    train(whole, nobody)
    with pytest.raises(Killed):
        train(killed, killed_at(12))
    kept = Path(killed["workdir"], "checkpoints").glob("checkpoint-*/complete")
    assert [path.parent.name for path in kept] == ["checkpoint-6"]
    train(killed, nobody)
    assert files(whole) == files(killed)


def test_asked_to_stop_it_saves_and_ends(job: Callable[..., dict[str, Any]]) -> None:
    whole, stopped = job("sft", "whole"), job("sft", "stopped", save_steps=100)
    train(job("sft", "whole", save_steps=100), nobody)
    stop = Path(stopped["workdir"], "stop")

    def ask(answer: Mapping[str, Any]) -> None:
        if answer["say"].startswith("step 3 "):
            stop.touch()

    assert train(stopped, ask)["stopped"]
    assert not Path(stopped["output"]).exists()
    stop.unlink()
    assert not train(stopped, nobody)["stopped"]
    assert files(whole) == files(stopped)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    job: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    compute = SFTTrainer.compute_loss

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 4 else loss

    monkeypatch.setattr(SFTTrainer, "compute_loss", broken)
    asked = job("sft")
    with pytest.raises(TrainingError, match="loss is nan at step 5.*checkpoint of step 4 is kept"):
        train(asked, nobody)
    assert Path(asked["workdir"], "checkpoints", "checkpoint-4", "complete").exists()
    assert not Path(asked["workdir"], "checkpoints", "checkpoint-6").exists()


@pytest.mark.parametrize(("steps", "kept"), [(1, "no checkpoint was saved"), (4, "step 2 is kept")])
def test_weights_that_are_no_numbers_are_neither_kept_nor_given_out(
    steps: int, kept: str, job: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that breaks them has a good loss: the next one would tell, if there were one."""
    from trl import SFTTrainer

    class Blowing(torch.optim.SGD):
        """Breaks the weights in the last step of the training."""

        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps == min(steps, 3):
                self.param_groups[0]["params"][0].data.fill_(float("inf"))

    def optimizer(self: Any, model: Any = None) -> Any:
        self.optimizer = Blowing(self.model.parameters(), lr=1e-3)
        return self.optimizer

    monkeypatch.setattr(SFTTrainer, "create_optimizer", optimizer)
    asked = job("sft", max_steps=steps, save_steps=1 if steps > 1 else 2)
    with pytest.raises(
        TrainingError, match=f"weights are no numbers after step {min(steps, 3)}.*{kept}"
    ):
        train(asked, nobody)
    assert not Path(asked["output"]).exists()
    assert not Path(asked["workdir"], "checkpoints", "checkpoint-3").exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the dataset is empty"),
        ([{"question": "a", "answer": "b"}], "train.{method} needs .*has question, answer"),
    ],
)
def test_a_dataset_that_cannot_be_used(
    method: str, data: Any, message: str, job: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(TrainingError, match=message.format(method=method)):
        train(job(method, data=data), nobody)


def test_a_column_that_the_first_row_lacks_is_read(job: Callable[..., dict[str, Any]]) -> None:
    pair = {"prompt": "a", "chosen": " b", "rejected": " c"}
    data = [pair, *([pair | {"margin": 2.0}] * 7)]
    easy = train(job("reward", "without", data=[pair] * 8), nobody)["metrics"]["loss"]
    hard = train(job("reward", "beside", data=data), nobody)["metrics"]["loss"]
    assert hard > easy + 0.5


def test_a_column_of_texts_and_lists(job: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(TrainingError, match="do not go together.*make its values alike"):
        train(job("sft", data=[{"text": "a"}, {"text": ["b"]}]), nobody)


def test_two_formats_in_one_dataset(job: Callable[..., dict[str, Any]]) -> None:
    both = [{"text": "a b", "messages": [{"role": "user", "content": "a"}]}]
    with pytest.raises(TrainingError, match=r"has messages and text: name the columns"):
        train(job("sft", data=both), nobody)


def test_conversations_need_a_chat_template(job: Callable[..., dict[str, Any]]) -> None:
    turns = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "b a"}]
    first = job("sft", "first", data=[{"text": "a b"}] * 8)
    train(first, nobody)
    bare = Path(first["output"])
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    asked = job("sft", data=[{"messages": turns}] * 8) | {"base": {"model": str(bare)}}
    with pytest.raises(TrainingError, match="no chat template"):
        train(asked, nobody)


def test_a_row_longer_than_the_model_reads(job: Callable[..., dict[str, Any]]) -> None:
    data = [{"text": "a b"}] * 3 + [{"text": "a b " * 100}]
    with pytest.raises(
        TrainingError, match=r"row 4 of dataset has 20\d tokens and the model reads 128"
    ):
        train(job("sft", data=data), nobody)


def test_another_seed_gives_another_model(job: Callable[..., dict[str, Any]]) -> None:
    first, second = job("sft", "first"), job("sft", "second") | {"seed": 6}
    train(first, nobody)
    train(second, nobody)
    assert files(first)["model.safetensors"] != files(second)["model.safetensors"]


def test_held_out_rows_are_evaluated_and_not_trained_on(
    job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    alone, beside = job("sft", "alone"), job("sft", "beside")
    shutil.copy(alone["dataset"], tmp_path / "held_out.jsonl")
    beside["held_out"] = str(tmp_path / "held_out.jsonl")
    plain, evaluated = train(alone, nobody), train(beside, nobody)
    assert "eval_loss" not in plain["metrics"]
    assert evaluated["metrics"]["eval_loss"] > 0
    assert files(alone)["model.safetensors"] == files(beside)["model.safetensors"]


def test_held_out_rows_have_the_columns_of_the_others(
    job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    asked = job("sft")
    (tmp_path / "held_out.jsonl").write_text('{"text": "a b"}')
    with pytest.raises(TrainingError, match="`held_out` has no completion and no prompt"):
        train(asked | {"held_out": str(tmp_path / "held_out.jsonl")}, nobody)


def test_adapters_of_a_reward_model_that_began_as_a_language_model_are_read_again(
    job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    first = job("sft", "first", data=[{"text": "a b red blue"}] * 8)
    train(first, nobody)
    base = {"folder": first["output"], "artifact": f"artifact:{'0' * 32}:1"}
    tuning = {"tune": "lora", "save": "adapter"}
    asked = job("reward", learning_rate=0.1) | {"base": base, "tuning": tuning}
    train(asked, nobody)
    read = Base(folder=asked["output"], artifact=f"artifact:{'1' * 32}:1", adapts=first["output"])
    model, _ = load_reward(read, seed=0)
    assert model.config.num_labels == 1
    assert model.score.weight.abs().max() > 0


def test_objects_of_other_keys_stay_as_they_are(tmp_path: Path) -> None:
    """A tool's arguments are not given the keys of all others', nor a message a name of null."""
    from engine_train.data import load_rows

    calls = [{"function": {"name": "f", "arguments": given}} for given in ({"x": 1}, {"y": "q"})]
    data = [
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]} for call in calls
    ]
    data.append({"messages": [{"role": "user", "content": "a", "name": "bob"}]})
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, data)))
    assert list(load_rows(tmp_path / "rows.jsonl")) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"text": "a"}, {"text": None}], "row 2 of the dataset has no `text`"),
        ([{"text": "a"}, {"text": ["b"]}], "`text` holds lists and texts"),
        (
            [{"messages": [{"from": "human", "value": "a"}]}],
            "`messages` holds objects with from, value; a message has a `role`",
        ),
        ([{"messages": [{"role": "human", "content": "a"}]}], "holds a role 'human'"),
        ([{"messages": [{"role": "user", "content": "a"}]}], "nothing .* said by the assistant"),
    ],
)
def test_rows_that_are_not_whole(
    data: Any, message: str, job: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(job("sft", data=data), nobody)


def test_an_empty_held_out_dataset_is_named(
    job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "none.jsonl").touch()
    asked = job("sft") | {"held_out": str(tmp_path / "none.jsonl")}
    with pytest.raises(TrainingError, match="the held-out dataset is empty"):
        train(asked, nobody)


def test_rows_that_are_cut_are_an_alarm(job: Callable[..., dict[str, Any]]) -> None:
    outcome = train(job("sft", max_length=8), nobody)
    assert outcome["metrics"]["reach_max_length"] == 40
    (alarm,) = outcome["alarms"]
    assert "40 of 40 rows reach `max_length: 8`" in alarm


def test_what_trl_refuses_is_not_tried_again(job: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(TrainingError, match="max_length"):
        train(job("sft", packing=True), nobody)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"learning_rate": -1.0}, "learning rate"),
        ({"max_steps": -1, "num_train_epochs": 0}, "not one step"),
    ],
)
def test_what_cannot_train_is_told_once(
    args: dict[str, Any], message: str, job: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(job("sft", **args), nobody)


def test_the_last_evaluation_counts(job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    asked = job("sft", eval_strategy="steps", eval_steps=1, learning_rate=1e-2)
    asked["held_out"] = asked["dataset"]
    outcome = train(asked, nobody)
    history = json.loads(files(asked)["training.json"])["history"]
    losses = [record["eval_loss"] for record in history if "eval_loss" in record]
    assert len(set(losses)) > 5
    assert outcome["metrics"]["eval_loss"] == losses[-1]
