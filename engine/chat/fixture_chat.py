"""`fixture.chat`: recorded replies, for tests and for pipelines without a model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.chat.bound import Endpoint
from engine.chat.limiter import Limiter
from engine.chat.protocol import Answer, Feature, Request
from engine.errors import ChatError, ResourceError, short_path
from engine.hookspecs import hookimpl
from engine.resources import resource
from engine.services import Usage
from engine.stages import InputFile

__all__ = ["FixtureChat", "Recorded", "count_words"]


class Recorded(BaseModel):
    """One line of a fixture file: what to reply to requests whose last user message matches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: str | None = None
    """A substring or regular expression; without it, the line answers everything."""
    reply: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """The reply; of several, the request's seed draws one."""
    finish: str = "stop"

    def fits(self, request: Request) -> bool:
        """Return whether the line answers the request."""
        if self.match is None:
            return True
        asked = last_user_message(request)
        return self.match in asked or re.search(self.match, asked) is not None

    def answer(self, request: Request) -> Answer:
        """Return the reply, drawn by the request's seed where there are several."""
        replies = (self.reply,) if isinstance(self.reply, str) else self.reply
        text = replies[(request.sampling.seed or 0) % len(replies)]
        return Answer(text, self.finish, count_words(request, text))


@resource("fixture.chat")
class FixtureChat(Endpoint):
    """Replies from a JSONL file of `{"match": ..., "reply": ..., "finish": ...}`.

    The first line that fits answers, so the answer depends on the request and its seed alone,
    never on the order of arrival. `file` is that file.
    """

    def __init__(self, *, file: InputFile) -> None:
        self.name = "fixture"
        self.limiter = Limiter(longest=0)  # nothing to be patient with
        self._file = file

    @cached_property
    def _lines(self) -> tuple[Recorded, ...]:
        return tuple(_read(self._file))

    @property
    def identity(self) -> str:
        """The digest of the file."""
        recorded = json.dumps([line.model_dump() for line in self._lines]).encode()
        return f"fixture {blake2b(recorded, digest_size=16).hexdigest()}"

    @property
    def can(self) -> frozenset[Feature]:
        """All features: the replies are what the author made them."""
        return frozenset(("banned", "grammar", "logprobs", "prefix", "schema", "seed"))

    async def send(self, request: Request) -> Answer:
        """Answer from the file. Raises ChatError where nothing fits."""
        for line in self._lines:
            if line.fits(request):
                return line.answer(request)
        asked = last_user_message(request)
        raise ChatError(f"{short_path(str(self._file))} has no reply to {asked[:80]!r}")


def last_user_message(request: Request) -> str:
    """Return the last user message of a request, or ""."""
    return next((m.content for m in reversed(request.messages) if m.role == "user"), "")


def count_words(request: Request, text: str) -> Usage:
    """Return the usage of a call that counts words, as if each were a token."""
    return Usage(sum(len(m.content.split()) for m in request.messages), out=len(text.split()))


def _read(file: Path) -> Iterable[Recorded]:
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        place = f"{short_path(str(file))}:{number}"
        try:
            recorded = Recorded.model_validate_json(line)
            re.compile(recorded.match or "")
        except ValidationError as error:
            raise ResourceError(f"{place}: {_first(error.errors()[0])}") from None
        except re.error as error:
            raise ResourceError(f"{place}: match: not a regular expression: {error}") from None
        yield recorded


def _first(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    return f"{where}: {error['msg']}" if where else str(error["msg"])


@hookimpl
def engine_resources() -> Sequence[type]:
    """Register `fixture.chat`."""
    return [FixtureChat]
