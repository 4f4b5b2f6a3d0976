"""Plans: how one conversation drifts from the desired term to the pink one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Annotated, Any, Protocol

import anyio.to_thread
from pydantic import BaseModel, Field, PositiveInt, ValidationError, create_model

from engine import Context, Estimate, Reject, Text, plan_of, stage
from engine.chat import Chat, Sampling
from engine.text import TextError, find_json, parse_json
from engine_pink_elephant import axes, gates, vectors
from engine_pink_elephant.distinct import Distinct
from engine_pink_elephant.gates import Fault
from engine_pink_elephant.prompts import prompt, templates, words
from engine_pink_elephant.rows import Pair, Plan

__all__ = ["plans"]

PER_CALL = 10
LONGEST = 480
"""Characters: two sentences of 40 words, and some."""


class Line(BaseModel):
    """A plan as the model writes it."""

    plan: Text


@dataclass(slots=True)
class Try:
    """A point of the design, and what was made of it last."""

    point: axes.Point
    plan: Text | None = None
    fault: Fault | None = None
    instead: str | None = None
    """The earlier plan that this one was too like."""


class Ask(Protocol):
    """How plans are asked for."""

    async def __call__(self, topic: Text, pair: Pair, some: Sequence[Try], llm: Chat) -> None:
        """Give each of the tries a plan or a fault."""


@stage("pink.plans")
async def plans(
    topic: Text,
    pair: Pair,
    *,
    llm: Chat,
    ctx: Context,
    per_pair: PositiveInt = 50,
    per_call: Annotated[int, Field(ge=1, le=50)] | None = None,
    embedding: vectors.Name | None = None,
    paraphrase: Annotated[float, Field(gt=0, le=1)] = 0.25,
) -> AsyncIterator[Plan | Reject]:
    """Plan `per_pair` conversations, each at another point of the axes and unlike the others.

    A plan that cannot be used is asked for again, with all others that could not, as often as the
    stage has attempts (`retry`); then it is a rejected child, with the reason of the last one.

    - `per_pair`: how many plans a pair is to have.
    - `per_call`: how many plans a call writes, as JSON. With 1 it writes one line, and where the
      endpoint continues a prefix, it goes on from the plan's first words: for small models. Left
      out, it is 1 where the endpoint continues a prefix, else 10.
    - `embedding`: a model that finds plans which say the same in other words: a folder (`./model`)
      or Hub id of a static table (model2vec) or a sentence-transformers model. Left out, only
      copies are found.
    - `paraphrase`: the cosine, around the mean of the pair's plans, above which two of them say the
      same. The default suits all-MiniLM-L6-v2, and static tables made of it.
    """
    size = per_call or (1 if "prefix" in llm.can else PER_CALL)
    ask: Ask = _one if size == 1 else _many
    embed = None
    if embedding is not None:
        embed = await anyio.to_thread.run_sync(vectors.load, embedding)
    distinct = Distinct(embed, paraphrase=paraphrase)
    left = [Try(point) for point in axes.sample(ctx.rng, per_pair)]
    for _ in range(ctx.attempts):
        for at in range(0, len(left), size):
            await ask(topic, pair, left[at : at + size], llm)
        for one in left:
            one.fault = one.fault or _fault(one.plan, pair)
        good = [one for one in left if one.plan is not None and not one.fault]
        texts = [str(one.plan) for one in good]
        found = (
            await anyio.to_thread.run_sync(distinct.take, texts) if embed else distinct.take(texts)
        )
        for one, fault in zip(good, found, strict=True):
            one.fault, one.instead = fault, fault and fault.span
            if one.plan is not None and fault is None:
                yield Plan(
                    plan=one.plan,
                    opening=Text(one.point.opening[1]).format(desired=pair.desired),
                    shift=Text(one.point.shift[1]).format(pink=pair.pink),
                )
        left = [one for one in left if one.fault]
        if not left:
            return
    for one in left:
        if one.fault:
            yield Reject(one.fault.reason, span=one.plan if one.instead else one.fault.span)


def _fault(plan: Text | None, pair: Pair) -> Fault | None:
    if plan is None:
        return Fault("plan_missing")
    if len(plan) > LONGEST:
        return Fault("plan_too_long", plan[:80])
    return gates.plan(plan, pair)


async def _one(topic: Text, pair: Pair, some: Sequence[Try], llm: Chat) -> None:
    """Ask for one plan, in a line."""
    [one] = some
    point = one.point
    messages = prompt(
        "plan",
        topic=topic,
        desired=pair.desired,
        pink=pair.pink,
        persona=point.who,
        goal=point.goal,
        opening=point.opening[0],
        reason=point.shift[0],
    )
    opening = templates()["plan_opening"].fill(
        persona=point.who.capitalize(),
        goal=point.goal,
        opening=point.opening[0],
        desired=pair.desired,
        reason=point.shift[0],
    )
    [reply] = await llm.complete(
        messages,
        # A small model holds the thread if its first words are the plan's own.
        prefix=opening if "prefix" in llm.can else "",
        sampling=Sampling(max_tokens=80, stop=("\n",)),
    )
    one.plan, one.fault = words(reply), None


async def _many(topic: Text, pair: Pair, some: Sequence[Try], llm: Chat) -> None:
    """Ask for a plan for each of some points, as JSON.

    The points come last: what stands before them is the same for all calls of a pair, and most of
    it for all pairs.
    """
    lines = [f"{at}. {one.point.line}" for at, one in enumerate(some, 1)]
    if written := list(dict.fromkeys(one.instead for one in some if one.instead)):
        lines += [
            "There are plans for these scenes: find others.",
            *(f"- {plan}" for plan in written),
        ]
    [reply] = await llm.complete(
        prompt(
            "plans",
            topic=topic,
            desired=pair.desired,
            pink=pair.pink,
            points=Text("\n".join(lines)),
        ),
        sampling=Sampling(max_tokens=120 * len(some) + 40),
        schema=_schema(len(some)) if "schema" in llm.can else None,
    )
    # Not refused: the points of a reply that cannot be read are asked for again with the others.
    fault, made = None, list[Line]()
    try:
        made = _schema(len(some)).model_validate(parse_json(find_json(reply.text))).plans
    except TextError:
        fault = Fault("bad_json", reply.text[:80])
    except ValidationError:
        fault = Fault("bad_plans", reply.text[:80])
    for at, one in enumerate(some):
        one.fault, one.plan = fault, None
        if at < len(made):
            one.plan = _in_a_line(made[at].plan)


def _in_a_line(text: Text) -> Text:
    text = text.strip()
    return Text(" ").join(text.split()) if "\n" in text else text


@cache
def _schema(count: int) -> Any:
    """Return the model of a reply with so many plans: an endpoint with schemas obeys the count."""
    exactly = Field(json_schema_extra={"minItems": count, "maxItems": count})
    return create_model("Plans", plans=(list[Line], exactly))


@plan_of(plans)
def plans_estimate(rows: float, *, per_pair: int, per_call: int | None) -> Estimate:
    """Return what plans take, in tokens of Qwen2.5; none is asked for again."""
    size = min(per_call or PER_CALL, per_pair)
    calls, made = rows * ceil(per_pair / size), rows * per_pair
    if size == 1:
        return Estimate(made, calls, new=45 * calls, cached=330 * calls, out=35 * made)
    return Estimate(made, calls, new=23 * calls + 23 * made, cached=520 * calls, out=60 * made)
