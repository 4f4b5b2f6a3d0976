"""What only a model can say: whether a text mentions a description, and how good a row is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, Field, ValidationError

from engine import Context, Estimate, Reject, Text, plan_of, stage
from engine.chat import Chat, Message, Sampling
from engine.rows import Dialogue
from engine.text import TextError, find_json
from engine_pink_elephant import prose
from engine_pink_elephant.gates import Fault
from engine_pink_elephant.prompts import prompt, transcript
from engine_pink_elephant.rows import Audit, Pair

__all__ = ["audit", "dialogue_fault", "is_judged", "revision_fault"]

M = TypeVar("M", bound=BaseModel)

UNREADABLE = "judge_unreadable"
"""The reason of a judge's reply that cannot be read."""


class Mention(BaseModel):
    """A line that mentions what is looked for, and the words that do."""

    line: int
    quote: str


class Mentions(BaseModel):
    """What the judge is asked for."""

    mentions: list[Mention] = Field(json_schema_extra={"maxItems": 40})


class Opinion(BaseModel):
    """What the judge of an audit is asked for."""

    natural_shift: bool
    useful_answer: bool
    natural_return: bool
    mentions: bool


def is_judged(of: Pair, judge: Chat | None) -> bool:
    """Return whether a judge decides on mentions in this pair's rows.

    Raises Reject where only a judge can, and there is none.
    """
    if of.described and judge is None:
        raise Reject("needs_judge", span=of.pink)
    return judge is not None and (of.described or of.ambiguous)


async def dialogue_fault(judge: Chat, turns: Sequence[Text], of: Pair) -> Fault | None:
    """Return why a dialogue is none for a pair, by what its turns mention."""
    lines = await _lines(judge, turns, of)
    last = len(turns) - 1
    for at in sorted(lines):
        if at < last - 1:
            return Fault("pink_too_early", lines[at])
    if last - 1 not in lines:
        return Fault("question_without_pink", turns[-2])
    return None if last in lines else Fault("reply_without_pink", turns[-1])


async def revision_fault(judge: Chat, text: Text, of: Pair) -> Fault | None:
    """Return `mentions_pink` where a revision still mentions the pink term."""
    lines = await _lines(judge, [text], of)
    return Fault("mentions_pink", lines[0]) if 0 in lines else None


async def _lines(judge: Chat, turns: Sequence[Text], of: Pair) -> dict[int, str]:
    """Return the places of the turns that mention the pink term, with the words that do.

    A quote that the line does not hold does not count: a judge must be able to show it.
    """
    numbered = Text("\n").join(
        Text("{at}. {text}").format(at=at, text=Text(" ").join(turn.split()))
        for at, turn in enumerate(turns, 1)
    )
    messages = prompt(
        "judge_mentions",
        pink=of.pink,
        examples=Text("; ").join(of.aliases_pink) or Text("none"),
        kind="a subject" if of.described else "a name",
        lines=numbered,
    )
    found = await _asked(judge, messages, Mentions)
    lines: dict[int, str] = {}
    for mention in found.mentions:
        if 1 <= mention.line <= len(turns):
            words = prose.locate(mention.quote, turns[mention.line - 1])
            if words is not None:
                lines.setdefault(mention.line - 1, words)
    return lines


async def _asked(judge: Chat, messages: list[Message], model: type[M]) -> M:
    """Return the judge's answer. A reply that cannot be read ends the attempt."""
    [reply] = await judge.complete(
        messages,
        sampling=Sampling(max_tokens=400),
        schema=model if "schema" in judge.can else None,
    )
    try:
        return model.model_validate_json(str(find_json(reply.text)))
    except (TextError, ValidationError):
        reply.refuse(UNREADABLE, span=reply.text)


@stage("pink.audit")
async def audit(
    pair: Pair,
    dialogue: Dialogue,
    revised: Dialogue,
    *,
    judge: Chat,
    ctx: Context,
    fraction: Annotated[float, Field(ge=0, le=1)] = 0.01,
) -> Audit:
    """Let a judge look at a sample of the rows: natural shift, useful answer, natural return.

    - `fraction`: the share of the rows that it looks at, drawn by the pipeline's seed.
    """
    if ctx.rng.random() >= fraction:
        return Audit(None, None, None, None)
    messages = prompt(
        "judge_audit",
        desired=pair.desired,
        pink=pair.pink,
        transcript=transcript(dialogue),
        revision=revised[-1].content,
    )
    opinion = await _asked(judge, messages, Opinion)
    return Audit(
        natural_shift=opinion.natural_shift,
        useful_answer=opinion.useful_answer,
        natural_return=opinion.natural_return,
        judged_mention=opinion.mentions,
    )


@plan_of(audit)
def audit_estimate(rows: float, *, fraction: float) -> Estimate:
    """Return what an audit takes, of dialogues of six turns."""
    calls = rows * fraction
    return Estimate(rows, calls, new=400 * calls, cached=180 * calls, out=30 * calls)
