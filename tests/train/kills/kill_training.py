"""Kill a training with SIGKILL as soon as it has a checkpoint, run again, compare every byte.

    python tests/train/kills/kill_training.py sft reward dpo grpo [--kills N]

It trains tiny models with random weights through `engine run`, once undisturbed and once killed
at each of N checkpoints, and compares the folders of the models.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import orjson

STEPS, EVERY = 12, 3
CONFIG = (
    "{model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, "
    "num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 128}"
)
ARGS = {
    "sft": f"max_steps: {STEPS}, save_steps: {EVERY}, per_device_train_batch_size: 4",
    "reward": f"max_steps: {STEPS}, save_steps: {EVERY}, logging_steps: 1, per_device_train_batch_size: 4",
    "dpo": f"max_steps: {STEPS}, save_steps: {EVERY}, per_device_train_batch_size: 4",
    "grpo": f"max_steps: {STEPS}, save_steps: {EVERY}, per_device_train_batch_size: 4, "
    "num_generations: 2, max_completion_length: 6, learning_rate: 1.0e-3",
}
MORE = {"grpo": "reward_file: score.py, "}
SCORE = "def reward(prompts, completions, **columns):\n    return [len(set(c.split())) for c in completions]\n"
PIPELINE = """
name: kill
seed: 5
stages:
  read: {{use: dataset.read, with: {{path: rows.jsonl}}}}
  pack: {{use: dataset.pack}}
  train:
    use: train.{method}
    with: {{model: {{config: {config}}}, {more}args: {{{args}}}}}
  keep: {{use: artifact.write, with: {{path: model, field: model}}}}
"""
WORDS = ("the", "a", "red", "blue", "green", "small", "cat", "dog", "bird", "sings", "sees", "and")


def rows(method: str, count: int = 40) -> Iterator[dict[str, str]]:
    """Yield made-up examples in the method's format."""
    draw = random.Random(11)

    def words(n: int) -> str:
        return " ".join(draw.choices(WORDS, k=n))

    for _ in range(count):
        prompt = words(4)
        if method == "sft":
            yield {"prompt": prompt, "completion": " " + words(5)}
        elif method == "grpo":
            yield {"prompt": prompt}
        else:
            yield {"prompt": prompt, "chosen": " " + words(5), "rejected": " " + words(3)}


def prepare(folder: Path, method: str) -> Path:
    """Write the pipeline and its data; return the pipeline's path."""
    folder.mkdir(parents=True)
    lines = [orjson.dumps(row) for row in rows(method)]
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (folder / "score.py").write_text(SCORE)
    path = folder / "kill.yaml"
    more = MORE.get(method, "")
    path.write_text(PIPELINE.format(method=method, config=CONFIG, args=ARGS[method], more=more))
    return path


def start(pipeline: Path) -> subprocess.Popen[bytes]:
    """Start the engine on a pipeline, in a session of its own."""
    command = [str(Path(sys.executable).with_name("engine")), "run", str(pipeline), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, start_new_session=True
    )


def checkpoints(pipeline: Path) -> set[str]:
    """Return the complete checkpoints of a training in progress."""
    found = (pipeline.parent / ".engine").rglob("checkpoint-*/complete")
    return {path.parent.name for path in found}


def kill_at(pipeline: Path, seen: set[str], deadline: float = 180.0) -> bool:
    """Run, and kill at the next new checkpoint; return whether there was one to kill at."""
    process = start(pipeline)
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if checkpoints(pipeline) - seen:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            seen |= checkpoints(pipeline)
            return True
        if process.poll() is not None:
            _, errors = process.communicate()
            if process.returncode:
                raise RuntimeError(errors.decode())
            return False
        time.sleep(0.005)
    raise TimeoutError("no checkpoint")


def finish(pipeline: Path) -> dict[str, bytes]:
    """Run to the end; return the files of the model."""
    process = start(pipeline)
    _, errors = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(errors.decode())
    model = pipeline.parent / "model"
    return {
        path.relative_to(model).as_posix(): path.read_bytes()
        for path in sorted(model.rglob("*"))
        if path.is_file()
    }


def differing(folder: Path, method: str, kills: int) -> tuple[int, list[str]]:
    """Return how often a training was killed, and the files that then differ."""
    whole = finish(prepare(folder / "whole", method))
    pipeline = prepare(folder / "killed", method)
    seen: set[str] = set()
    killed = 0
    while killed < kills and kill_at(pipeline, seen):
        killed += 1
    resumed = finish(pipeline)
    names = sorted(whole.keys() | resumed.keys())
    return killed, [name for name in names if whole.get(name) != resumed.get(name)]


def main() -> None:
    """Try the methods that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="+", choices=sorted(ARGS))
    parser.add_argument("--kills", type=int, default=3)
    asked = parser.parse_args()
    wrong = 0
    for method in asked.methods:
        with tempfile.TemporaryDirectory() as folder:
            killed, names = differing(Path(folder), method, asked.kills)
        print(f"{method}: killed {killed} times, {names or 'identical'}", flush=True)
        wrong += bool(names) or not killed
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
