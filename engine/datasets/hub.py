"""The Hugging Face Hub: datasets read from it, and folders, datasets or models, pushed to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from engine.datasets.files import needs, split_of
from engine.errors import short_path

__all__ = ["TOKEN", "check_push", "check_repo", "load", "push", "tables"]

TOKEN = "HF_TOKEN"
"""The environment variable that holds the token: there is no other way to give one."""
_ROWS = 1024
Kind = Literal["dataset", "model"]
_PARTS: Mapping[Kind, re.Pattern[str]] = {
    "dataset": re.compile(r"data/train-.*"),
    "model": re.compile(
        r"(pytorch_|adapter_)?model(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?"
    ),
}
"""Files that are read by their names: one of an older push would be read with the new ones."""


def check_repo(repo: str, kind: Kind = "dataset") -> None:
    """Raise ValueError for what is no `org/name`, or where the libraries are missing."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
        raise ValueError(f"hub: {repo!r} is no {kind}'s name: write `org/name`")
    needs("huggingface_hub", "hub", f"hub: a {kind} on the Hub")


def load(
    repo: str, config: str | None, split: str | None, revision: str | None, streaming: bool
) -> Any:
    """Return a split of a dataset on the Hub, through the library `datasets`.

    Raises ValueError, as a sentence, for what is not there or may not be read.
    """
    import datasets

    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # the run has a view of its own
    try:
        loaded: Any = datasets.load_dataset(
            repo,
            config,
            revision=revision,
            streaming=streaming,
            token=os.environ.get(TOKEN) or False,
        )
    except Exception as error:  # some thirty classes of four libraries
        raise ValueError(f"hub: {repo} cannot be read: {_sentence(error)}") from None
    finally:
        if not quiet:
            datasets.enable_progress_bars()
    return loaded[split_of(loaded, split, repo)]


def tables(repo: str, loaded: Any) -> Iterator[Any]:
    """Yield the rows of a loaded split as Arrow tables. Raises ValueError as `load` does."""
    try:
        yield from loaded.with_format("arrow").iter(batch_size=_ROWS)
    except Exception as error:
        raise ValueError(f"hub: {repo} cannot be read on: {_sentence(error)}") from None


def check_push(repo: str, kind: Kind = "dataset") -> None:
    """Raise ValueError for what would let a push fail, as far as that can be known before a run."""
    check_repo(repo, kind)
    if "/" not in repo:
        raise ValueError(f"hub: write whose it is, too: `org/{repo}`")
    if not os.environ.get(TOKEN):
        raise ValueError(
            f"hub: the environment variable {TOKEN} is not set: export a token of the Hub that may "
            f"write to {repo}"
        )


def push(folder: Path, repo: str, *, private: bool, message: str, kind: Kind = "dataset") -> None:
    """Put a folder on the Hub, in one commit: its files, and no older shards or weights.

    Raises RuntimeError, as a sentence that says how to push again, if that fails.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=os.environ.get(TOKEN) or False)
    try:
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        if private and not api.repo_info(repo, repo_type=kind).private:
            raise RuntimeError(
                "it is there already, and public: make it private, or say `private: false`"
            )
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        there = api.list_repo_files(repo, repo_type=kind)
        old = [name for name in there if _PARTS[kind].fullmatch(name) and name not in files]
        api.create_commit(
            repo,
            repo_type=kind,
            commit_message=message,
            operations=[
                *(CommitOperationDelete(name) for name in sorted(old)),
                *(CommitOperationAdd(name, path) for name, path in sorted(files.items())),
            ],
        )
    except Exception as error:
        raise RuntimeError(
            f"hub: {repo} was not pushed: {_sentence(error)}. The files are complete in "
            f"{short_path(str(folder))}; run the pipeline again to push them"
        ) from None


def _sentence(error: BaseException) -> str:
    """Say what went wrong between here and the Hub."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    for known in causes:
        status = getattr(getattr(known, "response", None), "status_code", 0)
        if status in _STATUS:
            return _STATUS[status]
        if isinstance(known, ConnectionError) or "Connect" in type(known).__name__:
            return "the Hub cannot be reached: see whether there is a network"
    return (str(error).splitlines() or [""])[0].rstrip(". ") or type(error).__name__


_STATUS: Mapping[int, str] = {
    401: f"the Hub does not know the token (401): see what {TOKEN} holds",
    403: f"the token may not do this (403): give one in {TOKEN} that may",
    404: "there is no such dataset, or the token may not see it (404)",
}
