"""A connection to one server that speaks OpenAI's HTTP: bodies out, bounded replies or errors in.

The openai SDK gives the headers, the pools and the transports; its `create` is passed by. That
transforms each body by type hints, builds models without checking them and reads whatever comes:
four times the CPU, and no bound to the memory.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

import anyio
from anyio import to_thread
from pydantic import ByteSize

from engine.chat.servers import is_loopback
from engine.errors import ChatError, ResourceError
from engine.services import Usage

if TYPE_CHECKING:
    import httpx2

__all__ = ["Connection", "retry_after"]

KEEP_ALIVE = 4.0
"""Seconds that an idle connection is kept: less than the servers' usual five, who else close it
as the next request is on its way."""

PASSING = frozenset((408, 409, 425, 429))
"""Statuses below 500 that another try may cure."""

CONCERNING_ALL = {401: "is the key in {key_env} right", 404: "are model and base_url right"}
CONCERNING_ALL |= dict.fromkeys((301, 302, 303, 307, 308), "it redirects: is base_url right")
"""Statuses that no row can help -> what to look at."""


class Connection:
    """Keeps up to `slots` connections to a server; `open` it first, and `close` it.

    `name` is the model's, and `host` the server's, as messages call them. `timeout` bounds each
    exchange, in seconds; `max_reply` each reply, in bytes, once it is decompressed.
    """

    def __init__(
        self,
        *,
        name: str,
        host: str,
        base_url: str,
        key: str,
        key_env: str,
        slots: int,
        timeout: float,
        max_reply: ByteSize,
    ) -> None:
        self._name, self._host, self._base_url = name, host, base_url
        self._key, self._key_env = key, key_env
        self._slots, self._timeout, self._max_reply = slots, timeout, max_reply

    async def open(self) -> None:
        """Open the client. Raises ResourceError without the SDK."""
        try:
            sdk = await to_thread.run_sync(import_module, "openai")  # a second of imports
        except ImportError as error:
            raise ResourceError(
                "openai.chat needs the openai SDK: `pip install 'st-engine[openai]'`"
            ) from error
        http = import_module("httpx2")
        self._client = self._opened(sdk, http)
        headers = sdk.AsyncOpenAI(
            api_key=self._key or "none", base_url=self._base_url, http_client=self._client
        )
        given = {**self._client.headers, **headers.default_headers, **headers.auth_headers}
        given["accept-encoding"] = "gzip"  # what else there is may blow up a thousandfold
        self._headers = http.Headers({k: v for k, v in given.items() if isinstance(v, str)})
        self._request = http.Request

    def _opened(self, sdk: ModuleType, http: ModuleType) -> httpx2.AsyncClient:
        """Return the SDK's HTTP client: on asyncio over aiohttp, for half the CPU."""
        near = is_loopback(self._base_url)
        fast = _on_asyncio() and find_spec("aiohttp") and (near or not getproxies())
        make = sdk.DefaultAioHttpClient if fast else sdk.DefaultAsyncHttpxClient
        client: httpx2.AsyncClient = make(
            # What is on this machine is not asked through a proxy, whatever the environment says.
            trust_env=not near,
            timeout=None,  # a whole exchange has one, see `post`
            follow_redirects=False,  # a key and its prompts go where the user said
            limits=http.Limits(max_connections=self._slots, keepalive_expiry=KEEP_ALIVE),
        )
        return client

    async def close(self) -> None:
        """Close all connections."""
        with anyio.CancelScope(shield=True):
            await self._client.aclose()

    async def post(self, url: httpx2.URL | str, body: Mapping[str, Any]) -> bytes:
        """Return what the server answers to a JSON body.

        Raises ChatError, and ResourceError for what concerns every row.
        """
        content = json.dumps(body, ensure_ascii=False).encode()
        asked = self._request("POST", url, content=content, headers=self._headers)
        try:
            with anyio.fail_after(self._timeout):
                response = await self._client.send(asked, stream=True)
                try:
                    data = await self._read(response)
                finally:
                    await response.aclose()
        except ChatError:
            raise
        except TimeoutError:
            late = f"no reply within {self._timeout:g} s"
            raise ChatError(late, retryable=True, status=0) from None
        except Exception as error:  # the transport's own, of many kinds; it may repeat the key
            said = self.safe(f"connection to {self._host}: {_innermost(error)}")
            raise ChatError(said, retryable=True, status=0) from None
        if not response.is_success:
            raise self._refusal(response.status_code, response.headers, data)
        return data

    async def _read(self, response: httpx2.Response) -> bytes:
        """Return the body, in pieces: a server that went mad must not fill the memory."""
        data = bytearray()
        # Cancelled rather than left: the generators then end from the innermost outwards.
        with anyio.CancelScope() as scope:
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > self._max_reply:
                    scope.cancel()
        if len(data) > self._max_reply:
            most = self._max_reply.human_readable()
            usage = Usage() if response.is_success else None  # it was paid, however much it was
            raise ChatError(f"the reply is longer than {most}: see `max_reply`", usage=usage)
        return bytes(data)

    def _refusal(
        self, status: int, headers: Mapping[str, str], data: bytes
    ) -> ChatError | ResourceError:
        said, code = _explained(data)
        text = f"{status}: {self.safe(said)}"
        hint = CONCERNING_ALL.get(status, "").format(key_env=self._key_env)
        if code == "insufficient_quota":
            hint = "is there credit left"
        if hint:  # as it is for this row, so for every row
            return ResourceError(f"{self._name} at {self._host}: {text} ({hint}?)")
        retryable = status in PASSING or status >= 500
        wait = retry_after(headers) if retryable else 0.0
        return ChatError(text, retryable=retryable, retry_after=wait, status=status)

    def safe(self, text: str, longest: int = 500) -> str:
        """Return what a server said in one line, without keys."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(re.sub(r"\bsk-[\w*.-]+", "***", text).split())[:longest]


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait: `retry-after-ms`, seconds, or a date."""
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return ms / 1000
    said = headers.get("retry-after")
    if (seconds := _number(said)) is not None:
        return seconds
    until = _timestamp(said)
    if until is None:
        return 0.0
    now = _timestamp(headers.get("date"))  # the server's own clock, if it says
    return max(0.0, until - (time.time() if now is None else now))


def _explained(data: bytes) -> tuple[str, str]:
    """Return what an error's body says, and its code, if it is worded as OpenAI does."""
    text = data.decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
        return str(error.get("message") or text), str(error.get("code") or "")
    except (ValueError, LookupError, TypeError, AttributeError):
        return text or "(no body)", ""


def _innermost(error: BaseException) -> str:
    """Return what the transport's transport said: what is wrapped around it may be misnamed."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return str(error) or type(error).__name__


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _timestamp(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except ValueError:
        return None
