"""Plans: how one conversation drifts from the desired term to the pink one."""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic import PositiveInt

from engine import Context, Reject, Text, stage
from engine.chat import Chat, Sampling
from engine_pink_elephant import axes, gates
from engine_pink_elephant.prompts import prompt, templates, words
from engine_pink_elephant.rows import Pair, Plan

__all__ = ["plans"]


@stage("pink.plans")
async def plans(
    topic: Text, pair: Pair, *, llm: Chat, ctx: Context, per_pair: PositiveInt = 3
) -> AsyncIterator[Plan | Reject]:
    """Plan `per_pair` conversations, each at another point of the axes, that name both terms."""
    for point in axes.sample(ctx.rng, per_pair):
        messages = prompt(
            "plan",
            topic=topic,
            desired=pair.desired,
            pink=pair.pink,
            persona=point.persona,
            goal=point.goal,
            reason=point.reason,
        )
        opening = templates()["plan_opening"].fill(
            persona=point.persona.capitalize(), goal=point.goal, desired=pair.desired
        )
        [reply] = await llm.complete(
            messages,
            # A small model holds the thread if its first words are the plan's own.
            prefix=opening if "prefix" in llm.can else "",
            sampling=Sampling(max_tokens=80, stop=("\n",)),
        )
        plan = words(reply)
        if fault := gates.plan(plan, pair):
            if ctx.attempt < ctx.attempts:
                reply.refuse(fault)
            yield Reject(fault, span=plan)  # the other plans of this pair still stand
        else:
            yield Plan(
                plan=plan,
                opening=Text(point.opening).format(desired=pair.desired),
                shift=Text(point.words).format(pink=pair.pink),
            )
