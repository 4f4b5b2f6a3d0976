"""What rewards a reply: a Python function, a game's verifier, or a reward model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from typing import Any

from engine_train.errors import TrainingError
from engine_train.grpo import Options

__all__ = ["from_model", "load", "rewards"]

Reward = Callable[..., Any]
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""The arguments that TRL gives, beside the dataset's columns."""


def rewards(options: Options, columns: Sequence[str], device: str = "cpu") -> list[Reward]:
    """Return the rewards that are asked for. Raises TrainingError where there is none."""
    found = []
    if options.reward_file is not None or options.reward_function is not None:
        function = load(options.reward_file, options.reward_function)
        found.append(_checked(function, columns))
    if options.reward_model is not None:
        found.append(from_model(options.reward_model, device))
    if not found:
        raise TrainingError(
            "nothing rewards the replies: say `reward_file: FILE.py`, `reward_function: "
            "package.module:function`, or `reward_model`"
        )
    return found


def load(file: Path | None, function: str | None) -> Reward:
    """Return the function `function` of a file, or that of `package.module:function`.

    Raises TrainingError where it is not found, or is no function.
    """
    if file is not None:
        name = function or "reward"
        spec = spec_from_file_location(f"engine_reward_{file.stem}", file)
        if not file.is_file() or spec is None or spec.loader is None:
            raise TrainingError(f"there is no Python file {file}")
        module = module_from_spec(spec)
        where = str(file)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise TrainingError(f"{file} fails: {type(error).__name__}: {error}") from error
    else:
        where, _, name = (function or "").partition(":")
        if not where or not name:
            raise TrainingError(
                f"`reward_function: {function}` names no module: say `package.module:function`, or "
                "give `reward_file` as well"
            )
        try:
            module = import_module(where)
        except ImportError as error:
            raise TrainingError(f"`reward_function: {function}`: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        others = [n for n, f in vars(module).items() if inspect.isfunction(f) and n[0] != "_"]
        has = ", ".join(others) or "none"
        raise TrainingError(f"{where} has no function {name}; its functions are: {has}")
    return found  # type: ignore[no-any-return]


def _checked(function: Reward, columns: Sequence[str]) -> Reward:
    """Return a function that is given what it asks for, and whose answers are looked at.

    Raises TrainingError where it asks for a column that the dataset does not have.
    """
    name = getattr(function, "__name__", type(function).__name__)
    parameters = inspect.signature(function).parameters.values()
    every = any(p.kind is p.VAR_KEYWORD for p in parameters)
    asked = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = {*GIVEN, *columns} - {"prompt"}
    needed = [
        p.name
        for p in parameters
        if p.name in asked and p.default is p.empty and p.name not in known
    ]
    if needed:
        raise TrainingError(
            f"{name}() asks for {', '.join(needed)}, which is no column of the dataset "
            f"({', '.join(columns)}) and none of {', '.join(GIVEN)}"
        )

    def told(given: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in given.items() if every or key in asked}

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def later(**given: Any) -> list[float | None]:
            with _named(name):
                answer = await function(**told(given))
            return _numbers(name, answer, len(given["completions"]))

        return later

    @wraps(function)
    def now(**given: Any) -> list[float | None]:
        with _named(name):
            answer = function(**told(given))
        return _numbers(name, answer, len(given["completions"]))

    return now


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of an error that the reward function made it, and where."""
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        at = extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        raise RuntimeError(f"{name}() failed: {type(error).__name__}: {error} ({where})") from error


def _numbers(name: str, answer: Any, count: int) -> list[float | None]:
    """Return the rewards as numbers. Raises TrainingError where they are not."""
    try:
        found = list(answer)
    except TypeError:
        found = [answer]
    if len(found) != count:
        raise TrainingError(f"{name}() gave {len(found)} rewards for {count} replies")
    try:
        numbers = [None if reward is None else float(reward) for reward in found]
    except (TypeError, ValueError) as error:
        raise TrainingError(f"{name}() gave a reward that is no number: {error}") from error
    wrong = [n for n in numbers if n is not None and not math.isfinite(n)]
    if wrong:
        raise TrainingError(
            f"{name}() gave the reward {wrong[0]}: a reward is a finite number, or None where the "
            "function has no say"
        )
    return numbers


def from_model(folder: Path, device: str) -> Reward:
    """Return a reward that a trained model gives to the prompt and reply."""
    from engine_train.rewards import RewardModel

    model = RewardModel.load(folder, device)

    def reward_model(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return model.score([model.encode(prompt, reply) for prompt, reply in pairs])

    return reward_model
