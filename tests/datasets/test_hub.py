"""The Hub: a dataset pushed to a server of our own that speaks its routes, and read from there."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import engine
from engine.errors import EngineError, PipelineError
from engine.pipeline import read_pipeline

TOKEN = "hf_a_token_of_the_test"
SHA = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Repositories in memory: name -> private, and their files."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.kinds: dict[str, str] = defaultdict(lambda: "datasets")
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: list[str] = []
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer(*hub.get(urlsplit(self.path).path))

            do_HEAD = do_GET

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                told = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                hub.asked.append(f"POST {self.path}")
                self.answer(*(hub.post(urlsplit(self.path).path, body) if told else (401, {}, {})))

            def answer(self, status: int, value: Any, headers: dict[str, str]) -> None:
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if part and status == 200:
                    first, last = int(part[1]), int(part[2] or len(data) - 1)
                    headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}
                    data, status = data[first : last + 1], 206
                self.send_response(status)
                for name, held in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, held)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def post(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo.startswith("others/"):
                return 403, {"error": "Forbidden"}, {}
            kind = asked.get("type") or "model"
            place = repo if kind == "model" else f"datasets/{repo}"
            if repo in self.private:
                return 409, {"error": "It is there", "url": f"{self.url}/{place}"}, {}
            self.kinds[repo] = f"{kind}s"
            self.private[repo] = asked.get("visibility", "public") == "private"
            self.files[repo] = {".gitattributes": b""}
            return 200, {"url": f"{self.url}/{place}"}, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        match = re.fullmatch(r"/api/(?:data|mode)\w+/([^/]+/[^/]+)/(preupload|commit)/main", path)
        assert match, path
        assert path.startswith(f"/api/{self.kinds[match[1]]}/")
        if match[2] == "preupload":
            files = json.loads(body)["files"]
            return 200, {
                "files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in files
                ]
            }, {}  # fmt: skip
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "deletedFile":
                del self.files[match[1]][value["path"]]
            else:
                self.files[match[1]][value["path"]] = base64.b64decode(value["content"])
        url = f"{self.url}/{self.kinds[match[1]].replace('models', '')}/{match[1]}/commit/{SHA}"
        return 200, {"commitUrl": url, "commitOid": SHA, "success": True}, {}

    def get(self, path: str) -> tuple[int, Any, dict[str, str]]:
        self.asked.append(f"GET {path}")
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            data = self.files.get(match[1], {}).get(match[2])
            if data is None:
                return 404, {}, {"X-Error-Code": "EntryNotFound"}
            return 200, data, {"ETag": f'"{sha1(data).hexdigest()}"', "X-Repo-Commit": SHA}
        match = re.match(r"/api/(?:datasets|models)/([^/]+/[^/]+)", path)
        if match is None or match[1] not in self.private:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        repo, files = match[1], self.files[match[1]]
        rest = path[match.end() :]
        if rest.startswith("/tree/"):
            folder = rest.split("/", 3)[3] + "/" if rest.count("/") > 2 else ""
            entries: list[dict[str, Any]] = [
                {"type": "file", "path": n, "size": len(d), "oid": sha1(d).hexdigest()}
                for n, d in sorted(files.items())
                if n.startswith(folder)
            ]
            folders = {n.rsplit("/", 1)[0] for n in files if "/" in n and n.startswith(folder)}
            entries += [{"type": "directory", "path": n, "oid": SHA} for n in sorted(folders)]
            return 200, entries, {}
        siblings = [{"rfilename": name} for name in sorted(files)]
        info = {"_id": "1", "id": repo, "sha": SHA, "private": self.private[repo]}
        return 200, {**info, "siblings": siblings, "tags": [], "downloads": 0}, {}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    fake = FakeHub()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


@pytest.fixture
def endpoint(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return hub


def pushing(
    pipeline: Callable[..., Path], count: int, repo: str = "org/cats", more: str = ""
) -> Path:
    path = pipeline(
        f"""
stages:
  read: {{use: dataset.read, with: {{path: rows.jsonl}}}}
  out: {{use: dataset.write, with: {{path: out, format: datasets, hub: {repo}{more}}}}}
"""
    )
    rows = [
        {"q": f"cat {i}", "n": i, "chat": [{"role": "user", "content": "?"}]} for i in range(count)
    ]
    path.with_name("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.anyio
async def test_a_folder_is_pushed_in_one_commit(
    endpoint: FakeHub, pipeline: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.datasets.writers.GROUP", 2)
    monkeypatch.setattr("engine.datasets.writing.GROUP", 2)
    monkeypatch.setattr("engine.datasets.writers.SHARD", 2)
    path = pushing(pipeline, 3)
    await engine.run(path, store=":memory:")
    folder = path.with_name("out")
    shards = [f"data/train-0000{i}-of-00002.parquet" for i in range(2)]
    names = {"README.md", *shards}
    assert endpoint.private == {"org/cats": True}
    assert set(endpoint.files["org/cats"]) == {".gitattributes", *names}
    assert {n: endpoint.files["org/cats"][n] for n in names} == {
        name: (folder / name).read_bytes() for name in names
    }
    endpoint.files["org/cats"]["LICENSE"] = b"theirs"
    await engine.run(pushing(pipeline, 2), store=":memory:")
    assert set(endpoint.files["org/cats"]) == {
        ".gitattributes", "LICENSE", "README.md", "data/train-00000-of-00001.parquet"
    }  # fmt: skip
    assert endpoint.commits == ["test: 3 rows", "test: 2 rows"]


@pytest.mark.anyio
async def test_a_failed_push_leaves_the_files_and_says_how_to_go_on(
    endpoint: FakeHub, pipeline: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = r"The files are complete in .*out; run the pipeline again to push them"
    endpoint.private["org/public"], endpoint.files["org/public"] = False, {}
    for repo, said in (
        ("others/cats", r"others/cats was not pushed: the token may not do this \(403\)"),
        (
            "org/public",
            "org/public was not pushed: it is there already, and public: make it private",
        ),
    ):
        with pytest.raises(EngineError, match=f"{said}.*{again}"):
            await engine.run(pushing(pipeline, 1, repo), store=":memory:")
    assert endpoint.files["org/public"] == {}
    await engine.run(pushing(pipeline, 1, "org/public", ", private: false"), store=":memory:")
    assert "README.md" in endpoint.files["org/public"]
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(
        EngineError, match=rf"the Hub does not know the token \(401\).*{again}"
    ) as caught:
        await engine.run(pushing(pipeline, 1), store=":memory:")
    assert "hf_another" not in str(caught.value)
    endpoint.server.server_close()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(EngineError, match=f"the Hub cannot be reached: see whether.*{again}"):
        await engine.run(pushing(pipeline, 1), store=":memory:")
    assert (pushing(pipeline, 1).with_name("out") / "README.md").exists()


def test_a_missing_token_is_told_before_a_run(
    pipeline: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(PipelineError, match="the environment variable HF_TOKEN is not set"):
        read_pipeline(pushing(pipeline, 1))


MODELS = '''
from collections.abc import AsyncIterator

from engine import Artifact, Context, Row, Text, stage


class Made(Row):
    name: Text
    model: Artifact
    file: Artifact


@stage("my.models")
async def models(*, names: tuple[str, ...], shards: int = 1, ctx: Context) -> AsyncIterator[Made]:
    """Make a model a name, with a card."""
    for name in names:
        with ctx.blobs.new("model", folder=True) as model:
            (model.path / "README.md").write_text(f"---\\nlicense: mit\\n---\\n# {name}\\n")
            (model.path / "config.json").write_text("{}")
            (model.path / "inner").mkdir()
            (model.path / "inner" / "n.bin").write_text("n")
            for i in range(shards):
                weights = f"model-{i + 1:05}-of-{shards:05}.safetensors"
                (model.path / weights).write_bytes(name.encode() * 9)
        with ctx.blobs.new("text/plain") as file:
            file.path.write_text(name)
        yield Made(Text(name), model.artifact, file.artifact)
'''


def model_pipeline(pipeline: Callable[..., Path], names: str, write: str, shards: int = 1) -> Path:
    return pipeline(
        f"""
stages:
  make: {{use: './stages.py:models', with: {{names: [{names}], shards: {shards}}}}}
  out: {{use: artifact.write, with: {{{write}}}}}
""",
        stages=MODELS,
    )


@pytest.mark.anyio
async def test_a_model_is_pushed_with_its_card_as_it_stands(
    endpoint: FakeHub, pipeline: Callable[..., Path]
) -> None:
    write = "path: 'out/{name}', field: model, hub: 'org/rm-{name}'"
    path = model_pipeline(pipeline, "a, b", write, shards=2)
    await engine.run(path, store=":memory:")
    assert endpoint.private == {"org/rm-a": True, "org/rm-b": True}
    assert {*endpoint.kinds.values()} == {"models"}
    for name in "ab":
        files = endpoint.files[f"org/rm-{name}"]
        folder = path.with_name("out") / name
        there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        assert files.pop(".gitattributes") == b""
        assert files == {n: p.read_bytes() for n, p in there.items()}
        assert files["README.md"].endswith(f"# {name}\n".encode())
    assert all(re.fullmatch(r"test: model of row [0-9a-f]{32}", m) for m in endpoint.commits)
    endpoint.files["org/rm-a"]["notes.bin"] = b"theirs"
    path.with_name("out").rename(path.with_name("older"))
    await engine.run(model_pipeline(pipeline, "a", write), store=":memory:")
    assert set(endpoint.files["org/rm-a"]) == {
        "README.md", "config.json", "inner/n.bin", "model-00001-of-00001.safetensors", "notes.bin"
    }, "no weights of the older push"  # fmt: skip


@pytest.mark.anyio
async def test_what_cannot_be_pushed_as_a_model(
    endpoint: FakeHub, pipeline: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for names, write, said in (
        ("a", "path: o, field: file, hub: org/a", "'file' is a file: `hub` pushes folders"),
        ("a, b", "path: 'o/{name}', field: model, hub: org/a", "have one repository, 'org/a': put"),
        (
            "a b",
            "path: 'o', field: model, hub: 'org/{name}'",
            "'a b', which cannot stand in a repo",
        ),
        (
            "a",
            "path: o4, field: model, hub: others/a",
            r"others/a was not pushed: .*\(403\).*/o4; run",
        ),
    ):
        with pytest.raises(EngineError, match=said):
            await engine.run(model_pipeline(pipeline, names, write), store=":memory:")
    for write, said in (
        ("path: o, field: model, hub: 'a b/c'", "'a b/c' is no model's name: write `org/name`"),
        ("path: o, field: model, hub: name", "write whose it is, too: `org/name`"),
        ("path: o, field: model, hub: 'org/{nam}'", "no row has 'nam'; did you mean 'name'"),
        ("path: o, field: model, private: false", "`private` is for `hub`: leave it out"),
    ):
        with pytest.raises(PipelineError, match=said):
            read_pipeline(model_pipeline(pipeline, "a", write))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PipelineError, match="the environment variable HF_TOKEN is not set"):
        read_pipeline(model_pipeline(pipeline, "a", "path: o, field: model, hub: org/a"))


READING = """
import asyncio, sys, engine
from engine.rows import plain

async def go(name, *set):
    try:
        async with engine.open("hub.yaml", store=":memory:", set=set) as run:
            rows = [row async for row in run]
        first = rows[0]["q"].origin
        print(name, [plain(row.fields) for row in rows], first.op, dict(first.params))
    except engine.EngineError as error:
        print(name, "error:", error)

CONFIG = "stages.read.with."
asyncio.run(go("whole"))
asyncio.run(go("streamed", CONFIG + "streaming=true", CONFIG + "revision=main"))
asyncio.run(go("split", CONFIG + "split=dev"))
asyncio.run(go("missing", CONFIG + "hub=org/dogs"))
"""


@pytest.mark.anyio
async def test_what_was_pushed_is_read_from_the_hub(
    endpoint: FakeHub, pipeline: Callable[..., Path], tmp_path: Path
) -> None:
    await engine.run(pushing(pipeline, 2), store=":memory:")
    pipeline("stages: {read: {use: dataset.read, with: {hub: org/cats}}}", name="hub.yaml")
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", READING]
    done = subprocess.run(  # noqa: ASYNC221
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    rows = [{"q": f"cat {i}", "n": i, "chat": [{"role": "user", "content": "?"}]} for i in range(2)]
    assert lines[0] == f"whole {rows} source:org/cats {{'field': 'q', 'row': 1}}"
    assert lines[1] == f"streamed {rows} source:org/cats@main {{'field': 'q', 'row': 1}}"
    assert lines[2].endswith("split: org/cats has no split 'dev': name one of train")
    assert "hub: org/dogs cannot be read: there is no such dataset" in lines[3]
