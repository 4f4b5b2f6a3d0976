"""Looking at the chats costs nothing: no SDK, no runtime, no weights."""

import subprocess
import sys

import pytest

from engine.plugins import Plugins, installed

HEAVY = {"openai", "xllamacpp", "torch", "httpx2", "huggingface_hub", "aiohttp"}


@pytest.mark.parametrize(
    "code",
    [
        "import engine.chat",
        "import engine.chat.embedded_chat",
        "import engine.chat.fixture_chat",
        "import engine.chat.openai_chat",
        "from engine.chat.openai_chat import OpenAIChat as C; "
        "C(model='m', base_url='http://localhost/v1').identity",
        "from engine.chat.embedded_chat import EmbeddedChat as C; C()",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    script = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize("name", ["embedded.chat", "fixture.chat", "openai.chat"])
def test_they_are_found_as_a_strangers_would_be(name: str) -> None:
    assert name.split(".")[0] in installed()
    spec = Plugins().resource(name)
    assert spec.name == name
    assert spec.doc
