"""The pink conversation: from the desired term to a last turn that names the other one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveInt

from engine import Context, Text, stage
from engine.chat import Chat, Message, Reply, Sampling
from engine_pink_elephant import gates
from engine_pink_elephant.prompts import SPEAKERS, one_of, prompt, templates, transcript, words
from engine_pink_elephant.rows import Conversation, Pair, Plan

__all__ = ["dialogue"]

Turns = Annotated[int, Field(ge=4, le=20, multiple_of=2)]
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
    ctx: Context,
    mode: Literal["turns", "script"] | None = None,
    turns: Turns = 4,
    turn_tokens: PositiveInt = 64,
) -> Conversation:
    """Write a dialogue that drifts from the desired term to a last turn that names the pink one.

    `mode: turns` writes one turn after the other, the pink term banned before the user asks for
    it: for small models, on endpoints that continue a prefix. `mode: script` asks for the whole as
    JSON: for strong ones. Left out, it is `turns` where the endpoint continues a prefix, else
    `script`. Where it does, the last attempt puts the last turn's first words in the agent's mouth;
    such rows have the origin `forced_dialogue`.

    A dialogue has `turns` turns (a script may have more) of at most `turn_tokens` tokens each.
    """
    forced = ctx.attempt == ctx.attempts > 1 and "prefix" in llm.can
    mode = mode or ("turns" if "prefix" in llm.can else "script")
    write = _by_turns if mode == "turns" else _as_script
    return await write(pair, plan, llm, ctx, forced, turns, turn_tokens)


async def _by_turns(
    pair: Pair, plan: Plan, llm: Chat, ctx: Context, forced: bool, turns: int, turn_tokens: int
) -> Conversation:
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
        if fault := gates.turn(text, at, turns, pair):
            reply.refuse(fault)
        said.append(Message(role=role, content=text))
    return Conversation(dialogue=tuple(said), origin="forced_dialogue" if forced else "model")


async def _as_script(
    pair: Pair, plan: Plan, llm: Chat, ctx: Context, forced: bool, turns: int, turn_tokens: int
) -> Conversation:
    messages = prompt("script", turns=turns, desired=pair.desired, pink=pair.pink, plan=plan.plan)
    [reply] = await llm.complete(
        messages,
        sampling=Sampling(max_tokens=turns * (turn_tokens + 20)),
        schema=Script if "schema" in llm.can else None,
    )
    lines = reply.parse(Script).turns
    said = [Message(role=line.role, content=line.text.strip()) for line in lines]
    if len(said) < 4 or [turn.role for turn in said] != ["user", "assistant"] * (len(said) // 2):
        reply.refuse("roles_off")
    *before, last = said
    for at, turn in enumerate(before):
        if fault := gates.turn(turn.content, at, len(said), pair):
            reply.refuse(fault)
    origin = "model"
    fault = gates.turn(last.content, len(before), len(said), pair)
    if fault and forced:
        opening = one_of("forced_dialogue", ctx.rng, pink=pair.pink)
        reply = await continued(llm, before, opening, Sampling(max_tokens=turn_tokens))
        last, origin = (
            Message(role="assistant", content=words(reply, sentences=FORCED_SENTENCES)),
            "forced_dialogue",
        )
        fault = gates.turn(last.content, len(before), len(said), pair)
    if fault:
        reply.refuse(fault)
    return Conversation(dialogue=(*before, last), origin=origin)


async def continued(
    llm: Chat, dialogue: Sequence[Message], words: Text, sampling: Sampling
) -> Reply:
    """Return the agent's next turn, which begins with the given words: the forced continuation."""
    system = Message(role="system", content=templates()["agent"].fill())
    [reply] = await llm.complete([system, *dialogue], prefix=words, sampling=sampling)
    return reply
