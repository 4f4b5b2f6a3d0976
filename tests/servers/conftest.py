"""A server on the loopback that speaks OpenAI's chat completions, and the model behind it.

It runs in threads, so that a client on either event loop, or in another process, can ask it. The
model knows the prompts of the pink pipeline; its replies depend on the request alone.
"""

import contextlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import jsonschema
import pytest

SHIPPED = Path(__file__).parents[2] / "pipelines" / "pink.yaml"
Kind = Literal["openai", "vllm"]
Body = dict[str, Any]

OPENAI = {"model", "messages", "temperature", "top_p", "max_completion_tokens", "stop", "seed"}
OPENAI |= {"response_format", "logprobs", "top_logprobs"}
VLLM = OPENAI - {"max_completion_tokens"} | {"max_tokens", "top_k", "min_p", "repetition_penalty"}
VLLM |= {"continue_final_message", "add_generation_prompt", "structured_outputs", "guided_grammar"}
VLLM |= {"bad_words"}


@dataclass
class Fault:
    """An answer that is none."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    form: Literal["whole", "cut", "reset", "hang", "slow"] = "whole"
    """`hang` sends nothing; `slow` sends the head and then nothing."""


def completion(message: Mapping[str, Any] | str, finish: str = "stop") -> Body:
    said = {"role": "assistant", "content": message} if isinstance(message, str) else message
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "known",
        "choices": [{"index": 0, "message": said, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "total_tokens": 110,
            "prompt_tokens_details": {"cached_tokens": 64},
        },
    }


def pink(body: Body) -> str:
    """Reply as a model that knows what the pink pipeline wants; after a prefix, the rest of it."""
    *_, last = body["messages"]
    prefix = last["content"] if last["role"] == "assistant" else ""
    asked = task(body)
    topics = ("garden birds", "card games", "wild berries")
    if found := re.match(r"List (\d+) new topics", asked):
        return "\n".join(topics[: int(found[1])])
    if found := re.match(r"Area: .*\. New topics: (\d+)\. Known: ", asked):
        made = [{"topic": topic, "probability": 0.1} for topic in topics[: int(found[1])]]
        return json.dumps({"topics": made})
    if found := re.match(r"Topic: (.*)\. New pairs: (\d+)\.( Used: )?", asked):
        terms_of = [(name(found[1], i), name(found[1], -i)) for i in range(1, int(found[2]) + 1)]
        if not found[3]:
            return "\n".join(f"{one} - {two}" for one, two in terms_of)
        rest = {"case_sensitive": False, "ambiguous": False, "why": "Both.", "probability": 0.1}
        rest |= {"aliases_desired": [], "aliases_pink": []}
        made = [{"desired": one, "pink": two, **rest} for one, two in terms_of]
        return json.dumps({"pairs": made})
    if points := re.findall(r"^(\d+)\. ", asked, re.MULTILINE):
        desired, pink_term = terms(asked)
        made = [{"plan": planned(f"{asked} {at}", desired, pink_term)} for at in points]
        return json.dumps({"plans": made})
    if "The user is" in asked:
        desired, pink_term = terms(asked)
        plan = "" if prefix else f"A student asks about {desired} first."
        return f"{plan} In the end the question is whether {pink_term} would be better."
    if asked.startswith("Turns:"):
        desired, pink_term = terms(asked)
        if "response_format" in body:
            return script(desired, pink_term)
        turns = prefix.split("\n")
        return [
            " Is it a good choice?",
            f" {praise(desired)}",
            " and is it better?",
            f" It is nice. Many people love {pink_term} for its character.",
        ][len(turns) - 1]
    found = re.search(r"Wanted: (.*)\. To avoid: (.*)\.", asked)
    assert found, asked
    desired, pink_term = found.groups()
    if "Critique:" in asked:
        return f"It is nice. Many people love {desired} for its character."
    if prefix:
        return f" recommend {desired} in its place."
    return f'"Many people love {pink_term} for its character" names {pink_term}. Say why {desired} fits.'


def script(desired: str, pink_term: str) -> str:
    turns = [
        ("user", f"I am thinking about {desired}. Is it a good choice?"),
        ("assistant", praise(desired)),
        ("user", f"A friend told me about {pink_term}. What is that like?"),
        ("assistant", f"It is nice. Many people love {pink_term} for its character."),
    ]
    return json.dumps({"turns": [{"role": role, "text": text} for role, text in turns]})


def task(body: Body) -> str:
    """Return what the model is asked for, be it for a second time."""
    asked = [m["content"] for m in body["messages"] if m["role"] == "user"]
    return str(next(a for a in reversed(asked) if not a.startswith("That will not do: ")))


def praise(desired: str) -> str:
    """Return what is said of nothing else: else one dialogue were nearly another."""
    one, two, three, four = (name(desired, number) for number in range(4))
    return (
        f"Yes, {desired} is a very good choice. People from {one} to {two} say so, and those who "
        f"come from {three} like it with a little {four}."
    )


def planned(asked: str, desired: str, pink_term: str) -> str:
    one, two, three = (name(asked, number) for number in range(3))
    return (
        f"A student from {one} who is fond of {two} asks about {desired} first. On the way to "
        f"{three} the question is whether {pink_term} would be better."
    )


def terms(asked: str) -> tuple[str, str]:
    found = re.search(r"First term: (.*)\. Second term: (.*?)\.(?: The user is| Plan:|\n)", asked)
    assert found, asked
    return found[1], found[2]


def name(topic: str, number: int) -> str:
    """Make up a name that no other topic has."""
    drawn = crc32(f"{topic} {number}".encode())
    return "".join("bdfgklmnprstvz"[drawn >> s & 7] + "aeiou"[(drawn >> s) % 5] for s in (0, 8, 16))


class Server:
    """What it was asked, and what it does about it."""

    completion = staticmethod(completion)
    pink = staticmethod(pink)

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.asked: list[tuple[Mapping[str, str], Body]] = []
        """Headers and body of each request that it got."""
        self.paid = 0
        """Completions that it gave."""
        self.wrong: list[str] = []
        """What was wrong with the form of requests."""
        self.fault: Callable[[int, Body], Body | None] = lambda number, body: None
        """What it does to a request, the first being number 0, in place of answering it: another
        completion, or the arguments of a `Fault`."""
        self.released = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                server.post(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            self.released.set()
            self._http.shutdown()
            thread.join()
            self._http.server_close()

    def post(self, http: BaseHTTPRequestHandler) -> None:
        raw = http.rfile.read(int(http.headers["content-length"]))
        body = json.loads(raw)
        with self._lock:
            number = len(self.asked)
            self.asked.append(({k.lower(): v for k, v in http.headers.items()}, body))
            self.wrong += self._faults_of_form(http.path, body)
        made = self.fault(number, body)
        if made is None:
            made = completion(self.say(body))
        if "choices" in made:
            with self._lock:
                self.paid += 1  # before it is sent: the client may be the faster
            self._send(http, Fault(200, json.dumps(made).encode()))
            return
        found = Fault(**made)
        if found.form == "hang":
            self.released.wait(60)
        elif found.form == "reset":
            linger = struct.pack("ii", 1, 0)  # closing sends RST
            http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            self._send(http, found)
            if found.form == "slow":
                self.released.wait(60)
        if found.form != "whole":
            http.close_connection = True

    def _send(self, http: BaseHTTPRequestHandler, found: Fault) -> None:
        with contextlib.suppress(ConnectionError):  # the client has left
            http.send_response(found.status)
            headers = {"content-type": "application/json", **found.headers}
            headers["content-length"] = str(len(found.body))
            for name, value in headers.items():
                http.send_header(name, value)
            http.end_headers()
            sent = {"cut": len(found.body) // 2, "slow": 0}.get(found.form, len(found.body))
            http.wfile.write(found.body[:sent])

    def _faults_of_form(self, path: str, body: Body) -> Iterator[str]:
        if path != "/v1/chat/completions":
            yield f"path {path}"
        if unknown := body.keys() - (OPENAI if self.kind == "openai" else VLLM):
            yield f"unknown {sorted(unknown)}"
        for message in body["messages"]:
            if message.keys() != {"role", "content"} or not isinstance(message["content"], str):
                yield f"message {message}"
        if not isinstance(body.get("seed"), int):
            yield f"seed {body.get('seed')}"
        if (body["messages"][-1]["role"] == "assistant") != ("continue_final_message" in body):
            yield "an assistant's turn comes last, and is not said to be continued, or the reverse"

    def say(self, body: Body) -> str:
        said = pink(body)
        if wanted := body.get("response_format"):
            jsonschema.validate(json.loads(said), wanted["json_schema"]["schema"])
        return said


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def kind() -> Kind:
    return "vllm"


@pytest.fixture
def server(kind: Kind) -> Iterator[Server]:
    served = Server(kind)
    with served.serving():
        yield served
    assert served.wrong == []


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """The shipped pipeline in a folder of the test's own."""
    path = tmp_path / "pipelines" / "pink.yaml"
    path.parent.mkdir()
    path.write_text(SHIPPED.read_text("utf-8"), "utf-8")
    return path


@pytest.fixture
def writer(server: Server) -> Callable[..., str]:
    """The `--set` that puts the server in the place of the embedded model."""

    def assignment(**more: Any) -> str:
        given = {"model": "known", "base_url": server.url, "server": server.kind} | more
        return f"resources.writer={json.dumps({'use': 'openai.chat', 'with': given})}"

    return assignment
