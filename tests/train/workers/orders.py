"""What the workers of these tests are asked to do."""

import gc
import os
import time
import weakref
from pathlib import Path
from typing import Any, ClassVar

from engine_train.errors import TrainingError


def add(payload: dict[str, Any], tell: Any) -> dict[str, Any]:
    print("this is printed by a library")
    tell({"say": f"adding {payload['a']}"})
    return {"sum": payload["a"] + payload["b"], "pid": os.getpid()}


def fail(payload: dict[str, Any], tell: Any) -> None:
    raise TrainingError("the dataset is empty")


def crash(payload: dict[str, Any], tell: Any) -> None:
    raise KeyError("x")


def die(payload: dict[str, Any], tell: Any) -> None:
    os.kill(os.getpid(), 9)


def fork_and(payload: dict[str, Any], tell: Any) -> None:
    """Fork a process, as loaders of data do; then die, or wait to be killed."""
    child = os.fork()
    if not child:
        time.sleep(600)
        os._exit(0)
    Path(payload["workdir"], "pid-0").write_text(str(child))
    if payload.get("then") == "die":
        os.kill(os.getpid(), 9)
    time.sleep(600)


def until_stopped(payload: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Wait for the file that asks to stop; the first answer says that it waits."""
    stop = Path(payload["workdir"]) / "stop"
    rank = os.environ.get("RANK", "0")
    Path(payload["workdir"], f"pid-{rank}").write_text(str(os.getpid()))
    tell({"say": "waiting"})
    for _ in range(3000):
        if stop.exists():
            return {"stopped": True}
        time.sleep(0.02)
    raise TimeoutError


def meet(payload: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Return once another order has come here, too."""
    here = Path(payload["folder"])
    (here / payload["name"]).touch()
    for _ in range(3000):
        if len(list(here.iterdir())) == 2:
            return {"pid": os.getpid()}
        time.sleep(0.02)
    raise TimeoutError


class Model:
    """Something big that refers to itself, as a trainer does."""

    held: ClassVar[weakref.WeakSet["Model"]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.itself = self
        self.held.add(self)


def hold(payload: dict[str, Any], tell: Any) -> int:
    """Return how many models are held; make one."""
    held = len(Model.held)
    gc.disable()  # which would find it some time
    Model()
    return held


def threads(payload: dict[str, Any], tell: Any) -> dict[str, Any]:
    return {"threads": os.environ["OMP_NUM_THREADS"]}
