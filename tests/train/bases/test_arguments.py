"""TRL's arguments: what is refused before anything runs, and what becomes of the others."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_train.arguments import build, check
from engine_train.errors import TrainingError
from engine_train.launching import check_deepspeed, check_launch

from engine import PipelineError
from engine.loader import loads
from engine.pipeline import read_pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and TRL
METHODS = ["sft", "reward", "dpo", "grpo"]
STAGES = '''
from functools import partial
from typing import Annotated, Any
from collections.abc import AsyncIterator

from engine import Row, stage
from engine_train.arguments import READ, check
from engine_train.bases import ModelSource, Scratch
from pydantic import AfterValidator


class Made(Row):
    made: int


@stage("t.train")
async def train(
    *,
    model: ModelSource | Scratch | None = None,
    args: Annotated[dict[str, Any], AfterValidator(partial(check, "sft")), READ] = {},
) -> AsyncIterator[Made]:
    """Make a row."""
    yield Made(1)
'''
Read = Callable[[str], Any]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return the only stage of a pipeline, as it is read with a `with:`."""

    def read(config: str, folder: Path = tmp_path) -> Any:
        (folder / "stages.py").write_text(STAGES)
        text = f"name: p\nstages:\n  a:\n    use: ./stages.py:train\n    with: {config}\n"
        return read_pipeline(loads(text, folder=folder)).stages["a"]

    return read


@pytest.mark.parametrize("method", METHODS)
def test_arguments_pass_as_they_are(method: str) -> None:
    args = {
        "learning_rate": 1,  # an integer is a number
        "lr_scheduler_type": "cosine",
        "max_steps": 3,
        "optim": "adafactor",
        "report_to": "none",
        "logging_steps": 2,
    }
    assert check(method, args) == args
    assert check(method, {}) == {}


@pytest.mark.parametrize(
    ("method", "args", "says"),
    [
        ("sft", {"learning_rat": 1e-4}, "SFTConfig has no argument 'learning_rat'; did you mean 'lea"),
        ("sft", {"beta": 0.1}, "SFTConfig has no argument 'beta'"),
        ("sft", {"learning_rate": "fast"}, "`learning_rate` should be a valid number, not 'fast'"),
        ("sft", {"max_length": "512"}, "`max_length` should be .*integer.*, not '512'"),
        ("sft", {"packing": "yes"}, "`packing` should be a valid boolean, not 'yes'"),
        ("sft", {"truncation_mode": "end"}, "should be keep_end or keep_start, not 'end'"),
        ("sft", {"lr_scheduler_type": "cosin"}, "not 'cosin'; did you mean 'cosine'?"),
        ("sft", {"logging_steps": 0}, "requires non-zero"),
        ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, "same length as"),
        ("grpo", {"num_generations": 1}, "at least 2 generations"),
        ("grpo", {"num_generations": 3, "generation_batch_size": 4}, "must be divisible"),
        ("sft", {"output_dir": "x"}, "`output_dir` is not yours to set: .*artifact.write"),
        ("sft", {"logging_strategy": "epoch"}, "is not yours to set: .*`logging_steps`"),
        ("dpo", {"eval_on_start": True}, "is not yours to set: .*`held_out`"),
        ("dpo", {"push_to_hub": True}, "is not yours to set: .*`hub:`"),
        ("dpo", {"hub_model_id": "a/b"}, "is not yours to set: .*`hub:`"),
        ("sft", {"resume_from_checkpoint": "x"}, "goes on from its last checkpoint"),
        ("sft", {"save_strategy": "epoch"}, "`save_steps` says how often"),
        ("sft", {"load_best_model_at_end": True}, "`save_steps` says how often"),
        ("sft", {"seed": 3}, "rows carry a `seed`"),
        ("sft", {"model_init_kwargs": {}}, "say it of the model"),
        ("sft", {"report_to": "tensorbord"}, "not 'tensorbord'; did you mean 'tensorboard'?"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_are_told(method: str, args: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check(method, args)


def test_a_tracker_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    missing = ("wandb", "trackio", "tensorboard", "tensorboardX")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n in missing else found(n, *a)
    )
    for name in ("wandb", "trackio", "tensorboard"):
        with pytest.raises(ValueError, match=f"`report_to: {name}` needs `pip install {name}`"):
            check("sft", {"report_to": ["none", name]})


def test_checking_asks_for_no_device() -> None:
    from accelerate.state import PartialState

    before = dict(PartialState._shared_state)
    check("grpo", {"num_generations": 4})
    assert before == PartialState._shared_state


@pytest.mark.parametrize("name", ["bf16", "fp16", "tf32"])
def test_a_number_format_that_needs_a_device_is_told(name: str, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(TrainingError, match=f"`{name}: true` needs .*CUDA device"):
        check("sft", {name: True})
    with pytest.raises(TrainingError, match=f"`{name}: true` needs .*CUDA device"):
        build("sft", {name: True}, {"output_dir": str(tmp_path)})


@pytest.mark.parametrize("method", METHODS)
def test_what_is_built_has_the_users_values_over_the_defaults(method: str, tmp_path: Path) -> None:
    defaults = {"output_dir": str(tmp_path), "max_steps": 5, "learning_rate": 0.5}
    config = build(method, {"max_steps": 7}, defaults)
    assert (config.max_steps, config.learning_rate) == (7, 0.5)
    assert config.bf16 is False or config.device.type == "cuda"


def test_a_file_is_relative_to_the_pipeline_and_counts_by_content(
    read: Read, tmp_path: Path
) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    given = read("{args: {chat_template_path: chat.jinja}}")
    assert given.config["args"] == {"chat_template_path": tmp_path / "chat.jinja"}
    (tmp_path / "chat.jinja").write_text("{{ other }}")
    assert read("{args: {chat_template_path: chat.jinja}}").fingerprint != given.fingerprint
    with pytest.raises(PipelineError, match="args: there is no file 'gone.jinja'"):
        read("{args: {chat_template_path: gone.jinja}}")
    assert read("{args: {chat_template_path: org/model}}").config["args"] == {
        "chat_template_path": "org/model"
    }


def test_a_wrong_argument_is_told_with_its_place(read: Read) -> None:
    with pytest.raises(PipelineError, match=r"5:18: .* args: SFTConfig has no argument 'max_step'"):
        read("{args: {max_step: 1}}")


def test_a_folder_of_a_model_counts_by_content_and_a_hub_id_by_its_revision(
    read: Read, tmp_path: Path
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    before = read("{model: ./tiny}")
    assert before.config["model"] == tmp_path / "tiny"
    inside = read("{model: {model: ./tiny, layers: 2}}")
    assert inside.config["model"].model == tmp_path / "tiny"
    (tmp_path / "tiny" / "config.json").write_text("{ }")
    assert read("{model: ./tiny}").fingerprint != before.fingerprint
    assert read("{model: {model: ./tiny, layers: 2}}").fingerprint != inside.fingerprint
    hub = read("{model: org/name}")
    assert hub.config["model"] == "org/name"
    prints = {
        read(f"{{model: {{model: org/name, revision: {name}}}}}").fingerprint for name in "ab"
    }
    assert len(prints | {hub.fingerprint}) == 3
    new = read("{model: {config: {model_type: llama}, max_words: 9}}").config["model"]
    assert new.max_words == 9
    with pytest.raises(PipelineError, match="model: there is no file or folder 'gone'"):
        read("{model: ./gone}")
    with pytest.raises(PipelineError, match="unknown key 'layer': did you mean 'layers'"):
        read("{model: {model: org/name, layer: 2}}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "`deepspeed`: there is no file ds.json"),
        ("{", "`deepspeed`: ds.json is no JSON"),
        ("[]", "`deepspeed`: ds.json should hold a mapping"),
        ('{"zero_optimisation": {}}', "no key 'zero_optimisation'; did you mean 'zero_optimization'"),
        ('{"zero_optimization": 2}', "`zero_optimization` should be a mapping"),
    ],
)  # fmt: skip
def test_a_deepspeed_file_that_is_none_is_told(text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "ds.json").write_text(text)
    with pytest.raises(TrainingError, match=says):
        check_deepspeed(tmp_path / "ds.json")


def test_deepspeed_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(TrainingError, match="needs `pip install deepspeed`"):
        check_deepspeed({"zero_optimization": {"stage": 2}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a", "`launch`: launch.yaml should hold a mapping"),
        ("a: [", "`launch`: launch.yaml is no YAML"),
        ("num_process: 2", "no key 'num_process'; did you mean 'num_processes'?"),
        ("compute_environment: AMAZON_SAGEMAKER", "only `compute_environment: LOCAL_MACHINE`"),
        ("distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: x.json}", "no file x.j"),
    ],
)  # fmt: skip
def test_a_launch_file_that_is_none_is_told(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "launch.yaml").write_text(text)
    with pytest.raises(TrainingError, match=says):
        check_launch(tmp_path / "launch.yaml")


EXAMPLES = Path(__file__).parents[3] / "examples" / "train"


def test_the_examples_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: n == "deepspeed" or real(n, *a))
    launches = sorted(EXAMPLES.glob("launch*.yaml"))
    assert launches
    for file in launches:
        check_launch(file)
    for file in sorted(EXAMPLES.glob("deepspeed*.json")):
        check_deepspeed(file)
        assert json.loads(file.read_text())["zero_optimization"]["stage"] in (2, 3)


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ({}, (True, False, True)),
        ({"fp16": True}, (False, True, True)),
        ({"use_cpu": True}, (False, False, False)),
    ],
)
def test_a_training_beside_a_gpu_with_bfloat16(
    args: dict[str, Any], found: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given wins over what suits the device, and `use_cpu` is float32 as elsewhere."""
    import torch
    import trl
    from engine_train.training import OWN

    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(trl, "SFTConfig", lambda **settings: asked.update(settings))
    build("sft", args, OWN | {"output_dir": "out"})
    names = ("bf16", "fp16", "gradient_checkpointing")
    assert tuple(asked.get(name, False) for name in names) == found
