"""What to talk about: topics, pairs of terms, and plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator

from engine import Context, InputFile, Reject, Text, stage
from engine.chat import Chat, Sampling
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from engine_pink_elephant import axes, gates, reviewed
from engine_pink_elephant.prompts import prompt, templates, words
from engine_pink_elephant.rows import Pair, Plan, Topic

__all__ = ["pairs", "plans", "topics", "unique_pairs"]

BATCH = 10
"""Topics or pairs asked for in one call."""


def _at_most(length: int) -> dict[str, object]:
    # In the schema that guides the model only: what is too long is for a gate to reject, one by one.
    return {"maxLength": length}


class Topics(BaseModel):
    """What the model is asked for."""

    topics: list[Text] = Field(json_schema_extra={"minItems": 1, "maxItems": BATCH})


class Draft(BaseModel):
    """A pair as the model writes it."""

    desired: Text = Field(json_schema_extra=_at_most(30))
    pink: Text = Field(json_schema_extra=_at_most(30))
    aliases_desired: tuple[Text, ...] = Field((), json_schema_extra={"maxItems": 4})
    aliases_pink: tuple[Text, ...] = Field((), json_schema_extra={"maxItems": 4})
    case_sensitive: bool = False
    ambiguous: bool = False
    why: Text = Field(Text(), json_schema_extra=_at_most(120))


class Drafts(BaseModel):
    """What the model is asked for."""

    pairs: list[Draft] = Field(json_schema_extra={"minItems": 1, "maxItems": BATCH})


@stage("pink.topics")
async def topics(
    *,
    llm: Chat,
    file: InputFile = reviewed.FILE,
    reviewed_topics: NonNegativeInt | None = None,
    count: NonNegativeInt = 0,
) -> AsyncIterator[Topic | Reject]:
    """Yield the reviewed file's topics (all, or the first so many), then `count` from the model."""
    known = list(reviewed.read(file))
    for topic in known[:reviewed_topics]:
        yield Topic(topic=topic, topic_origin="reviewed")
    for wanted in _batches(count):
        messages = prompt("topics", count=wanted, known=_listed(known))
        [reply] = await llm.complete(messages, schema=_schema(llm, Topics))
        for made in reply.parse(Topics).topics[:wanted]:
            topic = made.strip(" .").lower() if made.istitle() else made.strip(" .")
            if fault := gates.topic(topic, known):
                yield Reject(fault, span=topic)
            else:
                known.append(topic)
                yield Topic(topic=topic, topic_origin="model")


@stage("pink.pairs")
async def pairs(
    topic: Text,
    *,
    llm: Chat,
    file: InputFile = reviewed.FILE,
    reviewed_pairs: NonNegativeInt | None = None,
    per_topic: NonNegativeInt = 0,
) -> AsyncIterator[Pair | Reject]:
    """Yield the topic's reviewed pairs (all, or the first so many), then `per_topic` from the model."""
    known = reviewed.read(file).get(topic, [])
    for pair in known[:reviewed_pairs]:
        yield pair
    for wanted in _batches(per_topic):
        terms = [term for pair in known for term in (pair.desired, pair.pink)]
        messages = prompt("pairs", topic=topic, count=wanted, known=_listed(terms))
        [reply] = await llm.complete(messages, schema=_schema(llm, Drafts))
        for draft in reply.parse(Drafts).pairs[:wanted]:
            pair = _drafted(draft)
            if fault := gates.pair(pair, known):
                yield Reject(fault, span=draft.desired + " - " + draft.pink)
            else:
                known.append(pair)
                yield pair


@stage("pink.unique_pairs")
async def unique_pairs(pairs: AsyncIterable[Pair], *, cap: PositiveInt = 3) -> AsyncIterator[Pair | Reject]:
    """Keep an unordered pair once, and a term in at most `cap` pairs: topics know nothing of each other."""
    seen: set[tuple[str, ...]] = set()
    uses: Counter[str] = Counter()
    async for pair in pairs:
        terms = gates.pair_key(pair)
        if terms in seen:
            yield pair.reject("pair_repeated")
        elif any(uses[term] >= cap for term in terms):
            yield pair.reject("term_overused")
        else:
            seen.add(terms)
            uses.update(terms)
            yield pair


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


def _drafted(draft: Draft) -> Pair:
    """Return the pair in a draft; other names that are none are left out."""

    def other(aliases: tuple[Text, ...], term: Text) -> tuple[Text, ...]:
        return tuple(a.strip() for a in aliases if not gates.term(a) and gates.key(a) != gates.key(term))

    return Pair(
        desired=draft.desired.strip(),
        pink=draft.pink.strip(),
        aliases_desired=other(draft.aliases_desired, draft.desired),
        aliases_pink=other(draft.aliases_pink, draft.pink),
        case_sensitive=draft.case_sensitive,
        ambiguous=draft.ambiguous,
        why=draft.why,
        pair_origin="model",
    )


def _batches(count: int) -> list[int]:
    return [min(BATCH, count - done) for done in range(0, count, BATCH)]


def _listed(known: list[Text]) -> Text:
    return Text(", ").join(known[-50:]) or Text("none")


def _schema(llm: Chat, model: type[BaseModel]) -> type[BaseModel] | None:
    """Return the schema for an endpoint that can hold a model to it; elsewhere the examples must do."""
    return model if "schema" in llm.can else None
