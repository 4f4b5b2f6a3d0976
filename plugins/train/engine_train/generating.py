"""A causal model that answers several calls at once, in a thread of its own.

Calls join and leave between two tokens. Each draws from a generator of its own, seeded by its
request, so its reply is the same whoever shares the batch, up to the last bits of the arithmetic.
"""

from __future__ import annotations

import copy
import inspect
import random
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from engine.chat import Answer, ChatError, Request, TokenLogprob, Usage
from engine.chat.llama import key_token, spellings
from engine_train.batches import Batch
from engine_train.draws import REPEATS, Pieces, draw, top_logprobs
from engine_train.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Call", "Decoder"]


class Decoder:
    """A model and its tokenizer, answering up to `slots` calls at a time.

    `context` is how many tokens a prompt and its reply may have together: left out, what the model
    was made for. `template` is a Jinja chat template, in place of the tokenizer's.
    Raises TrainingError where there is no template, or the model does not read so much.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        slots: int,
        context: int | None = None,
        template: str | None = None,
    ) -> None:
        self._model, self._slots = model, slots
        self._tokenizer = copy.deepcopy(tokenizer)  # one thread at a time may encode with it
        if template is not None:
            self._tokenizer.chat_template = template
        if not self._tokenizer.chat_template:
            raise TrainingError(
                f"{name}: its tokenizer has no chat template: take an instruct model, or give the "
                "file of a Jinja template as `template`"
            )
        if not {"cache", "past_key_values"} & set(inspect.signature(model.forward).parameters):
            raise TrainingError(f"{name} keeps no attention states: it cannot go on token by token")
        reads = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if context and reads and context > reads:
            raise TrainingError(f"{name} reads {reads} tokens, not the {context} of `context`")
        self._context = context or reads or 1 << 30
        self._ends = _ends(model, tokenizer)
        self._special = frozenset(tokenizer.all_special_ids)
        self._banned: dict[str, frozenset[int]] = {}
        self._text = threading.Lock()
        self._changed = threading.Condition()
        self._waiting: deque[Call] = deque()
        self._thread: threading.Thread | None = None
        self._workers: anyio.CapacityLimiter | None = None
        self._closing = False

    async def reply(self, request: Request, deadline: float) -> Answer:
        """Answer a request, off the event loop, as `run` does; a cancelled one frees its place."""
        if self._workers is None:
            self._workers = anyio.CapacityLimiter(self._slots)
        call = Call(request)
        try:
            return await to_thread.run_sync(
                self.run, call, deadline, abandon_on_cancel=True, limiter=self._workers
            )
        finally:
            call.stop()

    def run(self, call: Call, deadline: float) -> Answer:
        """Answer a call; blocks. Raises ChatError, once it is stopped as well.

        The `deadline`, in seconds, runs from when the model begins with it.
        """
        with self._text:
            self._prepare(call)
        with self._changed:
            if self._closing:
                raise ChatError("the model is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._waiting.append(call)
            self._changed.notify()
        call.begun.wait()
        if not call.ended.wait(deadline):
            call.stop()
            raise ChatError(f"no reply within {deadline:g} s", retryable=True)
        return call.answer()

    def close(self, *, wait: bool = True) -> None:
        """Stop what runs, and the thread; `wait` for its end, which is at the next token."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if wait and self._thread is not None:
            self._thread.join()

    # --- a request as tokens ------------------------------------------------------------------

    def _prepare(self, call: Call) -> None:
        request = call.request
        messages = [{"role": m.role, "content": str(m.content)} for m in request.messages]
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # the template's own words, in classes of jinja's and Python's
            raise ChatError(f"the chat template refuses these messages: {error}") from error
        text += str(request.prefix)
        prompt: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(prompt) >= self._context:
            raise ChatError(
                f"the prompt has {len(prompt)} tokens, the context {self._context}: shorten it, "
                "or raise `context` where the model reads more"
            )
        if not prompt:
            raise ChatError("the prompt is empty: nothing to continue")
        longest = request.sampling.max_tokens or self._context
        call.most = min(longest, self._context - len(prompt))
        call.prompt = prompt
        call.banned = frozenset(t for term in request.sampling.banned for t in self._bans(term))
        call.pieces = Pieces(self._tokenizer, prompt)

    def _bans(self, term: str) -> frozenset[int]:
        """Return the tokens whose absence keeps `term` out, as embedded.chat takes them."""
        if term not in self._banned:
            keys = set()
            for text in (lead + word for word in spellings(term) for lead in ("", " ")):
                ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
                ids = [i for i in ids if i != self._tokenizer.unk_token_id]
                if ids:
                    keys.add(key_token([(i, self._tokenizer.decode([i])) for i in ids]))
            self._banned[term] = frozenset(key for key in keys if key is not None)
        return self._banned[term]

    # --- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        import torch

        calls: list[Call] = []
        batch: Batch | None = None
        with torch.inference_mode():
            while True:
                arrived = self._arrived(calls, batch)
                if arrived is None:
                    return
                try:
                    batch = self._advance(calls, batch, arrived)
                except Exception as error:
                    failure = _failure(error, len(calls) + len(arrived))
                    for call in (*calls, *arrived):
                        call.fail(failure)
                    batch = None
                    calls.clear()

    def _arrived(self, calls: list[Call], batch: Batch | None) -> list[Call] | None:
        """Return the calls to take up, waiting where there is nothing to do; None at the end."""
        with self._changed:
            while not (self._waiting or calls or self._closing):
                self._changed.wait()
            if self._closing:
                for call in (*calls, *self._waiting):
                    call.fail(ChatError("the model was closed", retryable=True))
                return None
            free = self._slots - len(calls) if batch is None or batch.grows else 0
            arrived = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        return [call for call in arrived if not call.stopped]

    def _advance(
        self, calls: list[Call], batch: Batch | None, arrived: Sequence[Call]
    ) -> Batch | None:
        """Read the prompts that arrived, draw a token for each call, and compute the next logits.

        `calls` are those of the batch's rows, and are so again when it returns.
        """
        read, begun = self._read(arrived)
        if read is not None:
            if batch is None:
                batch = read
            else:
                batch.join(read)
            calls += begun
        if batch is None:
            return None
        for call, logits in zip(calls, batch.logits, strict=True):
            if not call.stopped:
                self._draw(call, logits)
        left = [row for row, call in enumerate(calls) if not call.stopped]
        if len(left) < len(calls):
            calls[:] = [calls[row] for row in left]
            if not left:
                return None
            batch.keep(left)
        batch.step([call.tokens[-1] for call in calls])
        return batch

    def _read(self, arrived: Sequence[Call]) -> tuple[Batch | None, Sequence[Call]]:
        """Read the prompts of calls; return those that were read.

        Where that fails half of them go back, until the guilty one fails alone.
        """
        if not arrived:
            return None, ()
        read: set[tuple[int, ...]] = set()
        for call in arrived:
            prompt = tuple(call.prompt)
            call.cached = prompt in read
            read.add(prompt)
            call.begun.set()
        try:
            return Batch(self._model, [call.prompt for call in arrived]), arrived
        except Exception as error:
            half = len(arrived) // 2
            if not half:
                arrived[0].fail(_failure(error, 1))
                return None, ()
        with self._changed:
            self._waiting.extendleft(reversed(arrived[half:]))
        return self._read(arrived[:half])

    def _draw(self, call: Call, logits: Tensor) -> None:
        """Add a token to a call; end it where that is its last."""
        if not bool(logits.isfinite().any()):
            call.fail(ChatError("the model's logits are no numbers: its weights are broken"))
            return
        sampling = call.request.sampling
        seen = (*call.prompt[-REPEATS:], *call.tokens[-REPEATS:])
        token = draw(logits, sampling, seen, call.banned, call.random.random())
        call.tokens.append(token)
        if token in self._ends:
            call.end("stop")
            return
        if count := call.request.top_logprobs:
            weighed = top_logprobs(logits, token, count, call.pieces)
        piece = "" if token in self._special else call.pieces.push(token)
        if count:  # what stands in the reply: nothing yet, where a character is not complete
            call.logprobs.append(TokenLogprob(piece, weighed.logprob, weighed.top))
        call.add(piece)


class Call:
    """One request on its way through a decoder; `stop` it from anywhere."""

    prompt: list[int]
    pieces: Pieces
    banned: frozenset[int] = frozenset()
    most: int = 0
    """The most tokens that the reply may have."""
    cached: bool = False
    """Whether its prompt was read for another call."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.random = random.Random(request.sampling.seed or 0)
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.begun, self.ended = threading.Event(), threading.Event()
        self._said = ""
        self._finish = ""
        self._error: ChatError | None = None

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to be generated."""
        return self.ended.is_set()

    def stop(self) -> None:
        """End it: its place in the batch is free from the next token on."""
        self.fail(ChatError("the call was stopped"))

    def fail(self, error: ChatError) -> None:
        """End it with an error, unless it has ended."""
        if not self.ended.is_set():
            self._error = error
            self.ended.set()
            self.begun.set()

    def end(self, finish: str) -> None:
        """End it well."""
        rest = self.pieces.rest()
        if rest and self.logprobs:
            last = self.logprobs[-1]
            self.logprobs[-1] = TokenLogprob(last.token + rest, last.logprob, last.top)
        self._said += rest
        self._finish = finish
        self.ended.set()

    def add(self, piece: str) -> None:
        """Add the text of the last token; end at a stop string or at the most tokens."""
        stops = self.request.sampling.stop
        begin = max(0, len(self._said) - max(map(len, stops), default=0) + 1)
        self._said += piece
        found = [at for stop in stops if (at := self._said.find(stop, begin)) >= 0]
        if found:
            self._cut(min(found))
            self._finish = "stop"
            self.ended.set()
        elif len(self.tokens) >= self.most:
            self.end("length")

    def answer(self) -> Answer:
        """Return what came of it. Raises ChatError."""
        if self._error is not None:
            raise self._error
        size = len(self.prompt)
        usage = Usage(0 if self.cached else size, size if self.cached else 0, len(self.tokens))
        return Answer(self._said, self._finish, usage, tuple(self.logprobs))

    def _cut(self, length: int) -> None:
        """Keep so many characters, and the log-probabilities of their tokens."""
        self._said = self._said[:length]
        kept: list[TokenLogprob] = []
        for token in self.logprobs:
            piece = token.token[:length]
            if token.token and not piece:
                break
            kept.append(TokenLogprob(piece, token.logprob, token.top))
            length -= len(piece)
        self.logprobs = kept


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a reply."""
    given = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = set(given if isinstance(given, (list, tuple)) else [given])
    return frozenset((ends | {tokenizer.eos_token_id}) - {None})


def _failure(error: Exception, calls: int) -> ChatError:
    from engine_train.memory import ran_out

    if ran_out(error):
        return ChatError(
            f"out of memory with {calls} calls at once: lower `slots`, `context` or `max_tokens`, "
            "or shorten the prompts"
        )
    return ChatError(f"the model failed: {type(error).__name__}: {error}")
