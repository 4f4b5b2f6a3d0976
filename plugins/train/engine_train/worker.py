"""A worker: a child process that runs one order after the other, until the engine is gone.

It reads orders as JSON lines on its standard input and answers on its standard output; whatever
libraries print goes to the order's log. `--order FILE` runs a single order: `accelerate launch`
starts one such process for each device, of which the first answers.
"""

from __future__ import annotations

import gc
import os
import queue
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson

from engine_train.errors import TrainingError

__all__ = ["ENGINE", "STOP", "main"]

ENGINE = "ENGINE_TRAIN_ENGINE_PID"
"""The environment variable that says whose death is the worker's."""
STOP = "stop"
"""The file in an order's work folder that asks it to come to an end, for a later start."""


def main() -> None:
    """Run orders until the input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def tell(answer: Mapping[str, Any]) -> None:
        answers.write(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")

    if sys.argv[1:2] == ["--order"]:
        for process in (int(os.environ[ENGINE]), os.getppid()):
            watch(process)
        first = os.environ.get("RANK", "0") == "0"
        answer = obey(orjson.loads(Path(sys.argv[2]).read_bytes()), tell if first else _nobody)
        if first:
            tell(answer)
        os._exit(0 if "done" in answer else 1)
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            orders.put(line)
        # The engine is gone, or has no more to do; what was forked to load or tokenise goes, too.
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        answer = obey(orjson.loads(orders.get()), tell)
        free()  # before the answer, as the next order may come with it
        tell(answer)


def obey(order: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Run an order; return what came of it, an error included."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 2)
    os.dup2(log, 1)
    os.close(log)
    module, _, name = order["function"].partition(":")
    try:
        return {"done": getattr(import_module(module), name)(order["payload"], tell)}
    except TrainingError as error:
        return {"failed": {"training": True, "message": str(error)}}
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "engine_" in f.filename]
        at = f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
        named = "" if type(error) is RuntimeError else f"{type(error).__name__}: "
        return {
            "failed": {"training": False, "message": f"{named}{error}{at}"},
        }


def free() -> None:
    """Let go of what the last order held: trainers and models are cycles, and fill a GPU."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def watch(process: int) -> None:
    """End this process when another ends, however it does: the engine, or a launcher."""

    def wait() -> None:
        try:
            descriptor = os.pidfd_open(process)  # type: ignore[attr-defined,unused-ignore]
        except OSError:  # it is gone already
            os._exit(1)
        select.select([descriptor], [], [])
        os._exit(1)

    if hasattr(os, "pidfd_open"):
        threading.Thread(target=wait, daemon=True).start()


def _nobody(answer: Mapping[str, Any]) -> None:
    """Answer to no one: another process of this training does."""


if __name__ == "__main__":
    main()
