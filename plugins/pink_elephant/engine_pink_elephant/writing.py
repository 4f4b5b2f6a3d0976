"""The pink conversation: from the desired term to a last turn that names the other one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveInt

from engine import Context, Estimate, Text, plan_of, stage
from engine.chat import Chat, Message, Reply, Sampling
from engine_pink_elephant import gates, judging, listing
from engine_pink_elephant.prompts import SPEAKERS, one_of, prompt, templates, transcript, words
from engine_pink_elephant.rows import Conversation, Pair, Plan

__all__ = ["Language", "dialogue"]

Turns = Annotated[int, Field(ge=4, le=20, multiple_of=2)]
Language = Annotated[str, Field(pattern="^[a-z]{2}$")]
Role = Literal["user", "assistant"]
FORCED_SENTENCES = 2
"""A small model that goes on from words of ours soon begins to ramble."""


class Line(BaseModel):
    """A turn as the model writes it."""

    role: Role
    text: Text


class Script(BaseModel):
    """A whole conversation as the model writes it."""

    turns: list[Line] = Field(json_schema_extra={"minItems": 4})


@stage("pink.dialogue")
async def dialogue(
    pair: Pair,
    plan: Plan,
    *,
    llm: Chat,
    judge: Chat | None = None,
    ctx: Context,
    mode: Literal["turns", "script"] | None = None,
    turns: Turns = 4,
    turn_tokens: PositiveInt = 64,
    language: Language | None = "en",
) -> Conversation:
    """Write a dialogue that drifts from the desired term to a last turn that names the pink one.

    - `judge`: says what mentions the pink term where that is a description, or ambiguous.
    - `mode`: `turns` writes one turn after the other, the pink term banned before the user asks
      for it: for small models, on endpoints that continue a prefix. `script` asks for the whole as
      JSON: for strong ones. Left out, it is `turns` where the endpoint continues a prefix, else
      `script`. Where it does, the last attempt puts the last turn's first words in the agent's
      mouth; such rows have the origin `forced_dialogue`.
    - `turns`: how many turns are asked for; a script may have more or less, but never less than 4.
    - `turn_tokens`: the most tokens of a turn.
    - `language`: what the dialogue must be in (ISO 639-1); `null` takes any.
    """
    judged = judging.is_judged(pair, judge)
    forced = ctx.attempt == ctx.attempts > 1 and "prefix" in llm.can
    mode = mode or ("turns" if "prefix" in llm.can else "script")
    write = _by_turns if mode == "turns" else _as_script
    made, reply = await write(pair, plan, llm, ctx, forced, turns, turn_tokens, judged)
    said = [turn.content for turn in made.dialogue]
    fault = gates.wrong_language(" ".join(said), language)
    if judged and judge is not None and not fault:
        fault = await judging.dialogue_fault(judge, said, pair)
    if fault:
        reply.refuse(fault.reason, span=fault.span)
    return made


TURN = 68
"""Tokens of a turn, its braces and all, as models write scripts."""


@plan_of(dialogue)
def dialogue_estimate(rows: float, *, mode: str | None, turns: int) -> Estimate:
    """Return what dialogues take where four of five scripts pass; a judge's calls are not in it.

    Without a `mode`, of scripts: whether an endpoint continues a prefix only a run can say.
    """
    static = listing.tokens(prompt("script", turns=turns, desired="", pink="", plan=""))
    if mode == "turns":
        static = listing.tokens(prompt("turns", turns=turns, desired="", pink="", plan=""))
        calls = rows * turns
        return Estimate(rows, calls, new=30 * calls, cached=static * calls, out=30 * calls)
    return Estimate(0.8 * rows, rows, new=75 * rows, cached=static * rows, out=TURN * turns * rows)


async def _by_turns(
    pair: Pair,
    plan: Plan,
    llm: Chat,
    ctx: Context,
    forced: bool,
    turns: int,
    turn_tokens: int,
    judged: bool,
) -> tuple[Conversation, Reply]:
    messages = prompt("turns", turns=turns, desired=pair.desired, pink=pair.pink, plan=plan.plan)
    said: list[Message] = []
    for at in range(turns):
        role: Role = "assistant" if at % 2 else "user"
        begun = transcript(said) + "\n" if said else Text()
        head = begun + SPEAKERS[role]
        first = {0: plan.opening, turns - 2: plan.shift}.get(at)
        force = forced and at == turns - 1
        if force:
            first = one_of("forced_dialogue", ctx.rng, pink=pair.pink)
        banned = pair.banned if at < turns - 2 else ()
        [reply] = await llm.complete(
            messages,
            prefix=head + " " + first if first else head,
            sampling=Sampling(max_tokens=turn_tokens, stop=("\n",), banned=banned),
        )
        text = words(reply, after=len(head), sentences=FORCED_SENTENCES if force else None)
        said.append(Message(role=role, content=text))
        fault = gates.turn(text, at, turns, pair, judged=judged)
        if at == 2 and not fault:
            fault = gates.opening([turn.content for turn in said], pair)
        if fault:
            reply.refuse(fault.reason, span=fault.span)
    origin = "forced_dialogue" if forced else "model"
    return Conversation(tuple(said), (), Text(), llm.identity, origin), reply


async def _as_script(
    pair: Pair,
    plan: Plan,
    llm: Chat,
    ctx: Context,
    forced: bool,
    turns: int,
    turn_tokens: int,
    judged: bool,
) -> tuple[Conversation, Reply]:
    template = "script_described" if pair.described else "script"
    call = prompt(template, turns=turns, desired=pair.desired, pink=pair.pink, plan=plan.plan)
    [reply] = await llm.complete(
        call,
        sampling=Sampling(max_tokens=turns * (turn_tokens + 20)),
        schema=Script if "schema" in llm.can else None,
    )
    lines = reply.parse(Script).turns
    said = [Message(role=line.role, content=line.text.strip()) for line in lines]
    texts = [turn.content for turn in said]
    last = len(said) - 1
    fault = gates.roles([turn.role for turn in said]) or gates.opening(texts, pair)
    for at, text in enumerate(texts[:-1]):
        fault = fault or gates.turn(text, at, len(said), pair, judged=judged)
    if fault:
        reply.refuse(fault.reason, span=fault.span)
    script, origin = reply.text, "model"
    fault = gates.turn(texts[-1], last, len(said), pair, judged=judged)
    if fault and forced:
        opening = one_of("forced_dialogue", ctx.rng, pink=pair.pink)
        reply = await continued(llm, said[:-1], opening, Sampling(max_tokens=turn_tokens))
        text = words(reply, sentences=FORCED_SENTENCES)
        said[-1] = Message(role="assistant", content=text)
        call, script, origin = [], Text(), "forced_dialogue"
        fault = gates.turn(text, last, len(said), pair, judged=judged)
    if fault:
        reply.refuse(fault.reason, span=fault.span)
    return Conversation(tuple(said), tuple(call), script, llm.identity, origin), reply


async def continued(
    llm: Chat, dialogue: Sequence[Message], words: Text, sampling: Sampling
) -> Reply:
    """Return the agent's next turn, which begins with the given words: the forced continuation."""
    system = Message(role="system", content=templates()["agent"].fill())
    [reply] = await llm.complete([system, *dialogue], prefix=words, sampling=sampling)
    return reply
