"""Lists: topics, pairs with their names, plans; a few entries of each with a defect."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from tests.pink.scale import names
from tests.pink.scale.asked import Asked, Made, as_json
from tests.pink.scale.words import drawn, pattern, patterns, sentence

__all__ = ["Areas", "aliases", "pairs", "plans", "shares", "turned"]

BAD_TOPICS = 0.02
BAD_PAIRS = 0.01
REPEATED = 0.004
"""Of the pairs, how many are another topic's, turned round; and how many have a term of one."""
SHARED = 0.01
BAD_CALLS = 0.001
BAD_PLANS = 0.001
STUBBORN = 0.002
"""Of the plans, how many never come right."""
COPYING, COPIES = 0.02, 0.1
"""Of the pairs, how many have scenes that all get one plan; and how many of their scenes do."""

_TOPICS = re.compile(r"Area: (.+?)\. New topics: (\d+)\. Known: (.*)\Z", re.S)
_PAIRS = re.compile(r"Topic: (.+?)\. New pairs: (\d+)\. Used: (.*)\Z", re.S)
_TERMS = re.compile(r"Topic: (.+?)\. Terms: (.+?); (.+?)\.\Z", re.S)
_PLANS = re.compile(r"Topic: (.+?)\. First term: (.+?)\. Second term: (.+?)\.\n(.*)\Z", re.S)
_LINE = re.compile(r"\d+\. (.+)")


class Areas:
    """Topics of areas of life: each area has numbers of its own, in order of its first request."""

    def __init__(self) -> None:
        self._areas: dict[str, int] = {}

    def topics(self, asked: Asked) -> Made:
        """Return new topics of an area."""
        found = _TOPICS.match(asked.question)
        if found is None:
            raise ValueError(f"no topics are asked for: {asked.question[:200]!r}")
        start = 32 * self._areas.setdefault(found[1], len(self._areas))
        known = [names.topic_number(name) for name in found[3].split("; ")]
        own = [n for n in known if n is not None and start <= n < start + 32]
        number = max(own, default=start - 1) + 1
        told: list[str] = []
        made = Made("topics", "")
        for _ in range(int(found[2])):
            draw = asked.rng.random()
            if draw < BAD_TOPICS / 2:
                told.append(drawn(_NO_TOPIC, asked.rng))
                made.counts.append("topics/not_a_term")
            elif draw < BAD_TOPICS and number > start:
                told.append(names.topic(number - 1))
                made.counts.append("topics/topic_repeated")
            else:
                told.append(names.topic(number))
                number += 1
        if number > start + 32:
            raise ValueError(f"more than 32 topics of {found[1]}")
        made.text = as_json({"topics": [{"topic": t, "probability": 0.05} for t in told]})
        return made


def pairs(asked: Asked) -> Made:
    """Return new pairs of a topic."""
    found = _PAIRS.match(asked.question)
    of = names.topic_number(found[1]) if found else None
    if found is None or of is None:
        raise ValueError(f"no pairs are asked for: {asked.question[:200]!r}")
    used = [name for name in found[3].split("; ") if names.number_of(name) is not None]
    own = [pair.place for pair in map(names.pair_of, used) if pair and pair.topic == of]
    place = max(max(own, default=-1) + 1, len(used) // 2)
    made, told = Made("pairs", ""), list[dict[str, Any]]()
    for _ in range(int(found[2])):
        while used and turned(of, place):  # its names would not tell that it was taken
            place += 1
        item = _item(of, place)
        if asked.rng.random() < BAD_PAIRS:
            reason = asked.rng.choice(list(_SPOILT))
            item = _SPOILT[reason](item, told)
            made.counts.append(f"pairs/{reason}")
        else:
            made.facts.append((f"pair:{of}:{place}", ""))
        place += 1
        told.append(item)
    made.text = as_json({"pairs": told})
    return made


def turned(of: int, place: int) -> bool:
    """Return whether a pair is one of the topic before, turned round."""
    return of % 32 > 0 and names.drawn_at("turned", of, place) < REPEATED


def shares(of: int, place: int) -> bool:
    """Return whether a pair has its desired term from a pair of the topic before."""
    return of % 32 > 0 and not turned(of, place) and names.drawn_at("share", of, place) < SHARED


def _item(of: int, place: int) -> dict[str, Any]:
    pair = names.pair(of, place)
    item = pair._asdict()
    del item["topic"], item["place"]
    before = names.pair(of - 1, place)
    if turned(of, place):
        item |= {"desired": before.pink, "pink": before.desired}
        item |= {"aliases_desired": before.aliases_pink, "aliases_pink": before.aliases_desired}
    elif shares(of, place):
        item |= {"desired": before.desired, "aliases_desired": before.aliases_desired}
    why = f"{pair.desired} is for the {drawn(_ONE, random.Random(pair.pink))}, the second is not."
    return item | {"why": why, "probability": 0.05}


_ONE = pattern("{noun}")
_NO_TOPIC = pattern("{adj} {noun} of the {noun}")

Item = dict[str, Any]
_SPOILT: dict[str, Callable[[Item, Sequence[Item]], Item]] = {
    "not_a_pair": lambda item, told: {"desired": item["desired"], "probability": 0.5},
    "not_a_term": lambda item, told: item | {"desired": "all of what there is of it"},
    "same_term": lambda item, told: item | {"pink": item["desired"] + "s"},
    "terms_overlap": lambda item, told: item | {"pink": item["desired"] + " Max"},
    "copied_example": lambda item, told: item | {"pink": "Adidas"},
}


def aliases(asked: Asked) -> Made:
    """Return the other names of a pair's terms."""
    found = _TERMS.match(asked.question)
    pair = names.pair_of(found[3]) if found else None
    told = {
        "aliases_desired": pair.aliases_desired if pair else (),
        "aliases_pink": pair.aliases_pink if pair else (),
        "case_sensitive": False,
        "ambiguous": bool(pair and pair.ambiguous),
        "why": sentence(asked.rng),
    }
    return Made("aliases", as_json(told))


# --- plans ----------------------------------------------------------------------------------------

_FIRSTS = patterns(
    """
{adj} and {manner}, the % asks if @ would {verb} a {noun} in {place}.
The %, back from {place}, asks how long @ takes to {verb} {number} {nouns}.
Beside a {adj} {noun} the % wonders which {noun} goes with @.
The % has {number} {nouns} and asks {name} how @ could {verb} them.
Since {month} the % has {verbed} a {noun}, and asks what @ costs in {place}.
With a {adj} {noun} in the {noun}, the % asks whether @ is too {adj}.
{name}, a %, asks where to {verb} @ before {day}.
On {day} the % finds a {adj} {noun} and asks {people} in {place} about @.
"""
)
_SECONDS = patterns(
    """
Then {name} {verbed} a {noun}, and the question is if @ is more {adj}.
A {noun} falls from the {noun}, and with it comes @: can it {verb} {nouns}?
The {people} next door all have @, so what does it {verb} {manner}?
After {number} {unit} of {nouns} the talk is of @ and how {adj} it is in {month}.
It turns out that {place} has a {adj} {noun} for @, which raises a doubt about the {noun}.
{name} left a note about @ in the {noun}; would it {verb} the {adj} one?
Out of a {adj} {noun} they hear of @, and ask for {number} {nouns} of it.
To {verb} the {noun} for {people}, is @ not the {adj} way?
"""
)
_BETWEEN = patterns(
    """
In the {noun} there are {number} {nouns} to {verb}, all of them {adj}.
{name} {verbed} {number} {nouns} {manner} and is {adj} now.
It is a {adj} {day} in {month}, and the {people} {verb} {nouns}.
Nobody there has {verbed} the {adj} {noun} for {number} {unit}.
"""
)


def plans(asked: Asked) -> Made:
    """Return a plan for each of the scenes in a request."""
    found = _PLANS.match(asked.question)
    if found is None:
        raise ValueError(f"no plans are asked for: {asked.question[:200]!r}")
    desired, pink = found[2], found[3]
    scenes = list[str]()
    for line in found[4].split("\n"):
        if (numbered := _LINE.fullmatch(line)) is None:
            break
        scenes.append(numbered[1])
    made, told = Made("plans", ""), []
    stubborn = 0
    copying = names.drawn_at("copying", pink) < COPYING
    for scene in scenes:
        draw = names.drawn_at("plan", pink, scene)
        rng = random.Random(f"{pink} {scene}")
        if copying and draw < COPIES:
            told.append(_plan(desired, pink, "one who copies", random.Random(pink)))
            made.facts.append((f"copies:{pink}", scene))
            stubborn += 1
        elif draw > 1 - STUBBORN:
            reason = list(_BAD)[int((1 - draw) / STUBBORN * len(_BAD))]
            told.append(_BAD[reason](desired, pink, scene, rng))
            made.facts.append((f"plans/{reason}", (pink, scene)))
            stubborn += 1
        elif asked.rng.random() < BAD_PLANS:
            told.append(_BAD["plan_without_pink"](desired, pink, scene, asked.rng))
        else:
            told.append(_plan(desired, pink, scene, rng))
    made.text = as_json({"plans": [{"plan": plan} for plan in told]})
    if not stubborn and asked.rng.random() < BAD_CALLS:
        made.text = "There are no plans."
    return made


def _plan(desired: str, pink: str, scene: str, rng: random.Random) -> str:
    who = scene.partition(",")[0]
    one = drawn(rng.choice(_FIRSTS), rng).replace("@", desired).replace("%", who)
    two = drawn(rng.choice(_SECONDS), rng).replace("@", pink)
    return f"{one[0].upper()}{one[1:]} {drawn(rng.choice(_BETWEEN), rng)} {two}"


def _too_long(desired: str, pink: str, scene: str, rng: random.Random) -> str:
    plan = _plan(desired, pink, scene, rng)
    while len(plan) <= 480:
        plan += " " + sentence(rng)
    return plan


_BAD: dict[str, Callable[[str, str, str, random.Random], str]] = {
    "plan_without_pink": lambda d, p, s, rng: _plan(d, "it", s, rng),
    "plan_without_desired": lambda d, p, s, rng: _plan("it", p, s, rng),
    "plan_too_long": _too_long,
    "debris": lambda d, p, s, rng: f"The first term leads. {_plan(d, p, s, rng)}",
    "copied_example": lambda d, p, s, rng: f"{_plan(d, p, s, rng)} It ends at Ellora.",
    "empty": lambda d, p, s, rng: " ",
    "repetitive": lambda d, p, s, rng: _plan(d, p, s, rng) + " So it goes on here." * 3,
}
