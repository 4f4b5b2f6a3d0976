"""What is trained on: the principle that a system message says, and a row in TRL's three shapes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from engine import Context, Estimate, Text, plan_of, stage
from engine.chat import Message
from engine.rows import Dialogue
from engine_pink_elephant.prompts import one_of
from engine_pink_elephant.rows import Completion, Example, Pair, Preference, Principle

__all__ = ["kto", "preference", "principle", "sft"]

PHRASES = 3
"""Example phrases that a principle shows of what it bans."""
_WORDINGS = {"competitor": "principle", "topic": "principle_topic", "unsafe": "principle_unsafe"}
_HELD_OUT = "test"


@stage("pink.principle")
async def principle(pair: Pair, split: str = "train", *, ctx: Context) -> Principle:
    """Draw the rule that the agent is to keep, as a system message would say it.

    Each kind of pair has wordings of its own: a name is kept out, a `topic` or what is `unsafe` is
    described, with example phrases. Rows of the `test` split draw from wordings that no other row
    has, so that a model can be tried on rules that it has not seen.
    """
    name = _WORDINGS[pair.kind] + ("_test" if split == _HELD_OUT else "")
    values = {"desired": pair.desired, "pink": pair.pink}
    if pair.described:
        values["examples"] = _examples(pair.aliases_pink)
    return Principle(principle=one_of(name, ctx.rng, **values))


@stage("pink.preference")
async def preference(dialogue: Dialogue, revised: Dialogue, principle: Text) -> Preference:
    """Set the revised last turn against the original, under the principle, as TRL's DPO reads it.

    `prompt` is the system message and all turns before the last; `chosen` and `rejected` are one
    turn each.
    """
    return Preference(
        prompt=_prompt(principle, dialogue), chosen=(revised[-1],), rejected=(dialogue[-1],)
    )


@stage("pink.sft")
async def sft(revised: Dialogue, principle: Text) -> Example:
    """Put the principle before the revised dialogue, as TRL's SFT reads it."""
    return Example(messages=(_system(principle), *revised))


@stage("pink.kto")
async def kto(dialogue: Dialogue, revised: Dialogue, principle: Text) -> AsyncIterator[Completion]:
    """Make two rows of each, as TRL's KTO reads them: the revised turn, wanted; the other, not."""
    prompt = _prompt(principle, dialogue)
    yield Completion(prompt=prompt, completion=(revised[-1],), label=True).keyed("revised")
    yield Completion(prompt=prompt, completion=(dialogue[-1],), label=False).keyed("original")


@plan_of(principle)
@plan_of(preference)
@plan_of(sft)
def one_of_each(rows: int) -> Estimate:
    """Return what a stage takes that makes one row of each, without a call."""
    return Estimate(rows)


@plan_of(kto)
def two_of_each(rows: int) -> Estimate:
    """Return what `pink.kto` takes."""
    return Estimate(2 * rows)


def _system(principle: Text) -> Message:
    return Message(role="system", content=principle)


def _prompt(principle: Text, dialogue: Dialogue) -> Dialogue:
    return (_system(principle), *dialogue[:-1])


def _examples(phrases: Sequence[Text]) -> Text:
    """Return how a description goes on: ` (such as “a”, “b” or “c”)`; "" without phrases."""
    shown = [Text("“") + phrase + "”" for phrase in phrases[:PHRASES]]
    if not shown:
        return Text()
    said = shown[-1] if len(shown) == 1 else Text(", ").join(shown[:-1]) + " or " + shown[-1]
    return Text(" (such as ") + said + ")"
