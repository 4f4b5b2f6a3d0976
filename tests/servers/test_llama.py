"""`openai.chat` against llama.cpp's own OpenAI routes: each feature that we say it has."""

import json
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

import engine
from engine import Text
from engine.chat import ChatError, Message, Sampling
from engine.chat.openai_chat import OpenAIChat

pytestmark = [pytest.mark.embedded, pytest.mark.anyio]

SERVER = """
import sys
import xllamacpp
from engine.chat.weights import find_weights

params = xllamacpp.CommonParams()
params.model.path = str(find_weights("smollm2-135m-instruct"))
params.n_parallel, params.n_ctx = 4, 4 * 2048
params.n_batch = params.n_ubatch = 256
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.hostnames = ["127.0.0.1"]
params.verbosity, params.ui, params.fit_params = 0, False, False
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
GREEDY = Sampling(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.stdout.readline().strip() + "/v1"
        finally:
            process.stdin.close()  # it ends by itself
            process.wait(30)


@pytest.fixture
async def chat(url: str) -> AsyncIterator[OpenAIChat]:
    async with OpenAIChat(model="smollm2", base_url=url, server="llama.cpp") as opened:
        opened.limiter.longest = 0
        yield opened


def ask(text: str = "Say one word about cats.") -> list[Message]:
    return [Message(role="user", content=Text(text))]


async def said(chat: OpenAIChat, sampling: Sampling = GREEDY, prefix: str = "") -> str:
    (reply,) = await chat.complete(ask(), sampling=sampling, prefix=prefix)
    return str(reply.text)


async def test_a_prefix_is_continued_to_the_letter(chat: OpenAIChat) -> None:
    for prefix in ("Cats are the", "User: a\nAgent:", " two  spaces\n\nand lines\n"):
        (reply,) = await chat.complete(ask(), prefix=prefix, sampling=GREEDY, top_logprobs=1)
        assert reply.text.startswith(prefix)
        assert reply.text.count(prefix) == 1
        assert "".join(token.token for token in reply.logprobs) == reply.text[len(prefix) :]


async def test_a_prefix_after_a_turn_of_the_assistants_is_refused(chat: OpenAIChat) -> None:
    turns = [*ask(), Message(role="assistant", content=Text("Cats."))]
    with pytest.raises(ChatError, match="400: Cannot have 2 or more assistant messages"):
        await chat.complete(turns, prefix="Dogs")


class Verdict(BaseModel):
    verdict: Literal["good", "bad"]
    points: int = Field(ge=3, le=5)


async def test_a_schema_holds(chat: OpenAIChat) -> None:
    messages = ask("Judge cats. Answer with JSON.")
    (reply,) = await chat.complete(messages, schema=Verdict, sampling=Sampling(max_tokens=60))
    verdict = reply.parse(Verdict)
    assert verdict.verdict in ("good", "bad")
    assert 3 <= verdict.points <= 5


async def test_a_schema_and_a_prefix_are_not_held_together(chat: OpenAIChat) -> None:
    with pytest.raises(ChatError, match="a schema or a prefix"):
        await chat.complete(ask(), schema=Verdict, prefix="Here: ")


async def test_a_grammar_describes_what_follows_the_prefix(chat: OpenAIChat) -> None:
    for prefix in ("", "Cats are the"):
        (reply,) = await chat.complete(ask(), prefix=prefix, grammar='root ::= " best" | " worst"')
        assert reply.text[len(prefix) :] in (" best", " worst")
    with pytest.raises(ChatError, match="400: .*grammar"):
        await chat.complete(ask(), grammar='root ::= "open')


async def test_a_seed_decides(chat: OpenAIChat) -> None:
    drawn = [
        await said(chat, Sampling(temperature=1.5, max_tokens=12, seed=seed))
        for seed in (0, 1, 1, 2, 3)  # the first fills the prompt's cache, which changes last bits
    ]
    assert drawn[1] == drawn[2]
    assert len(set(drawn[1:])) > 1


async def test_samples_differ_and_are_each_asked_for(chat: OpenAIChat) -> None:
    replies = await chat.complete(ask(), n=3, sampling=Sampling(temperature=1.5, max_tokens=8))
    assert len({str(reply.text) for reply in replies}) > 1


async def test_log_probabilities_are_those_of_the_tokens(chat: OpenAIChat) -> None:
    (reply,) = await chat.complete(ask(), sampling=GREEDY, top_logprobs=3)
    assert "".join(token.token for token in reply.logprobs) == reply.text
    for token in reply.logprobs:
        assert len(token.top) == 3
        assert token.logprob == max(token.top.values())  # greedy
        assert sum(map(math.exp, token.top.values())) < 1.001
    hot = Sampling(temperature=3.0, max_tokens=1, seed=1)
    (drawn,) = await chat.complete(ask(), sampling=hot, top_logprobs=3)
    assert drawn.logprobs[0].top == pytest.approx(reply.logprobs[0].top, abs=0.1)  # the model's own


async def test_banned_words_are_not_said(chat: OpenAIChat) -> None:
    assert "cat" in (await said(chat)).lower()
    banned = GREEDY.model_copy(update={"banned": ("cat", "cats", "feline")})
    assert "cat" not in (await said(chat, banned)).lower()
    assert "banned" in chat.can


async def test_settings_arrive(chat: OpenAIChat) -> None:
    greedy = await said(chat)
    hot = {"temperature": 2.0, "max_tokens": 12, "seed": 1}
    assert await said(chat, Sampling(**hot)) != greedy
    assert await said(chat, Sampling(**hot, top_k=1)) == greedy
    assert await said(chat, Sampling(**hot, min_p=1.0)) == greedy
    assert await said(chat, Sampling(**hot, top_p=1e-9)) == greedy
    assert await said(chat, GREEDY.model_copy(update={"repeat_penalty": 1.9})) != greedy
    assert await said(chat, GREEDY.model_copy(update={"stop": ("c",)})) == greedy.partition("c")[0]


async def test_why_a_reply_ended(chat: OpenAIChat) -> None:
    for limit, finish in ((1, "length"), (200, "stop")):
        sampling = Sampling(temperature=0, max_tokens=limit, stop=(".",))
        (reply,) = await chat.complete(ask(), sampling=sampling)
        assert reply.finish == finish


async def test_cached_tokens_are_told_apart(chat: OpenAIChat) -> None:
    messages = ask("Say something about each of these: " + "tea, milk, " * 50)
    for _ in range(2):
        (reply,) = await chat.complete(messages, sampling=GREEDY)
    assert reply.usage.cached > 150
    assert reply.usage.new < 20
    assert 1 <= reply.usage.out <= 12


async def test_too_long_a_prompt_is_told_in_numbers(chat: OpenAIChat) -> None:
    with pytest.raises(ChatError, match=r"400: request \(\d+ tokens\) exceeds .*2048") as caught:
        await chat.complete(ask("word " * 3000))
    assert not caught.value.retryable


async def test_the_models_name_is_not_looked_at(url: str) -> None:
    async with OpenAIChat(model="no such", base_url=url, server="llama.cpp") as chat:
        assert await said(chat)


async def test_any_text_arrives(chat: OpenAIChat) -> None:
    odd = 'quotes " \\ \x00 \x1f \u2028 \N{PILE OF POO} \u0301 \ud800 {{x}} <|im_end|>'
    (reply,) = await chat.complete(ask(odd), sampling=GREEDY)
    assert reply.usage.new + reply.usage.cached > 20
    assert chat.surrogates == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_shipped_pipeline(url: str, shipped: Path) -> None:
    settings = {"model": "smollm2", "base_url": url, "server": "llama.cpp", "slots": 4}
    settings["sampling"] = {"temperature": 0.7, "top_p": 0.95, "min_p": 0.05}
    assigned = json.dumps({"use": "openai.chat", "with": settings})
    summaries = []
    for _ in range(2):
        async with engine.open(shipped, set=[f"resources.writer={assigned}"], limit=1) as run:
            summaries.append(await run.finish())
    first, second = summaries
    assert (first.exit_code, first.dead) == (0, 0)
    assert first.finished >= 1
    calls: Sequence[int] = [sum(c.calls for c in s.stages.values()) for s in summaries]
    assert calls[0] > 20
    assert calls[1] == 0
    assert second.finished == first.finished
    assert sum(c.spent.cached for c in first.stages.values()) > 1000
