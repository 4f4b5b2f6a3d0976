"""`train.models`: models of rows and folders, held, dropped, and used as chats in a run."""

import gc
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from engine_train.chats import TransformersChat
from engine_train.errors import TrainingError
from engine_train.models import Models

import engine
from engine import Artifact, Context, Row, Summary, Text, stage
from engine.chat import ChatError, Message, Sampling

pytestmark = pytest.mark.anyio

ASK = [Message(role="user", content=Text("say red"))]
SHORT = Sampling(seed=3, max_tokens=8, temperature=1, top_k=0, top_p=1, min_p=0)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that were loaded, in order."""
    from engine_train.serving import Serving

    seen: list[str] = []
    load = Serving.load

    def counted(self: Serving, base: Any) -> Any:
        seen.append(base.name)
        return load(self, base)

    monkeypatch.setattr(Serving, "load", counted)
    return seen


# --- in a run -------------------------------------------------------------------------------


class Seed(Row):
    seed: int


class Made(Row):
    model: Artifact


class Adapted(Row):
    adapters: Artifact
    expected: float


@stage("m.adapt", version="1")
async def adapt(model: Artifact, seed: int, *, ctx: Context) -> Adapted:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(ctx.blobs.path(model)),
        LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
    )
    with torch.inference_mode():
        values = adapted(torch.tensor([[3, 19, 5, 4]])).logits[0, -1].double().log_softmax(0)
    with ctx.blobs.new("application/x-transformers", folder=True) as writer:
        adapted.save_pretrained(writer.path)
        file = writer.path / "adapter_config.json"
        base = f"artifact:{model.digest}:{model.size}"
        settings = json.loads(file.read_text()) | {"base_model_name_or_path": base}
        file.write_text(json.dumps(settings))
    return Adapted(writer.artifact, float(values.max()))


class Best(Row):
    best: float


@stage("m.best", version="1")
async def best(model: Artifact, *, models: Models) -> Best:
    sampling = Sampling(max_tokens=1, temperature=1e-9)
    (reply,) = await models.chat(model).complete(ASK, sampling=sampling, top_logprobs=1)
    (token,) = reply.logprobs
    return Best(max(token.top.values()))


class Said(Row):
    said: Text
    pairs: int


@stage("m.seeds", version="1")
async def seeds() -> AsyncIterator[Seed]:
    for seed in (0, 1):
        yield Seed(seed).keyed(str(seed))


@stage("m.train", version="1")
async def train(seed: int, *, source: Path, ctx: Context) -> Made:
    with ctx.blobs.new("application/x-transformers", folder=True) as writer:
        for path in (source / str(seed)).iterdir():
            shutil.copy(path, writer.path)
    return Made(writer.artifact)


@stage("m.say", version="1")
async def say(
    model: Artifact, *, models: Models, refuse: int = 0, fail: Path | None = None
) -> Said:
    llm = models.chat(model)
    replies = await llm.complete(ASK, n=2, sampling=Sampling(max_tokens=5, temperature=1))
    if fail is not None and await anyio.Path(fail).exists():
        raise OSError("the machine is gone")
    (last,) = await llm.complete(ASK, sampling=Sampling(max_tokens=5, temperature=1))
    if len(last.text) < refuse:
        last.refuse("short")
    return Said(last.text, len(replies))


@pytest.fixture
def run_it(tmp_path: Path, tiny: Path, other: Path) -> Callable[..., Any]:
    shutil.copytree(tiny, tmp_path / "given" / "0")
    shutil.copytree(other, tmp_path / "given" / "1")
    path = tmp_path / "p.yaml"

    async def run(
        models: Models, extra: str = "", use: str = "m.say", between: str = ""
    ) -> tuple[Summary, list[Row]]:
        path.write_text(f"""
name: test
resources: {{models: {{use: models.given}}}}
stages:
  seeds: {{use: m.seeds}}
  train: {{use: m.train, with: {{source: {tmp_path / "given"}}}}}
  {between}
  say: {{use: {use}, with: {{models: models, {extra}}}}}
""")
        found = []
        options: dict[str, Any] = {
            "plugins": [seeds, train, say, adapt, best],
            "resources": {"models": models},
        }
        async with engine.open(path, **options) as run:
            found = [row async for row in run]
            await run.finish()
        return run.summary, sorted(found, key=lambda row: row["seed"])

    return run


async def test_a_model_made_upstream_is_used_downstream(
    run_it: Any, tiny: Path, loads: list[str]
) -> None:
    async with Models(keep=1) as models:
        summary, rows = await run_it(models)
        assert summary.status == "done"
        assert summary.stages["say"].calls == 6
        assert [row["pairs"] for row in rows] == [2, 2]
        artifact = rows[0]["model"]
        assert set(loads) == {f"artifact:{r['model'].digest}:{r['model'].size}" for r in rows}
        # A folder with the same bytes is the same model.
        assert artifact.digest in TransformersChat(model=tiny).identity
        assert rows[0]["said"].origin.params["model"] == TransformersChat(model=tiny).identity


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # in peft
async def test_adapters_of_an_artifact_are_merged_into_it(
    run_it: Any, talker: Path, tmp_path: Path
) -> None:
    for seed in (0, 1):
        shutil.rmtree(tmp_path / "given" / str(seed))
        shutil.copytree(talker, tmp_path / "given" / str(seed))
    extra = "}, take: {model: adapters"
    async with Models() as models:
        _, rows = await run_it(models, extra, "m.best", "adapt: {use: m.adapt}")
    assert rows[0]["expected"] != rows[1]["expected"]
    for row in rows:
        assert row["best"] == pytest.approx(row["expected"], abs=1e-5)


async def test_what_was_paid_is_not_paid_again_and_loads_nothing(
    run_it: Any, tmp_path: Path, loads: list[str]
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    async with Models() as models:
        summary, _ = await run_it(models, f"fail: {flag}")
        assert summary.stages["say"].dead == 2
        assert summary.stages["say"].calls == 4
        assert len(loads) == 2
    flag.unlink()
    async with Models() as models:
        summary, rows = await run_it(models, f"fail: {tmp_path / 'other'}")
        assert summary.stages["say"].calls == 2
        assert summary.stages["say"].replayed == 4
        assert len(loads) == 4
        summary, again = await run_it(models, f"fail: {tmp_path / 'third'}")
        assert summary.stages["say"].calls == 0
        assert [row["said"] for row in again] == [row["said"] for row in rows]
    async with Models() as models:
        await run_it(models, f"fail: {tmp_path / 'fourth'}")
        assert len(loads) == 4


# --- by hand --------------------------------------------------------------------------------


async def test_load_gives_a_model_and_its_tokenizer(tiny: Path) -> None:
    import torch

    async with Models() as models:
        model, tokenizer = await models.load(tiny)
        ids = tokenizer("<user> say red", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            assert model(ids).logits.shape == (1, 3, len(tokenizer))
        assert not model.training


async def test_a_chat_of_models_is_that_of_transformers_chat(tiny: Path) -> None:
    async with TransformersChat(model=tiny) as chat, Models() as models:
        other = models.chat(tiny)
        assert other.can == chat.can
        (mine,) = await chat.complete(ASK, sampling=SHORT)
        (theirs,) = await other.complete(ASK, sampling=SHORT)
        assert mine.text == theirs.text
        assert other.identity == chat.identity  # type: ignore[attr-defined]


async def test_several_that_ask_at_once_wait_for_one_loading(
    tiny: Path, tmp_path: Path, loads: list[str]
) -> None:
    same = shutil.copytree(tiny, tmp_path / "same")
    found: list[Any] = []
    async with Models() as models:

        async def ask(ref: Path) -> None:
            found.append((await models.load(ref))[0])

        async with anyio.create_task_group() as tasks:
            for ref in (tiny, same, tiny, same):
                tasks.start_soon(ask, ref)
        assert len(loads) == 1
        assert all(model is found[0] for model in found)


async def test_the_least_recently_used_is_dropped(
    tiny: Path, other: Path, make: Any, tmp_path: Path, loads: list[str]
) -> None:
    third = make(tmp_path / "third", seed=2)
    async with Models(keep=2) as models:
        dropped = weakref.ref((await models.load(other))[0])
        for ref in (tiny, tiny, third, tiny, third):
            await models.load(ref)
        assert len(loads) == 3
        gc.collect()
        assert dropped() is None
        await models.load(other)
        assert len(loads) == 4
        await models.load(third)
        assert len(loads) == 4
        await models.load(tiny)
        assert len(loads) == 5


async def test_a_model_that_answers_is_not_dropped(
    talker: Path, tiny: Path, other: Path, loads: list[str]
) -> None:
    long = Sampling(max_tokens=400, seed=1, temperature=1)
    async with Models(keep=1) as models:
        async with anyio.create_task_group() as tasks:
            texts: list[str] = []

            async def talk() -> None:
                (reply,) = await models.chat(talker).complete(ASK, sampling=long)
                texts.append(str(reply.text))

            tasks.start_soon(talk)
            await models.chat(talker).complete(ASK, sampling=SHORT)
            await models.load(tiny)
            await models.load(other)
        assert len(texts[0].split()) > 100
        assert loads == ["talker", "tiny", "other"]


async def test_leaving_drops_all(tiny: Path) -> None:
    async with Models() as models:
        await models.chat(tiny).complete(ASK, sampling=SHORT)
        model, _ = await models.load(tiny)
        gone = weakref.ref(model)
        del model
    gc.collect()
    assert gone() is None


async def test_a_reward_model_is_shared(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    model.save_pretrained(tmp_path / "rm")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "rm")
    async with Models() as models:
        scorer = await models.reward(tmp_path / "rm")
        assert scorer is await models.reward(tmp_path / "rm")
        assert len(scorer.score([[3, 6, 7], [3, 8]])) == 2
        with pytest.raises(TrainingError, match="is a sequence classifier"):
            await models.load(tmp_path / "rm")
        with pytest.raises(TrainingError, match="has no reward head"):
            await models.reward(tiny)


async def test_bad_references(make: Any, tmp_path: Path) -> None:
    async with Models() as models:
        with pytest.raises(TrainingError, match="there is no model at nowhere"):
            await models.load(tmp_path / "nowhere")
        with pytest.raises(ChatError, match="there is no model at nowhere"):
            await models.chat(tmp_path / "nowhere").complete(ASK)
        with pytest.raises(TrainingError, match="no-such-owner/no-such-model"):
            await models.load("no-such-owner/no-such-model")
        with pytest.raises(TrainingError, match="found by the run that made it"):
            models.chat(Artifact("0" * 32, "application/x-transformers", 3, folder=True))
        mute = make(tmp_path / "mute", template=None)
        assert (await models.load(mute))[1].chat_template is None
        with pytest.raises(ChatError, match="no chat template"):
            await models.chat(mute).complete(ASK)


def test_the_plugin_loads_without_torch() -> None:
    code = (
        "import sys, engine_train.chats, engine_train.models\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
