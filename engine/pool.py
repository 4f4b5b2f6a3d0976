"""The resources of a run: who opens them, where they live, how they are closed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import anyio

from engine.errors import ResourceError
from engine.resources import Resource

__all__ = ["ResourcePool"]


class ResourcePool:
    """The resources of a run: opened lazily, each in its own task, closed in reverse, shielded."""

    def __init__(self, resources: Mapping[str, Resource], given: Collection[str] = ()) -> None:
        """`given` are the keys of those that the caller opens and closes."""
        self._resources = resources
        self._open = {key: resources[key] for key in given}
        self._hosts: dict[str, _Host] = {}
        self._lock = anyio.Lock()

    async def __aenter__(self) -> ResourcePool:
        """Make the tasks' group."""
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        """Close what is open, last opened first, whatever happens around it.

        Raises ResourceError when closing failed; beside another error, it is a note on that.
        """
        with anyio.CancelScope(shield=True):
            for host in reversed(self._hosts.values()):
                await host.close()
        await self._tasks.__aexit__(None, None, None)
        for host in self._hosts.values():
            if host.closing_error is None:
                continue
            failed = f"resource {host.key}: closing failed: {host.closing_error}"
            if error is None:
                raise ResourceError(failed) from host.closing_error
            error.add_note(failed)

    async def get(self, key: str) -> Resource:
        """Return an open resource. Raises ResourceError when it cannot be opened."""
        if key not in self._open:
            async with self._lock:  # in the order of asking, which is that of closing reversed
                host = self._hosts.get(key)
                if host is None:  # else a caller gave up while it was being opened
                    host = self._hosts[key] = _Host(key, self._resources[key])
                    self._tasks.start_soon(host.live)
                self._open[key] = await host.opened()
        return self._open[key]


class _Host:
    """The task in which one resource is entered and left."""

    def __init__(self, key: str, resource: Resource) -> None:
        self.key, self._resource = key, resource
        self._ready, self._closing, self._done = anyio.Event(), anyio.Event(), anyio.Event()
        self._scope = anyio.CancelScope(shield=True)
        self._entered: Resource | None = None
        self._error: BaseException | None = None
        self.closing_error: Exception | None = None

    async def live(self) -> None:
        try:
            with self._scope:
                try:
                    async with self._resource as entered:
                        self._entered = entered
                        self._ready.set()
                        await self._closing.wait()
                except Exception as error:
                    if self._entered is None:
                        self._error = error
                    else:
                        self.closing_error = error
        finally:
            self._ready.set()
            self._done.set()

    async def opened(self) -> Resource:
        await self._ready.wait()
        if self._entered is None:
            raise ResourceError(
                f"resource {self.key} cannot be opened: {self._error}"
            ) from self._error
        return self._entered

    async def close(self) -> None:
        if self._entered is None:
            self._scope.cancel()
        self._closing.set()
        await self._done.wait()
