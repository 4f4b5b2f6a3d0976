"""The grey conversation: the fault in the last turn, the turn rewritten, and both as data."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, PositiveInt

from engine import Context, Reject, Text, stage
from engine.chat import Chat, Message, Sampling
from engine.rows import Dialogue
from engine_pink_elephant import gates, prose
from engine_pink_elephant.prompts import one_of, prompt, templates, transcript, words
from engine_pink_elephant.rows import Critique, Pair, Preference, Revision
from engine_pink_elephant.writing import FORCED_SENTENCES, continued

__all__ = ["critique", "preferences", "revision"]

Band = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]

_QUOTE = re.compile(r'["“]([^"“”]+)["”]')


@stage("pink.critique")
async def critique(
    pair: Pair, dialogue: Dialogue, *, llm: Chat, max_tokens: PositiveInt = 80
) -> Critique:
    """Say what in the agent's last turn names the pink term, and quote it.

    Where the endpoint continues a prefix, the first quote is the detector's: small models see that
    something is wrong, but not where. A critique has at most `max_tokens` tokens.
    """
    last = dialogue[-1].content
    if not (found := pair.pink_in(last)):
        raise Reject("reply_without_pink", span=last)
    quote = prose.sentence_at(last, found[0].start)
    opening = templates()["critique_opening"].fill(quote=quote, pink=pair.pink)
    messages = prompt(
        "critique", transcript=transcript(dialogue), desired=pair.desired, pink=pair.pink
    )
    [reply] = await llm.complete(
        messages,
        prefix=opening if "prefix" in llm.can else "",
        sampling=Sampling(max_tokens=max_tokens, stop=("\n",)),
    )
    text = words(reply, lines=True)
    if fault := gates.prose_fault(text):
        reply.refuse(fault)
    quotes = [prose.locate(match[1], last) for match in _QUOTE.finditer(text)]
    if fault := gates.critique(text, quotes, pair):
        reply.refuse(fault)
    return Critique(critique=text, quotes=tuple(quote for quote in quotes if quote is not None))


@stage("pink.revision")
async def revision(
    pair: Pair,
    dialogue: Dialogue,
    critique: Text,
    origin: str,
    *,
    llm: Chat,
    ctx: Context,
    similarity: Band = (0.1, 0.95),
    length: Band = (0.4, 2.5),
    max_tokens: PositiveInt = 80,
) -> Revision:
    """Rewrite the agent's last turn, and nothing else, so that it keeps to the desired term.

    `similarity` (word by word, 0 to 1) and `length` (of the revision against the original) say how
    far it may go. Where an endpoint continues a prefix, the last attempt does without the critique:
    it puts the desired term in the agent's mouth and lets it go on; the origin then says so. A
    reply has at most `max_tokens` tokens.
    """
    *before, last = dialogue
    stop = ("\n\n", "\nUser:", "\nAgent:")
    sampling = Sampling(max_tokens=max_tokens, stop=stop, banned=pair.banned)
    forced = ctx.attempt == ctx.attempts > 1 and "prefix" in llm.can
    if forced:
        opening = one_of("forced_revision", ctx.rng, desired=pair.desired)
        reply = await continued(llm, before, opening, sampling)
        similarity = (0.0, similarity[1])  # other words from the start: it need not resemble
    else:
        messages = prompt(
            "revision",
            transcript=transcript(dialogue),
            desired=pair.desired,
            pink=pair.pink,
            critique=critique,
        )
        [reply] = await llm.complete(messages, sampling=sampling)
    text = words(reply, lines=True, sentences=FORCED_SENTENCES if forced else None)
    earlier = [turn.content for turn in before]
    bands = gates.Bands(similarity, length)
    if fault := gates.revision(text, last.content, earlier, pair, bands):
        reply.refuse(fault)
    marks = ([] if origin == "model" else [origin]) + ["forced_revision"] * forced
    return Revision(
        revision=text,
        revised=(*before, Message(role="assistant", content=text)),
        origin="+".join(marks) or "model",
    )


@stage("pink.preferences")
async def preferences(
    pair: Pair, dialogue: Dialogue, revised: Dialogue, *, ctx: Context
) -> Preference:
    """Set the revised last turn against the original, under a system principle that wants it."""
    principle = one_of("principle", ctx.rng, desired=pair.desired, pink=pair.pink)
    *before, rejected = dialogue
    return Preference(
        prompt=(Message(role="system", content=principle), *before),
        chosen=(revised[-1],),
        rejected=(rejected,),
    )
