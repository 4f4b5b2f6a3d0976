"""What conversations are about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from engine import Context, Estimate, Reject, Text, plan_of, stage
from engine.chat import Chat
from engine_pink_elephant import gates, listing, naming, reviewed
from engine_pink_elephant.listing import Mode, Search
from engine_pink_elephant.prompts import prompt
from engine_pink_elephant.rows import Topic

__all__ = ["topics"]

AREAS = (
    *("food at home", "eating out", "drinks", "groceries", "kitchens", "clothes", "beauty"),
    *("health", "sleep", "fitness", "team sports", "outdoor life", "games", "toys", "hobbies"),
    *("arts and crafts", "music", "films and series", "books", "news and media", "festivals"),
    *("animals", "gardens", "furniture", "household work", "repairs", "tools", "appliances"),
    *("phones", "computers", "software", "the internet", "photography", "cars", "bicycles"),
    *("public transport", "travel", "cities", "landscapes", "hotels", "languages", "school"),
    *("university", "work", "office life", "money", "insurance", "shopping", "gifts"),
    *("family life", "children", "weddings", "science", "space", "history", "weather"),
)
"""Areas of life: each call is about another, since a model that is left alone repeats itself."""

_LINE = "[A-Za-z] [^\\n]{2,28}"
_TOKENS = 24
"""Of one topic in JSON."""


class Item(BaseModel):
    """A topic as the model writes it."""

    topic: Text = Field(json_schema_extra={"maxLength": 40})
    probability: float
    """That a person would name it: to be asked for it makes a model reach further."""


@stage("pink.topics")
async def topics(
    *,
    llm: Chat | None = None,
    ctx: Context,
    file: reviewed.File = reviewed.FILE,
    reviewed_topics: NonNegativeInt | None = None,
    count: NonNegativeInt = 0,
    per_call: Annotated[int, Field(ge=1, le=50)] = 10,
    calls: PositiveInt | None = None,
    mode: Mode | None = None,
) -> AsyncIterator[Topic | Reject]:
    """Yield the topics of the reviewed `file`, then `count` new ones from the model.

    - `llm`: the model; it may be left out where `count` is 0.
    - `file`: reviewed topics and pairs, as YAML, JSON Lines or CSV, or the name of what is shipped:
      `competitors`, `topics` or `unsafe`; see `pink.pairs`.
    - `reviewed_topics`: how many of the file's are taken, from its start; all, if left out.
    - `count`: how many new ones are wanted. One that nearly repeats another is rejected, and more
      are asked for; what `calls` calls do not give is rejected as `too_few_topics`.
    - `per_call`: how many are asked for at once.
    - `calls`: after how many calls the model is asked no more; left out, about three times as many
      as would do if each topic were new.
    - `mode`: `json` asks for candidates with probabilities, of another area of life in each call:
      for strong models. `lines` asks for a plain list. Left out, it is `lines` where the endpoint
      keeps to grammars, or to no schema, else `json`.
    """
    told = list(reviewed.read(file))
    known = naming.Topics()
    for topic in told:
        known.add(topic)
    for topic in told[:reviewed_topics]:
        yield Topic(topic=topic, topic_origin="reviewed")
    if not count:
        return
    model = listing.needed(llm, "count")
    ask = _Asked(model, listing.chosen(mode, model), ctx, told)
    search = Search(count, per_call, calls)
    for wanted in search:
        found = await ask(wanted)
        if not found:
            yield Reject("no_list")
        for topic in found:
            if fault := gates.term(topic):
                yield Reject(fault.reason, span=fault.span)
            elif known.near(topic):
                yield Reject("topic_repeated", span=topic)
            else:
                known.add(topic)
                ask.told.append(topic)
                search.found += 1
                yield Topic(topic=topic, topic_origin="model")
    for missing in search.missing("too_few_topics"):
        yield missing


class _Asked:
    """The model, asked for topics of one area after the other, with what it told of each."""

    def __init__(self, llm: Chat, mode: Mode, ctx: Context, told: list[Text]) -> None:
        self._llm, self._mode = llm, mode
        self._areas = ctx.rng.sample(AREAS, len(AREAS))
        self._told: dict[str, list[Text]] = {}
        self._calls = 0
        self.told = told
        """Where topics that were taken are to be added."""

    async def __call__(self, wanted: int) -> list[Text]:
        """Return topics; [] where the reply has no list."""
        if self._mode == "lines":
            return await listing.lines(self._llm, "topics", self.told, wanted, _LINE)
        area = self._areas[self._calls % len(self._areas)]
        self._calls += 1
        # What was told of other areas would be a temptation: small models repeat what they read.
        self.told = self._told.setdefault(area, [])
        messages = prompt("topics_json", area=area, count=wanted, known=listing.known(self.told))
        found = await listing.objects(self._llm, messages, "topics", Item, _TOKENS, wanted)
        said = (item.get("topic") for item in found)
        return [topic.strip() for topic in said if isinstance(topic, Text)]


@plan_of(topics)
def topics_estimate(
    rows: int,
    *,
    llm: str | None,
    file: Path,
    reviewed_topics: int | None,
    count: int,
    per_call: int,
    mode: Mode | None,
) -> Estimate:
    """A topic is assumed to take 16 tokens in JSON, and 5 in a line."""
    if count:
        listing.needed(llm, "count")
    made = len([*reviewed.read(file)][:reviewed_topics]) + count
    static = prompt("topics_json", area="", count=0, known="")[:-1]
    each = 5 if mode == "lines" else 16
    return listing.estimate(made, 1, count, per_call, each=each, static=static)
