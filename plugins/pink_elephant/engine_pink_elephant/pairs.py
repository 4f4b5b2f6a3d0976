"""Pairs of contrasting terms, and their other names."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError

from engine import Estimate, Reject, Row, Text, plan_of, stage
from engine.chat import Chat
from engine_pink_elephant import gates, listing, naming, reviewed
from engine_pink_elephant.listing import Mode, Search
from engine_pink_elephant.prompts import prompt
from engine_pink_elephant.rows import Pair

__all__ = ["aliases", "pairs"]

_DASH = re.compile(r"\s[-–—]\s")  # noqa: RUF001
_LINE = '[A-Za-z0-9] [^\\n-]{1,24} " - " [A-Za-z0-9] [^\\n-]{1,24}'
_TOKENS = 120
"""Of one pair in JSON."""


class Terms(BaseModel):
    """The two terms as the model writes them."""

    desired: Text = Field(json_schema_extra={"maxLength": 40})
    pink: Text = Field(json_schema_extra={"maxLength": 40})


class Names(BaseModel):
    """What the model is asked for of a pair's names."""

    aliases_desired: tuple[Text, ...] = Field(json_schema_extra={"maxItems": 6})
    aliases_pink: tuple[Text, ...] = Field(json_schema_extra={"maxItems": 6})
    case_sensitive: bool
    ambiguous: bool
    why: Text = Field(json_schema_extra={"maxLength": 120})


class Item(Names, Terms):
    """A pair as the model writes it: the terms come first."""

    probability: float
    """That somebody would name it: to be asked for it makes a model reach further."""


class Aliases(Row):
    """Other names of a pair's terms, and how to look for them; see `Pair`."""

    aliases_desired: tuple[Text, ...]
    aliases_pink: tuple[Text, ...]
    case_sensitive: bool
    ambiguous: bool
    why: Text


@stage("pink.pairs")
async def pairs(
    topic: Text,
    *,
    llm: Chat | None = None,
    file: reviewed.File = reviewed.FILE,
    reviewed_pairs: NonNegativeInt | None = None,
    per_topic: NonNegativeInt = 0,
    per_call: Annotated[int, Field(ge=1, le=20)] = 20,
    calls: PositiveInt | None = None,
    mode: Mode | None = None,
) -> AsyncIterator[Pair | Reject]:
    """Yield the topic's pairs of the reviewed `file`, then `per_topic` new ones from the model.

    - `llm`: the model; it may be left out where `per_topic` is 0.
    - `file`: reviewed topics and pairs: what is shipped of each kind, by its name (`competitors`,
      `topics`, `unsafe`), or a file. YAML (`- {topic: ..., kind: ..., pairs: [...]}`, as the
      shipped files), JSON Lines or CSV with the columns `topic`, `desired` and `pink`, and those of
      `aliases_desired`, `aliases_pink`, `case_sensitive`, `ambiguous`, `kind` and `why` that there
      are; in CSV, aliases are parted by `;`.
    - `reviewed_pairs`: how many of the file's are taken for each topic; all, if left out.
    - `per_topic`: how many new ones are wanted. One that the gates refuse is rejected, and more are
      asked for; what `calls` calls do not give is rejected as `too_few_pairs`.
    - `per_call`: how many are asked for at once.
    - `calls`: after how many calls for a topic the model is asked no more; left out, about three
      times as many as would do if each pair were good.
    - `mode`: `json` asks for candidates with all their fields, and probabilities: for strong
      models. `lines` asks for the two names alone; `pink.aliases` asks for the rest. Left out, it
      is `lines` where the endpoint keeps to grammars, or to no schema, else `json`.
    """
    found = reviewed.read(file).get(topic, ())
    for pair in found[:reviewed_pairs]:
        yield pair
    if not per_topic:
        return
    model = listing.needed(llm, "per_topic")
    ask = _by_lines if listing.chosen(mode, model) == "lines" else _as_json
    told = [*found]
    known = {naming.pair_key(pair) for pair in found}
    search = Search(per_topic, per_call, calls)
    for wanted in search:
        proposed = await ask(model, topic, told, wanted)
        if not proposed:
            yield Reject("no_list")
        for said, made in proposed:
            if made is None:
                yield Reject("not_a_pair", span=said)
            elif fault := gates.pair(made):
                yield Reject(fault.reason, span=fault.span or said)
            elif naming.pair_key(made) in known:
                yield Reject("pair_repeated", span=said)
            else:
                told.append(made)
                known.add(naming.pair_key(made))
                search.found += 1
                yield made
    for missing in search.missing("too_few_pairs"):
        yield missing


@stage("pink.aliases")
async def aliases(topic: Text, pair: Pair, *, llm: Chat) -> Aliases:
    """Ask for other names of a model's pair; without them a mention under such a name slips by.

    A reviewed pair, and one that came with its names, passes as it is.
    """
    if pair.pair_origin == "reviewed" or pair.why:
        return Aliases(
            pair.aliases_desired, pair.aliases_pink, pair.case_sensitive, pair.ambiguous, pair.why
        )
    messages = prompt("aliases", topic=topic, desired=pair.desired, pink=pair.pink)
    [reply] = await llm.complete(messages, schema=Names if "schema" in llm.can else None)
    named = _named(reply.parse(Names), pair)
    if fault := gates.pair(replace(pair, **named.fields)):
        reply.refuse(fault.reason, span=fault.span)
    return named


Proposed = list[tuple[Text, Pair | None]]
"""What was said, and the pair in it, if there is one."""


async def _by_lines(llm: Chat, topic: Text, told: list[Pair], wanted: int) -> Proposed:
    lines = [pair.desired + " - " + pair.pink for pair in told]
    found = await listing.lines(llm, "pairs", lines, wanted, _LINE, topic=topic)
    return [(line, _of_line(line)) for line in found]


async def _as_json(llm: Chat, topic: Text, told: list[Pair], wanted: int) -> Proposed:
    used = [term for pair in told for term in (pair.desired, pair.pink)]
    messages = prompt("pairs_json", topic=topic, count=wanted, used=listing.known(used))
    found = await listing.objects(llm, messages, "pairs", Item, _TOKENS, wanted)
    return [_of_object(item) for item in found]


def _of_line(line: Text) -> Pair | None:
    """Return the pair in a line such as `Nike - Adidas`."""
    if (found := _DASH.search(line)) is None:
        return None
    return _pair(line[: found.start()].strip(), line[found.end() :].strip())


def _of_object(value: Mapping[str, Any]) -> tuple[Text, Pair | None]:
    """Return the pair in an object; what it may do without is made up."""
    said = Text(" - ").join(
        term if isinstance(term := value.get(name), Text) else Text("?")
        for name in ("desired", "pink")
    )
    spare = {"aliases_desired": (), "aliases_pink": (), "case_sensitive": False}
    spare |= {"ambiguous": False, "why": Text()}
    try:
        item = Item.model_validate(spare | dict(value) | {"probability": 0.0})
    except ValidationError:
        return said, None
    pair = _pair(item.desired.strip(), item.pink.strip())
    return said, replace(pair, **_named(item, pair).fields)


def _pair(desired: Text, pink: Text) -> Pair:
    return Pair(
        desired=desired,
        pink=pink,
        aliases_desired=(),
        aliases_pink=(),
        case_sensitive=False,
        ambiguous=_ambiguous(desired, pink),
        kind="competitor",
        why=Text(),
        pair_origin="model",
    )


def _named(names: Names, pair: Pair) -> Aliases:
    # By the case of small letters alone, "Tea" would be no mention of "tea".
    cased = all(any(map(str.isupper, term)) for term in (pair.desired, pair.pink))
    return Aliases(
        _others(names.aliases_desired, pair.desired, pair.pink),
        _others(names.aliases_pink, pair.pink, pair.desired),
        names.case_sensitive and cased,
        names.ambiguous or _ambiguous(pair.desired, pair.pink),
        names.why,
    )


def _ambiguous(*names: Text) -> bool:
    """Models seldom see that a name is a common word: what is known to be one is flagged."""
    return any(map(naming.homonym, names))


def _others(names: tuple[Text, ...], term: Text, opposite: Text) -> tuple[Text, ...]:
    """Return the names that are names, each once: not the term itself again, nor its opposite."""
    others: dict[str, Text] = {}
    for name in (name.strip() for name in names):
        key = naming.canonical(name)
        foreign = naming.canonical(opposite) in naming.runs(name) or key in naming.runs(opposite)
        if not gates.term(name) and not foreign:
            others.setdefault(key, name)
    others.pop(naming.canonical(term), None)
    return tuple(others.values())


@plan_of(pairs)
def pairs_estimate(
    rows: int,
    *,
    llm: str | None,
    file: Path,
    reviewed_pairs: int | None,
    per_topic: int,
    per_call: int,
    mode: Mode | None,
) -> Estimate:
    """A pair is assumed to take 95 tokens in JSON, and 8 in a line."""
    if per_topic:
        listing.needed(llm, "per_topic")
    entries = [len(found[:reviewed_pairs]) for found in reviewed.read(file).values()]
    known = sum(entries) * min(1, rows / max(len(entries), 1))
    static = prompt("pairs_json", topic="", count=0, used="")[:-1]
    each = 8 if mode == "lines" else 95
    made = round(known) + rows * per_topic
    return listing.estimate(made, rows, per_topic, per_call, each=each, static=static)


@plan_of(aliases)
def aliases_estimate(rows: int) -> Estimate:
    """Each pair is assumed to be a model's that came without names, with 60 tokens for them."""
    static = listing.tokens(prompt("aliases", topic="", desired="", pink="")[:-1])
    return Estimate(
        rows, rows, new=25 * rows + static, cached=static * max(rows - 1, 0), out=60 * rows
    )
