"""`transformers.chat`: one reply, many at once, and what it refuses."""

import math
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from anyio import to_thread
from engine_train import batches, generating
from engine_train.chats import TransformersChat
from engine_train.draws import Pieces, draw

import engine
from engine import Needs, ResourceError, Row, stage
from engine.chat import Chat, ChatError, Message, Request, Sampling
from engine.text import Text

pytestmark = pytest.mark.anyio

FREE = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
"""The model's own distribution."""


def ask(text: str) -> list[Message]:
    return [Message(role="user", content=Text(text))]


def request(text: str, **settings: Any) -> Request:
    more = {name: settings.pop(name) for name in ("prefix", "top_logprobs") if name in settings}
    sampling = Sampling(**{"seed": 1, "max_tokens": 12} | FREE | settings)
    parts: dict[str, Any] = {"prefix": "", "top_logprobs": 0} | more
    return Request(tuple(ask(text)), sampling=sampling, schema=None, grammar=None, **parts)


def greedy(folder: Path, text: str, count: int) -> list[int]:
    """Return what the model says, computed from the start for each token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    begin = len(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return ids[begin:]


# --- one reply ------------------------------------------------------------------------------


async def test_it_says_what_the_model_says(tiny: Path) -> None:
    from transformers import AutoTokenizer

    async with TransformersChat(model=tiny) as chat:
        (reply,) = await chat.complete(
            ask("say red"), sampling=Sampling(temperature=0, max_tokens=9), top_logprobs=1
        )
    expected = greedy(tiny, "<user> say red <assistant>", 9)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert reply.usage.out == len(expected)
    assert str(reply.text).split() == tokenizer.decode(expected, skip_special_tokens=True).split()


async def test_log_probabilities_are_the_models_own(talker: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = request("say red", prefix="blue", top_logprobs=3, temperature=2.0, banned=("cat",))
    async with TransformersChat(model=talker) as chat:
        answer = await chat.send(asked)
    model = AutoModelForCausalLM.from_pretrained(talker)
    tokenizer = AutoTokenizer.from_pretrained(talker)
    checked = 0
    assert "".join(token.token for token in answer.logprobs) == answer.text
    prompt = "<user> say red <assistant>blue"
    for token in answer.logprobs:
        if not token.token:  # a special token, which the text does not show
            break
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            values = model(ids).logits[0, -1].double().log_softmax(0)
        said = tokenizer.convert_tokens_to_ids(token.token.strip())
        assert token.logprob == pytest.approx(float(values[said]), abs=1e-5)
        best = values.topk(3)
        assert list(token.top.values()) == pytest.approx(best.values.tolist(), abs=1e-5)
        names = [name.strip() for name in token.top]
        assert names == tokenizer.convert_ids_to_tokens(best.indices.tolist())
        prompt += token.token
        checked += 1
    assert checked >= 3


async def test_a_prefix_is_continued_to_the_letter(tiny: Path) -> None:
    async with TransformersChat(model=tiny) as chat:
        (begun,) = await chat.complete(
            ask("say red"), prefix="blue cat", sampling=Sampling(temperature=0, max_tokens=5)
        )
    expected = greedy(tiny, "<user> say red <assistant>blue cat", 5)
    assert str(begun.text).startswith("blue cat")
    assert begun.usage.out == len(expected)
    assert begun.usage.new == 6


async def test_it_ends_at_the_stop_string_and_says_no_more(talker: Path) -> None:
    async with TransformersChat(model=talker) as chat:
        whole = await chat.send(request("say red", max_tokens=20, top_logprobs=1))
        assert whole.finish == "length"
        assert whole.usage.out == 20
        words = whole.text.split()
        stop = f"{words[3]} {words[4]}"  # it spans two tokens
        cut = await chat.send(request("say red", max_tokens=20, stop=(stop,), top_logprobs=1))
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.usage.out < 20
    assert "".join(token.token for token in cut.logprobs) == cut.text


async def test_banned_words_do_not_come(talker: Path) -> None:
    async with TransformersChat(model=talker) as chat:
        free = await chat.send(request("say red", temperature=0.0, max_tokens=6))
        word = free.text.split()[0]
        held = await chat.send(
            request("say red", temperature=0.0, max_tokens=6, banned=(word.upper(),))
        )
        assert word in free.text
        assert word not in held.text
        loose = await chat.send(
            request("say red", temperature=0.0, max_tokens=6, banned=("zebra",))
        )
    assert loose == free


async def test_the_context_bounds_prompt_and_reply(talker: Path) -> None:
    async with TransformersChat(model=talker, context=10) as chat:
        answer = await chat.send(request("say red", max_tokens=500))
        assert (answer.usage.new, answer.usage.out, answer.finish) == (4, 6, "length")
        with pytest.raises(ChatError, match="the prompt has 12 tokens, the context 10") as caught:
            await chat.send(request("red " * 10))
    assert not caught.value.retryable


async def test_a_template_that_refuses_says_so(tiny: Path) -> None:
    async with TransformersChat(model=tiny) as chat:
        with pytest.raises(ChatError, match="no system, please"):
            await chat.complete([Message(role="system", content=Text("be kind"))])


# --- many at once ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "gpt_neox"},
        {"model_type": "mistral", "sliding_window": 8},
        {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2},
    ],
    ids=["llama", "gpt_neox", "window", "gpt2"],
)
async def test_a_seed_gives_its_reply_whoever_shares_the_batch(
    make: Any, tmp_path: Path, config: dict[str, Any]
) -> None:
    make(tmp_path / "m", **config)
    words = ["red", "blue one two three four five", "cat dog", "go run sit fish bird"]
    requests = [
        request(words[i % 4], seed=i, max_tokens=5 + 3 * i % 17, top_logprobs=1) for i in range(12)
    ]
    async with TransformersChat(model=tmp_path / "m", slots=1) as chat:
        alone = [await chat.send(asked) for asked in requests]
    together: dict[int, Any] = {}
    async with TransformersChat(model=tmp_path / "m", slots=5) as chat:

        async def one(place: int) -> None:
            together[place] = await chat.send(requests[place])

        async with anyio.create_task_group() as tasks:
            for place in range(12):
                tasks.start_soon(one, place)
    assert len({answer.text for answer in alone}) > 6
    for place, answer in enumerate(alone):
        assert together[place].text == answer.text
        assert together[place].finish == answer.finish
        for mine, theirs in zip(answer.logprobs, together[place].logprobs, strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)


async def test_equal_prompts_that_come_together_are_read_once(tiny: Path) -> None:
    """Eight calls come while the model reads for another one, and so are begun with together."""
    reading, go_on = threading.Event(), threading.Event()

    def hold(*_: Any) -> None:
        reading.set()
        go_on.wait(60)

    answers = {}
    async with TransformersChat(model=tiny, slots=9) as chat:
        decoder: Any = chat._decoder
        decoder._model.register_forward_pre_hook(hold)

        def all_wait() -> None:
            with decoder._changed:
                assert decoder._changed.wait_for(lambda: len(decoder._waiting) == 8, 60)

        async def send(seed: int) -> None:
            answers[seed] = await chat.send(request("say red", seed=seed, max_tokens=512))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat.send, request("go", max_tokens=512))
            await to_thread.run_sync(reading.wait)
            for seed in range(8):
                tasks.start_soon(send, seed)
            await to_thread.run_sync(all_wait)
            go_on.set()
        later = await chat.send(request("say red", seed=7, max_tokens=512))
    used = [answer.usage for answer in answers.values()]
    assert sorted((usage.new, usage.cached) for usage in used) == [(0, 4)] * 7 + [(4, 0)]
    assert later.text == answers[7].text


async def test_sampling_follows_the_models_distribution(tiny: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    count = 600
    async with TransformersChat(model=tiny, slots=64) as chat:
        replies = await chat.complete(
            ask("say"), n=count, sampling=Sampling(seed=0, max_tokens=1, **FREE)
        )
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ids = tokenizer("<user> say <assistant>", add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        shares = AutoModelForCausalLM.from_pretrained(tiny)(**ids).logits[0, -1].softmax(0)
    for token, share in enumerate(shares.tolist()):
        word = tokenizer.convert_ids_to_tokens(token)
        if word.startswith("<"):
            continue
        seen = sum(str(reply.text).strip() == word for reply in replies)
        assert abs(seen - count * share) <= 4.5 * math.sqrt(count * share * (1 - share)) + 1


async def test_a_cancelled_call_frees_its_place(talker: Path) -> None:
    async with TransformersChat(model=talker, slots=1) as chat:
        with anyio.move_on_after(0.3) as scope:
            await chat.send(request("say red", max_tokens=90_000))
        assert scope.cancelled_caught
        with anyio.fail_after(20):
            assert (await chat.send(request("say red"))).text


async def test_a_deadline_ends_the_call_and_frees_its_place(talker: Path) -> None:
    async with TransformersChat(model=talker, slots=1, deadline=0.3) as chat:
        with pytest.raises(ChatError, match=r"no reply within 0\.3 s") as caught:
            await chat.send(request("say red", max_tokens=90_000))
        assert caught.value.retryable
        assert (await chat.send(request("say red", max_tokens=2))).text


async def test_leaving_stops_what_runs(talker: Path) -> None:
    before = threading.active_count()
    with anyio.fail_after(20):
        async with TransformersChat(model=talker, slots=2) as chat:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(chat.send, request("say red", max_tokens=90_000))
                tasks.start_soon(chat.send, request("say blue", max_tokens=90_000))
                await chat.send(request("say", max_tokens=3))
                tasks.cancel_scope.cancel()
            decoder = chat._decoder
            assert decoder is not None
    assert decoder._thread is not None
    assert not decoder._thread.is_alive()
    assert threading.active_count() <= before + 3  # anyio's own, which are idle
    with pytest.raises(ChatError, match="not open"):
        await chat.send(request("say red"))


async def test_a_prompt_that_does_not_fit_the_memory_is_its_own_failure(
    talker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(batches.Batch):
        def __init__(self, model: Any, prompts: Any) -> None:
            if max(map(len, prompts)) > 20:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
            super().__init__(model, prompts)

    monkeypatch.setattr(generating, "Batch", Small)
    said: dict[int, str] = {}
    async with TransformersChat(model=talker) as chat:

        async def one(place: int) -> None:
            text = "red " * 30 if place == 4 else "say red"
            try:
                said[place] = (await chat.send(request(text, max_tokens=30))).finish
            except ChatError as error:
                said[place] = str(error)

        async with anyio.create_task_group() as tasks:
            for place in range(8):
                tasks.start_soon(one, place)
    assert "out of memory with 1 calls at once: lower" in said.pop(4)
    assert set(said.values()) == {"length"}


# --- in a pipeline --------------------------------------------------------------------------


class Said(Row):
    said: Text


@stage("c.say", version="1")
async def say(*, llm: Annotated[Chat, Needs("prefix", "logprobs")]) -> AsyncIterator[Said]:
    (reply,) = await llm.complete(ask("say red"), prefix="blue", top_logprobs=1)
    yield Said(reply.text)


@stage("c.held", version="1")
async def held(*, llm: Annotated[Chat, Needs("grammar")]) -> AsyncIterator[Said]:
    (reply,) = await llm.complete(ask("say red"), grammar="root ::= [a-z]")
    yield Said(reply.text)


async def test_a_folder_beside_the_pipeline(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "m")
    path = tmp_path / "p.yaml"
    text = """
name: test
resources: {llm: {use: transformers.chat, with: {model: ./m, slots: 2}}}
stages: {say: {use: c.say, with: {llm: llm}}}
"""
    path.write_text(text)
    plugins: Any = [say, held, TransformersChat]
    async with engine.open(path, plugins=plugins, store=":memory:") as run:
        (row,) = [row async for row in run]
    assert row["said"].startswith("blue")
    path.write_text(text.replace("c.say", "c.held"))
    with pytest.raises(engine.PipelineError, match="grammar"):
        engine.open(path, plugins=plugins, store=":memory:")


# --- what it is, and what it refuses --------------------------------------------------------


async def test_identity_is_known_before_it_opens(tiny: Path, other: Path, tmp_path: Path) -> None:
    identity = TransformersChat(model=tiny).identity
    copied = shutil.copytree(tiny, tmp_path / "copy")
    assert TransformersChat(model=copied, slots=1, device="cpu").identity == identity
    assert TransformersChat(model=other).identity != identity
    assert TransformersChat(model=tiny, dtype="bfloat16").identity != identity
    assert TransformersChat(model=tiny, sampling=Sampling(top_k=3)).identity != identity
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages[0].content }}")
    assert TransformersChat(model=tiny, template=template).identity != identity


async def test_a_model_without_a_template_says_what_to_do(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "m", template=None)
    with pytest.raises(ResourceError, match="no chat template.*`template`"):
        async with TransformersChat(model=tmp_path / "m"):
            pass
    given = tmp_path / "t.jinja"
    given.write_text("{{ messages[0].content }}")
    async with TransformersChat(model=tmp_path / "m", template=given) as chat:
        assert (await chat.send(request("say red"))).usage.new == 2


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("nothing", "there is no model in m"),
        ("head", "is a sequence classifier: no causal language model"),
        ("context", "reads 64 tokens, not the 100 of `context`"),
        ("device", "`device: cuda:99` is not here"),
        ("hub", "no-such-owner/no-such-model"),
    ],
)
async def test_bad_models(broken: str, says: str, make: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path / "m"
    settings: dict[str, Any] = {"model": folder}
    if broken == "nothing":
        folder.mkdir()
    else:
        make(folder)
    if broken == "head":
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
        model.save_pretrained(folder)
    if broken == "context":
        settings["context"] = 100
    if broken == "device":
        settings["device"] = "cuda:99"
    if broken == "hub":
        settings["model"] = "no-such-owner/no-such-model"
    with pytest.raises(ResourceError, match=says) as caught:
        chat = TransformersChat(**settings)
        _ = chat.identity
        async with chat:
            pass
    assert "\n" not in str(caught.value)


async def test_weights_that_are_no_numbers(tiny: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(tiny, tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    model.save_pretrained(folder)
    async with TransformersChat(model=folder) as chat:
        with pytest.raises(ChatError, match="weights are broken"):
            await chat.send(request("say red"))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # in peft
async def test_adapters_in_a_folder_are_merged(talker: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(talker),
        LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    model.save_pretrained(tmp_path / "lora")
    with torch.no_grad():
        logits = model(torch.tensor([[3, 19, 5, 4]])).logits[0, -1]
    values = logits.double().log_softmax(0)
    assert TransformersChat(model=tmp_path / "lora").identity.count(" on ") == 1
    async with TransformersChat(model=tmp_path / "lora") as chat:
        answer = await chat.send(request("say red", temperature=0.0, top_logprobs=2))
    expected = values.topk(2).values.tolist()
    assert list(answer.logprobs[0].top.values()) == pytest.approx(expected, abs=1e-5)


# --- drawing and text -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "possible"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 2}, {1, 3}),
        ({"top_p": 0.6}, {1, 3}),
        ({"min_p": 0.3}, {1, 3}),
        ({"top_k": 3, "min_p": 0.99}, {3}),
        ({"temperature": 0.0}, {3}),
        ({"temperature": 1e-9}, {3}),
        ({"repeat_penalty": 100.0, "top_k": 2}, {1, 4}),
    ],
)
def test_which_tokens_a_setting_leaves(settings: dict[str, Any], possible: set[int]) -> None:
    import torch

    logits = torch.tensor([0.05, 0.3, 0.05, 0.5, 0.1]).log() + 10
    sampling = Sampling(**FREE | settings)
    seen = [3, 0, 2]
    points = [i / 1000 for i in range(1000)]
    assert {draw(logits, sampling, seen, (), point) for point in points} == possible
    if not settings:
        drawn = [draw(logits, sampling, seen, (), point) for point in points]
        assert [drawn.count(i) for i in range(5)] == pytest.approx([50, 300, 50, 500, 100], abs=2)
        assert {draw(logits, sampling, seen, {1, 3}, point) for point in points} == {0, 2, 4}


def test_characters_of_several_tokens_come_whole() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    text = " né 🙂!"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    pieces = Pieces(tokenizer, tokenizer("so ï")["input_ids"])
    said = [pieces.push(token) for token in ids]
    assert "".join(said) == text
    assert "".join(said[:5]) == " né "
    assert [piece for piece in said if piece] == list(text)
    cut = Pieces(tokenizer, [])
    assert "".join(map(cut.push, ids[:-2])) == " né "
    assert cut.rest() == "\N{REPLACEMENT CHARACTER}"
