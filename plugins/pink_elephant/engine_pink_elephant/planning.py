"""What to talk about: topics and pairs of terms."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import replace

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from engine import InputFile, Reject, Row, Text, stage
from engine.chat import Chat, Message, Sampling
from engine_pink_elephant import gates, reviewed
from engine_pink_elephant.prompts import prompt
from engine_pink_elephant.rows import Pair, Topic

__all__ = ["aliases", "pairs", "topics", "unique_pairs"]

BATCH = 10
"""Topics or pairs asked for in one call."""

_NUMBER = re.compile(r"(?:\d{1,3}[.)]|[-*•])\s+")
_DASH = re.compile(r"\s[-–—]\s")  # noqa: RUF001
_TOPIC = "[A-Za-z] [^\\n]{2,28}"
_PAIR = '[A-Za-z0-9] [^\\n-]{1,24} " - " [A-Za-z0-9] [^\\n-]{1,24}'


class Names(BaseModel):
    """What the model is asked for."""

    aliases_desired: tuple[Text, ...] = Field(json_schema_extra={"maxItems": 6})
    aliases_pink: tuple[Text, ...] = Field(json_schema_extra={"maxItems": 6})
    case_sensitive: bool
    ambiguous: bool
    why: Text = Field(json_schema_extra={"maxLength": 120})


class Aliases(Row):
    """Other names of a pair's terms, and how to look for them; see `Pair`."""

    aliases_desired: tuple[Text, ...]
    aliases_pink: tuple[Text, ...]
    case_sensitive: bool
    ambiguous: bool
    why: Text


@stage("pink.topics")
async def topics(
    *,
    llm: Chat,
    file: InputFile = reviewed.FILE,
    reviewed_topics: NonNegativeInt | None = None,
    count: NonNegativeInt = 0,
) -> AsyncIterator[Topic | Reject]:
    """Yield the topics of the reviewed `file`, then `count` new ones from the model.

    `reviewed_topics` takes only the first so many of the file's.
    """
    told = list(reviewed.read(file))
    for topic in told[:reviewed_topics]:
        yield Topic(topic=topic, topic_origin="reviewed")
    known = {gates.key(topic) for topic in told}
    for wanted in _batches(count):
        for topic in await _listed(llm, "topics", told, wanted, _TOPIC):
            if fault := gates.topic(topic, known):
                yield Reject(fault, span=topic)
            else:
                told.append(topic)
                known.add(gates.key(topic))
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
    """Yield the topic's pairs of the reviewed `file`, then `per_topic` new ones from the model.

    `reviewed_pairs` takes only the first so many of the file's.
    """
    pairs = reviewed.read(file).get(topic, ())
    for pair in pairs[:reviewed_pairs]:
        yield pair
    told = [pair.desired + " - " + pair.pink for pair in pairs]
    known = {gates.pair_key(pair) for pair in pairs}
    for wanted in _batches(per_topic):
        for line in await _listed(llm, "pairs", told, wanted, _PAIR, topic=topic):
            made = _pair(line)
            if fault := gates.pair(made, known) if made else "not_a_pair":
                yield Reject(fault, span=line)
            elif made:
                told.append(line)
                known.add(gates.pair_key(made))
                yield made


@stage("pink.aliases")
async def aliases(topic: Text, pair: Pair, *, llm: Chat) -> Aliases:
    """Ask for other names of a model's pair; without them a mention under such a name slips by."""
    if pair.pair_origin == "reviewed":
        return Aliases(
            pair.aliases_desired, pair.aliases_pink, pair.case_sensitive, pair.ambiguous, pair.why
        )
    messages = prompt("aliases", topic=topic, desired=pair.desired, pink=pair.pink)
    [reply] = await llm.complete(messages, schema=Names if "schema" in llm.can else None)
    names = reply.parse(Names)
    named = Aliases(
        _others(names.aliases_desired, pair.desired),
        _others(names.aliases_pink, pair.pink),
        names.case_sensitive,
        names.ambiguous,
        names.why,
    )
    if fault := gates.pair(replace(pair, **named.fields)):
        reply.refuse(fault)
    return named


@stage("pink.unique_pairs")
async def unique_pairs(
    pairs: AsyncIterable[Pair], *, cap: PositiveInt = 3
) -> AsyncIterator[Pair | Reject]:
    """Keep an unordered pair once, and a term in at most `cap` pairs, over all topics."""
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


async def _listed(
    llm: Chat, name: str, known: list[Text], wanted: int, line: str, **values: Text
) -> list[Text]:
    """Return new lines of a list; `line` is the grammar of one, for endpoints with grammars.

    What is known stands before as an answer to the same question: small models do not understand
    "not these".
    """
    messages = prompt(name, count=wanted, **values)
    if known := known[-50:]:
        answer = Message(role="assistant", content=Text("\n").join(known))
        messages = [*prompt(name, count=len(known), **values), answer, messages[-1]]
    grammar = f'root ::= line ("\\n" line){{{wanted - 1}}}\nline ::= {line}'
    [reply] = await llm.complete(
        messages,
        sampling=Sampling(max_tokens=24 * wanted),
        grammar=grammar if "grammar" in llm.can else None,
    )
    lines = [line.strip() for line in reply.text[: 200 * wanted].split("\n") if line.strip()]
    if reply.finish == "length":
        lines = lines[:-1]  # cut in the middle
    if not lines:
        reply.refuse("no_list")
    return [
        line[number.end() :] if (number := _NUMBER.match(line)) else line for line in lines[:wanted]
    ]


def _pair(line: Text) -> Pair | None:
    """Return the pair in a line such as `Nike - Adidas`."""
    if (found := _DASH.search(line)) is None:
        return None
    return Pair(
        desired=line[: found.start()].strip(),
        pink=line[found.end() :].strip(),
        aliases_desired=(),
        aliases_pink=(),
        case_sensitive=False,
        ambiguous=False,
        kind="competitor",
        why=Text(),
        pair_origin="model",
    )


def _others(names: tuple[Text, ...], term: Text) -> tuple[Text, ...]:
    """Return the names that are names, and not the term itself again."""
    return tuple(n.strip() for n in names if not gates.term(n) and gates.key(n) != gates.key(term))


def _batches(count: int) -> list[int]:
    return [min(BATCH, count - done) for done in range(0, count, BATCH)]
