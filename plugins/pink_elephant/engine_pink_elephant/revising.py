"""Critique and revision of the agent's last turn; all turns before it stay as they are."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, PositiveInt

from engine import Context, Estimate, Reject, Row, Text, plan_of, stage
from engine.chat import Chat, Message, Reply, Sampling
from engine.rows import Dialogue
from engine_pink_elephant import gates, judging, listing, prose
from engine_pink_elephant.gates import Fault
from engine_pink_elephant.prompts import one_of, prompt, templates, transcript, words
from engine_pink_elephant.rows import Critique, Pair, Revision
from engine_pink_elephant.writing import FORCED_SENTENCES, Language, continued

__all__ = ["contrast", "critique", "critique_revision", "revision"]

Band = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]

SHOWN = 2000
"""Characters of a refused reply that a retry shows: one without an end is not sent back whole."""
_QUOTE = re.compile(r'["“]([^"“”]+)["”]')


class Revised(BaseModel):
    """Critique and revision as the model writes them."""

    quotes: list[Text] = Field(json_schema_extra={"minItems": 1, "maxItems": 6})
    critique: Text
    revision: Text


class CritiqueRevision(Row):
    """What `Critique` and `Revision` add, from one call."""

    critique: Text
    quotes: tuple[Text, ...]
    revision: Text
    revised: Dialogue
    continued: bool
    verdict: str
    origin: str


class _Limits(NamedTuple):
    """What a revision must keep to."""

    bands: gates.Bands
    language: str | None


@stage("pink.critique")
async def critique(
    pair: Pair, dialogue: Dialogue, *, llm: Chat, ctx: Context, max_tokens: PositiveInt = 80
) -> Critique:
    """Say what in the agent's last turn names the pink term, and quote it.

    Where the endpoint continues a prefix, the first quote is the detector's: small models see that
    something is wrong, but not where. A critique has at most `max_tokens` tokens.
    """
    last = dialogue[-1].content
    found = pair.pink_in(last)
    if not found and not pair.described:
        raise Reject("reply_without_pink", span=last)
    opening = Text()
    if found and "prefix" in llm.can:
        quote = prose.sentence_at(last, found[0].start)
        opening = templates()["critique_opening"].fill(quote=quote, pink=pair.pink)
    messages = prompt(
        "critique", transcript=transcript(dialogue), desired=pair.desired, pink=pair.pink
    )
    [reply] = await llm.complete(
        [*messages, *_retry(ctx)],
        prefix=opening,
        sampling=Sampling(max_tokens=max_tokens, stop=("\n",)),
    )
    text = words(reply, lines=True)
    quotes = [prose.locate(match[1], last) for match in _QUOTE.finditer(text)]
    _refuse(reply, gates.critique(text, quotes, pair, judged=pair.described))
    return Critique(critique=text, quotes=tuple(quote for quote in quotes if quote is not None))


@stage("pink.revision")
async def revision(
    pair: Pair,
    dialogue: Dialogue,
    critique: Text,
    origin: str,
    *,
    llm: Chat,
    judge: Chat | None = None,
    ctx: Context,
    similarity: Band = (0.1, 0.95),
    length: Band = (0.4, 2.5),
    max_tokens: PositiveInt = 80,
    language: Language | None = "en",
) -> Revision:
    """Rewrite the agent's last turn by its critique, so that it keeps to the desired term.

    A retry tells the model what was wrong with the last reply. Where an endpoint continues a
    prefix, the last attempt does without the critique: it puts the desired term in the agent's
    mouth and lets it go on; the origin then says so.

    - `judge`: says what mentions the pink term where that is a description, or ambiguous.
    - `similarity`: how alike revision and original may be, word by word, from 0 to 1.
    - `length`: how long the revision may be against the original.
    - `max_tokens`: the most tokens of a reply.
    - `language`: what the revision must be in (ISO 639-1); `null` takes any.
    """
    judged = judging.is_judged(pair, judge)
    limits = _Limits(gates.Bands(similarity, length), language)
    forced = ctx.attempt == ctx.attempts > 1 and "prefix" in llm.can and not pair.described
    sampling = Sampling(
        max_tokens=max_tokens, stop=("\n\n", "\nUser:", "\nAgent:"), banned=pair.banned
    )
    if forced:
        opening = one_of("forced_revision", ctx.rng, desired=pair.desired)
        reply = await continued(llm, dialogue[:-1], opening, sampling)
        # Other words from the start: it need not resemble.
        limits = _Limits(gates.Bands((0.0, similarity[1]), length), language)
    else:
        messages = prompt(
            "revision",
            transcript=transcript(dialogue),
            desired=pair.desired,
            pink=pair.pink,
            critique=critique,
        )
        [reply] = await llm.complete([*messages, *_retry(ctx)], sampling=sampling)
    text = words(reply, lines=True, sentences=FORCED_SENTENCES if forced else None)
    _refuse(reply, await _fault(text, dialogue, pair, limits, judge if judged else None))
    marks = ([] if origin == "model" else [origin]) + ["forced_revision"] * forced
    return Revision(
        revision=text,
        revised=_replaced(dialogue, text),
        continued=False,
        verdict="judge" if judged else "lexical",
        origin="+".join(marks) or "model",
    )


@stage("pink.critique_revision")
async def critique_revision(
    pair: Pair,
    dialogue: Dialogue,
    origin: str,
    call: Dialogue = (),
    script: Text | None = None,
    written_by: str = "",
    *,
    llm: Chat,
    judge: Chat | None = None,
    ctx: Context,
    similarity: Band = (0.1, 0.95),
    length: Band = (0.4, 2.5),
    max_tokens: PositiveInt = 260,
    language: Language | None = "en",
) -> CritiqueRevision:
    """Critique and rewrite the agent's last turn in one call.

    Where this model wrote the dialogue in one call, it is asked in that conversation, which a
    server that caches prefixes need not read again; else in a fresh one: `continued` says which.
    A retry tells the model what was wrong with the last reply.

    - `judge`: says what mentions the pink term where that is a description, or ambiguous.
    - `similarity`: how alike revision and original may be, word by word, from 0 to 1.
    - `length`: how long the revision may be against the original.
    - `max_tokens`: the most tokens of a reply: quotes, critique, revision.
    - `language`: what the revision must be in (ISO 639-1); `null` takes any.
    """
    judged = judging.is_judged(pair, judge)
    last = dialogue[-1].content
    follows = bool(call and script and written_by == llm.identity)
    if follows and script is not None:
        asked = prompt("revise", desired=pair.desired, pink=pair.pink)
        messages = [*call, Message(role="assistant", content=script), *asked]
    else:
        messages = prompt(
            "critique_revision",
            transcript=transcript(dialogue),
            desired=pair.desired,
            pink=pair.pink,
        )
    [reply] = await llm.complete(
        [*messages, *_retry(ctx)],
        sampling=Sampling(max_tokens=max_tokens),
        schema=Revised if "schema" in llm.can else None,
    )
    made = reply.parse(Revised)
    quotes = [prose.locate(quote, last) for quote in made.quotes]
    text = made.revision.strip()
    limits = _Limits(gates.Bands(similarity, length), language)
    fault = gates.critique(made.critique, quotes, pair, judged=judged)
    fault = fault or await _fault(text, dialogue, pair, limits, judge if judged else None)
    _refuse(reply, fault)
    return CritiqueRevision(
        critique=made.critique,
        quotes=tuple(quote for quote in quotes if quote is not None),
        revision=text,
        revised=_replaced(dialogue, text),
        continued=follows,
        verdict="judge" if judged else "lexical",
        origin=origin,
    )


@stage("pink.contrast")
async def contrast(
    pair: Pair,
    dialogue: Dialogue,
    origin: str,
    *,
    llm: Chat,
    judge: Chat | None = None,
    ctx: Context,
    similarity: Band = (0.0, 0.95),
    length: Band = (0.4, 2.5),
    max_tokens: PositiveInt = 120,
    language: Language | None = "en",
) -> Revision:
    """Answer the last question anew under the rule, without a critique.

    The two last turns then differ in the rule alone, as in RLCD (Yang et al. 2023, arXiv
    2307.12950). A retry tells the model what was wrong with the last reply.

    - `judge`: says what mentions the pink term where that is a description, or ambiguous.
    - `similarity`: how alike the new turn and the original may be, word by word, from 0 to 1.
    - `length`: how long the new turn may be against the original.
    - `max_tokens`: the most tokens of a reply.
    - `language`: what the turn must be in (ISO 639-1); `null` takes any.
    """
    judged = judging.is_judged(pair, judge)
    system = prompt("contrast", desired=pair.desired, pink=pair.pink)
    [reply] = await llm.complete(
        [*system, *dialogue[:-1], *_retry(ctx)],
        sampling=Sampling(max_tokens=max_tokens, banned=pair.banned),
    )
    text = words(reply, lines=True)
    limits = _Limits(gates.Bands(similarity, length), language)
    _refuse(reply, await _fault(text, dialogue, pair, limits, judge if judged else None))
    return Revision(
        revision=text,
        revised=_replaced(dialogue, text),
        continued=False,
        verdict="judge" if judged else "lexical",
        origin=origin,
    )


@plan_of(critique)
def critique_estimate(rows: float) -> Estimate:
    """Return what critiques take; see `_estimate`."""
    return _estimate(rows, "critique", 60)


@plan_of(revision)
def revision_estimate(rows: float) -> Estimate:
    """Return what revisions take; see `_estimate`."""
    return _estimate(rows, "revision", 80)


@plan_of(critique_revision)
def critique_revision_estimate(rows: float) -> Estimate:
    """Return what critiques with revisions take; see `_estimate`."""
    return _estimate(rows, "critique_revision", 170)


@plan_of(contrast)
def contrast_estimate(rows: float) -> Estimate:
    """Return what other last turns take; see `_estimate`."""
    return _estimate(rows, "contrast", 80)


def _estimate(rows: float, template: str, out: int) -> Estimate:
    """Return what it takes if nine of ten replies pass and a retry follows the others.

    A dialogue is taken to have six turns and to be new to the server, or all cached where one
    model goes on (which costs the same number of tokens); a judge's calls are not in it.
    """
    calls = rows / 0.9
    values = dict.fromkeys(templates()[template].fields, "")
    static = listing.tokens(prompt(template, **values))
    return Estimate(rows, calls, new=300 * calls, cached=static * calls, out=out * calls)


async def _fault(
    text: Text, dialogue: Dialogue, of: Pair, limits: _Limits, judge: Chat | None
) -> Fault | None:
    """Return why a text cannot stand in for the last turn; `judge` decides on mentions, if any."""
    *before, last = dialogue
    earlier = [turn.content for turn in before if turn.role == "assistant"]
    fault = gates.revision(
        text,
        last.content,
        earlier,
        of,
        limits.bands,
        language=limits.language,
        judged=judge is not None,
    )
    if fault or judge is None:
        return fault
    return await judging.revision_fault(judge, text, of)


def _retry(ctx: Context) -> list[Message]:
    """Return what a retry adds to the messages: each reply so far, and what was wrong with it."""
    added: list[Message] = []
    for refused in ctx.refused:
        if refused.reason == judging.UNREADABLE:
            continue  # the judge's own
        advice = gates.ADVICE.get(refused.reason, refused.reason.replace("_", " "))
        shown = f" ({refused.span[:80]})" if refused.span else ""
        said = Text(refused.text[:SHOWN])
        added.append(Message(role="assistant", content=said))
        added += prompt("retry", advice=advice, span=shown)
    return added


def _refuse(reply: Reply, fault: Fault | None) -> None:
    if fault:
        reply.refuse(fault.reason, span=fault.span)


def _replaced(dialogue: Dialogue, last: Text) -> Dialogue:
    """Return the dialogue with another last turn: the very same turns before it."""
    return (*dialogue[:-1], Message(role="assistant", content=last))
