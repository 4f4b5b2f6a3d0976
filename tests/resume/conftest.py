"""A folder with a pipeline in it, its runs, and what they called."""

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import engine
from engine import StageError, Summary

STAGES = Path(__file__).with_name("stages_resume.py")


class Lab:
    """One pipeline in a folder: run it again and again, and look at what came out."""

    def __init__(self, folder: Path, stages: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / "p.yaml"
        (folder / "stages.py").write_text(STAGES.read_text())
        lines = [
            "".join(
                '{"match": "%d", "reply": ["no", "reply %d.", "a longer one \\ud83d\\ude00"]}\n'
            )
            % (i, i)
            for i in range(10)
        ]
        (folder / "replies.jsonl").write_text("".join(lines))
        self.write(stages)
        self.calls: Counter[str] = Counter()
        self.hook: list[Callable[[int], None]] = []

    def write(self, stages: str, whole: str = "") -> None:
        head = "name: test\nresources: {llm: {use: fixture.chat, with: {file: replies.jsonl}}}\n"
        self.path.write_text(whole or head + "stages:\n" + stages)

    def open(self, *overrides: str, **options: Any) -> engine.Run:
        run = engine.open(self.path, set=overrides, **options)
        for wired in run.pipeline.stages.values():
            if "CALLS" in wired.spec.func.__globals__:
                self.calls = wired.spec.func.__globals__["CALLS"]
                self.hook = wired.spec.func.__globals__["HOOK"]
        self.calls.clear()
        return run

    async def stop(self, how: str, at: int, *overrides: str) -> None:
        """Run, and end it in some way at the k-th call of a stage, if there are so many."""
        if how == "sink":  # fails at the k-th row
            text = self.path.read_text()
            self.write("", text + f"  fails: {{use: ./stages.py:fails, with: {{at: {at}}}}}\n")
            with contextlib.suppress(StageError):  # there may be fewer rows
                await self.run(*overrides)
            self.path.write_text(text)
            return
        with anyio.CancelScope() as scope:
            run, reached = self.open(*overrides), anyio.Event()
            if how == "cancel":
                self.hook.append(lambda count: scope.cancel() if count == at else None)
            elif how == "stop":
                self.hook.append(lambda count: run.stop() if count == at else None)
            else:
                self.hook.append(lambda count: reached.set() if count == at else None)
            try:
                async with run, anyio.create_task_group() as tasks:
                    tasks.start_soon(self._end, run, reached, how)
                    await run.finish()
                    tasks.cancel_scope.cancel()
            except* ZeroDivisionError:
                pass
            finally:
                self.hook.clear()

    async def _end(self, run: engine.Run, reached: anyio.Event, how: str) -> None:
        await reached.wait()
        if how == "error":
            raise ZeroDivisionError
        await run.drain()

    async def run(self, *overrides: str, **options: Any) -> Summary:
        """Run to the end; `calls` then counts the calls of this run."""
        async with self.open(*overrides, **options) as run:
            return await run.finish()

    async def rows(self, *overrides: str, **options: Any) -> list[dict[str, Any]]:
        async with self.open(*overrides, **options) as run:
            found = [{"row_id": row.row_id, **row.fields} async for row in run]
        self.summary = run.summary
        return found

    @property
    def output(self) -> dict[str, bytes]:
        files = [p for p in self.folder.iterdir() if p.suffix in (".jsonl", ".parquet")]
        return {p.name: p.read_bytes() for p in files if p.name.startswith("out")}


@pytest.fixture
def lab(tmp_path: Path) -> Callable[..., Lab]:
    return lambda stages, name="lab": Lab(tmp_path / name, stages)


@pytest.fixture
def lab_class() -> type[Lab]:
    return Lab
