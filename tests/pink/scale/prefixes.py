"""What a server that caches prefixes would have read: blocks of 16 tokens, the least used dropped.

A message is `<role> content <end>` between marks of one token each. A token is a piece of a word of
six letters at most, with the space before it, or up to three marks: on these texts within some
percent of what real tokenizers take. As in vLLM, a block is known by all that stands before it, a
prompt's last token is always read, and what was generated stays, too. Beside it stands what a
server would have that keeps prompts alone.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Prefixes", "Read", "tokens"]

BLOCK = 16
_TOKEN = re.compile(r" ?\w{1,6}|[^\w\s]{1,3}|\s+")


def tokens(text: str) -> list[str]:
    """Return the tokens of a text."""
    return _TOKEN.findall(text)


class Read(NamedTuple):
    """Tokens of one call."""

    prompt: int
    cached: int
    """Of the prompt, where generated blocks are kept."""
    cached_prompts: int
    """Of the prompt, where only those of prompts are."""
    out: int


@dataclass(frozen=True, slots=True)
class _Chain:
    """The blocks of a list of messages, and the tokens after the last whole one."""

    blocks: tuple[int, ...]
    rest: tuple[str, ...]

    @property
    def count(self) -> int:
        return BLOCK * len(self.blocks) + len(self.rest)

    def more(self, some: Sequence[str]) -> _Chain:
        """Return the chain with more tokens."""
        every = (*self.rest, *some)
        blocks, at = list(self.blocks), 0
        before = blocks[-1] if blocks else 0
        while at + BLOCK <= len(every):
            before = hash((before, every[at : at + BLOCK]))
            blocks.append(before)
            at += BLOCK
        return _Chain(tuple(blocks), every[at:])


class _Least:
    """Blocks, of which the least recently used go."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def read(self, chain: _Chain) -> int:
        """Return how many of a prompt's tokens are there, and keep all its blocks."""
        found, blocks = 0, self._blocks
        for block in chain.blocks:
            if block not in blocks:
                break
            found += 1
        self.keep(chain)
        if found * BLOCK == chain.count:
            found -= 1
        return found * BLOCK

    def keep(self, chain: _Chain) -> None:
        """Keep the blocks of a chain."""
        blocks = self._blocks
        for block in chain.blocks:
            if block in blocks:
                blocks.move_to_end(block)
            else:
                blocks[block] = None
        while len(blocks) > self._most:
            blocks.popitem(last=False)


class Prefixes:
    """The caches; `room` is how many tokens they hold."""

    def __init__(self, room: int) -> None:
        self._all, self._prompts = _Least(room // BLOCK), _Least(room // BLOCK)
        self._chains: dict[tuple[tuple[str, str], ...], _Chain] = {}

    def call(self, messages: Sequence[tuple[str, str]], reply: str) -> Read:
        """Read a prompt and write a reply."""
        asked = self._chain(tuple(messages)).more(_head("assistant"))
        cached, cached_prompts = self._all.read(asked), self._prompts.read(asked)
        written = (*messages, ("assistant", reply))
        out = tokens(reply)
        whole = asked.more(out)
        self._all.keep(whole)
        self._remember(written, whole.more(_END))
        return Read(asked.count, cached, cached_prompts, len(out) + 1)

    def _chain(self, messages: tuple[tuple[str, str], ...]) -> _Chain:
        if not messages:
            return _Chain((), ())
        found = self._chains.get(messages)
        if found is None:
            *_, (role, content) = messages
            before = self._chain(messages[:-1])
            found = before.more((*_head(role), *tokens(content), *_END))
            self._remember(messages, found)
        return found

    def _remember(self, messages: tuple[tuple[str, str], ...], chain: _Chain) -> None:
        if len(self._chains) >= 4096:  # it is made again where it is needed
            self._chains.clear()
        self._chains[messages] = chain


_END = ("<end>", "\n")


def _head(role: str) -> tuple[str, str, str]:
    return ("<start>", role, "\n")
