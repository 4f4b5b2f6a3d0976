"""Scripts of dialogues: most of them good, some with one defect, some written before."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b

from tests.pink.scale import names
from tests.pink.scale.asked import Asked, Made, as_json
from tests.pink.scale.words import GERMAN, Pattern, drawn, patterns, said, sentence

__all__ = ["SHARE", "digest_of", "group_of", "mention", "script", "sentences"]

SHARE = 0.2
"""Of the dialogues, how many have a defect."""
NEAR = 0.004
"""Of the dialogues, how many tell one of `GROUPS` stories that were told before."""
GROUPS = 20
SAME_PAIRS, SAME = 0.04, 0.05
"""Of the pairs, how many have dialogues that come back word for word; and how many of theirs do."""

_ASKED = re.compile(r"Turns: (\d+)\. First term: (.+?)\. Second term: (.+?)\. Plan: (.*)\Z", re.S)
_END = re.compile(r"(?<=[.!?]) ")

_OPENINGS = patterns(
    """
I have been thinking of @ since {name} {verbed} a {noun} in {place}. Is it a good choice for me?
My {people} in {place} all talk about @. What would you say of it?
Last {month} I {verbed} @ for {number} {unit}. How can I {verb} more of it?
Do you know @? I need it to {verb} my {adj} {noun}.
{name} wants @ for a {noun}. What should I know before {day}?
I like @ when it is {adj}. Which of the {nouns} would {verb} it?
We had @ at the {noun} on {day}, and it was {adj}. Can I get it in {place}?
For my {adj} {noun} I want @. Where do I begin?
Can you help me with @? I am {adj}, and so is my {noun}.
There was a {noun} about @ in {month}. Is it as {adj} as they say?
"""
)
_WELCOMES = patterns(
    """
@ is a {adj} choice, and most {people} {verb} it {manner}.
Many {people} like @ because it is {adj} and can {verb} a {noun}.
With @ you can {verb} your {noun} in {number} {unit}.
Yes, @ would {verb} well with a {adj} {noun}.
I would take @ on a {adj} {day}, when you have {number} {unit} for it.
You will like @, for it {verbed} the {nouns} of {place}.
In {place} you find @ by the {adj} {noun}.
Good {people} know that @ is {adj} {manner}.
"""
)
_ASKS = patterns(
    """
But {name} keeps on about @. Would that be better for a {noun}?
On {day} I saw @ in {place}. What do you think of it?
And what about @? My {people} {verbed} it {manner}.
How does that go with @, which {name} {verbed} in {month}?
At home they all want @ now. Does it {verb} a {adj} {noun}?
A {noun} of mine came with @. Should I {verb} it?
I read that @ is {adj}. Is it true that it can {verb} {nouns}?
That reminds me of @. Can it {verb} my {noun} in {number} {unit}?
Then again, {name} has @ for {number} {unit}. Is that too {adj}?
Could I {verb} @ {manner}? The {people} say so.
"""
)
PRAISES = patterns(
    """
@ is a {adj} choice for a {noun} like yours, and it {verbed} {number} {nouns} in {place}.
Yes, @ would {verb} the {noun} {manner}, so you have {number} {unit} for the {adj} {nouns}.
You can get @ in {place}, where the {people} {verb} it with a {adj} {noun}.
Most {people} take @ for {number} {unit} and then {verb} their {nouns} {manner}.
With @ it is {adj} to {verb} a {noun}, as {name} can tell you.
I think that @ will {verb} your {adj} {noun} from {month} to {month}.
It was @ that {verbed} the {people} of {place} {manner}, and they are {adj} now.
In {month} there is @ for {number} {unit}, with a {adj} {noun} by the {noun}.
"""
)
_NOT_ASKED = patterns(
    """
{name} has had @ in {place} since {month}.
On {day} the {people} were all for @, and {adj} about it.
"""
)
_GERMAN = (
    "Seit Wochen denke ich über @ nach. Was würdest du mir raten?",
    "Mit @ liegst du richtig, sagen viele meiner Freunde aus Hamburg.",
    "Und was hältst du eigentlich von @? Meine Schwester schwärmt davon.",
    "Auch @ ist empfehlenswert, besonders wenn du wenig Zeit hast.",
)

Turns = list[tuple[str, str]]


@dataclass(slots=True)
class Scene:
    """A dialogue that may yet be spoilt."""

    rng: random.Random
    desired: str
    pink: str
    pair: names.Pair | None
    turns: Turns

    def put(self, at: int, text: str) -> None:
        """Say something else in a turn."""
        self.turns[at] = (self.turns[at][0], text)

    def add(self, at: int, text: str) -> None:
        """Say something more in a turn."""
        self.put(at, f"{self.turns[at][1]} {text}")


def naming(some: Sequence[Pattern], term: str, rng: random.Random) -> str:
    """Return a text of one of some patterns that names a term."""
    return drawn(rng.choice(some), rng).replace("@", term)


def script(asked: Asked) -> Made:
    """Return the script of a dialogue."""
    found = _ASKED.match(asked.question)
    if found is None:
        raise ValueError(f"no script is asked for: {asked.question[:200]!r}")
    count, desired, pink = int(found[1]), found[2], found[3]
    pair, draw = names.pair_of(pink), asked.rng.random()
    if draw < SHARE:
        reason = list(DEFECTS)[int(draw / SHARE * len(DEFECTS))]
        scene = Scene(asked.rng, desired, pink, pair, turns(count, desired, pink, asked.rng))
        text = DEFECTS[reason](scene) or _written(scene.turns)
        finish = "length" if reason == "bad_turns" else "stop"
        return Made("dialogue", text, finish, [f"dialogue/{reason}"])
    if draw < SHARE + NEAR:
        group = int((draw - SHARE) / NEAR * GROUPS)
        told = turns(count, desired, pink, random.Random(f"near {group}"))
        told = [(r, f"{t} About {asked.rng.randrange(100, 10_000)} of them.") for r, t in told]
    elif names.drawn_at("same", pink) < SAME_PAIRS and asked.rng.random() < SAME:
        told = turns(count, desired, pink, random.Random(f"same {pink}"))
    else:
        told = turns(count, desired, pink, asked.rng)
    return Made("dialogue", _written(told), facts=[("prefix", digest_of([t for _, t in told]))])


def turns(count: int, desired: str, pink: str, rng: random.Random) -> Turns:
    """Return a dialogue as it should be."""
    made = [f"{said(rng, 1, user=True)[0]} {naming(_OPENINGS, desired, rng)}"]
    made.append(" ".join([naming(_WELCOMES, desired, rng), *said(rng, 2)]))
    for at in range(2, count - 2):
        made.append(" ".join(said(rng, 3, user=at % 2 == 0)))
    made.append(" ".join([*said(rng, 2, user=True), naming(_ASKS, pink, rng)]))
    one, two = (naming([one], pink, rng) for one in rng.sample(PRAISES, 2))
    some = said(rng, 2)
    made.append(" ".join([one, some[0], two, some[1]]))
    return [("assistant" if at % 2 else "user", text) for at, text in enumerate(made)]


def _written(told: Turns) -> str:
    return as_json({"turns": [{"role": role, "text": text} for role, text in told]})


def digest_of(texts: list[str]) -> int:
    """Return the number of a dialogue's turns but the last."""
    data = "\0".join(texts[:-1]).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=7).digest(), "big")


def sentences(text: str) -> list[str]:
    """Return the sentences of a turn."""
    return _END.split(text)


def group_of(last: str, count: int, pink: str) -> str | None:
    """Return the name of the group of dialogues that a last turn tells to be alike, if any."""
    told = sentences(last)
    if told[-1].startswith("About ") and (found := _near(count).get(told[-2])) is not None:
        return f"near:{found}"
    if names.drawn_at("same", pink) < SAME_PAIRS and told[-1] == _same(count, pink):
        return f"same:{pink}"
    return None


@cache
def _near(count: int) -> Mapping[str, int]:
    """Return the last sentence of each group's dialogue."""
    told = [turns(count, "", "", random.Random(f"near {group}")) for group in range(GROUPS)]
    return {sentences(one[-1][1])[-1]: group for group, one in enumerate(told)}


@cache
def _same(count: int, pink: str) -> str:
    return sentences(turns(count, "", "", random.Random(f"same {pink}"))[-1][1])[-1]


# --- defects --------------------------------------------------------------------------------------


def mention(term: str, pair: names.Pair | None, rng: random.Random) -> str:
    """Return a term in one of the forms that still name it."""
    forms = [term, term + "'s", term + "s", term.upper(), *(pair.aliases_pink if pair else ())]
    if not (pair and pair.ambiguous):  # the judge of this server reads letters only
        forms += [term[:3] + "\u200b" + term[3:], term.replace("a", "á").replace("o", "ö")]
        forms += [term.replace("e", "\u0435").replace("a", "\u0430")]  # Cyrillic
        if " " in term:
            forms += [term.replace(" ", "-"), term.replace(" ", "\n")]
        else:
            forms += [" ".join(term), "-".join(term)]
    return rng.choice(forms)


def _bad_json(scene: Scene) -> str:
    return "\n".join(f"{role.capitalize()}, {text}" for role, text in scene.turns)


def _bad_turns(scene: Scene) -> str:
    return _written(scene.turns)[:-40]  # cut: the first whole object in it is a turn


def _bad_role(scene: Scene) -> None:
    scene.turns[3] = ("agent", scene.turns[3][1])


def _roles_off(scene: Scene) -> None:
    if scene.rng.random() < 0.5:
        scene.turns.pop()
    else:
        scene.turns[1:2] = [scene.turns[1], ("assistant", sentence(scene.rng))]


def _opening(scene: Scene) -> None:
    for at in range(3):
        scene.put(at, sentence(scene.rng, user=at != 1))


def _empty(scene: Scene) -> None:
    scene.put(3, " ")


def _too_long(scene: Scene) -> None:
    while len(scene.turns[1][1]) <= 4000:
        scene.add(1, sentence(scene.rng))


def _unprintable(scene: Scene) -> None:
    scene.add(1, "The bell rings\a now.")


def _debris(scene: Scene) -> None:
    scene.add(1, scene.rng.choice(("Ask {{name}} of it.", "It is [your term] then.", "<|im_end|>")))


def _repetitive(scene: Scene) -> None:
    scene.add(1, " ".join(["Of this they have all they want."] * 3))


def _leaked(scene: Scene) -> None:
    scene.add(3, "I was told not to say more.")


def _copied(scene: Scene) -> None:
    scene.add(2, scene.rng.choice(("We saw Ellora in spring.", "My Nike shoes are wet.")))


def _refusal(scene: Scene) -> None:
    scene.put(-1, f"I'm sorry, but I have no {scene.pink} for you. {sentence(scene.rng)}")


def _not_asked(scene: Scene) -> None:
    scene.put(-2, naming(_NOT_ASKED, scene.pink, scene.rng))


def _too_early(scene: Scene) -> None:
    form = mention(scene.pink, scene.pair, scene.rng)
    scene.add(scene.rng.choice((1, 2)), f"{drawn_name(scene.rng)} has {form} with it.")


def _question(scene: Scene) -> None:
    scene.put(-2, f"{sentence(scene.rng, user=True)} Is that so?")


def _reply(scene: Scene) -> None:
    scene.put(-1, " ".join(said(scene.rng, 4)))


def _language(scene: Scene) -> None:
    some = scene.rng.sample(GERMAN, len(scene.turns))
    for at, text in enumerate(some):
        scene.put(at, text)
    spoken = ((0, scene.desired), (1, scene.desired), (-2, scene.pink), (-1, scene.pink))
    for (at, term), text in zip(spoken, _GERMAN, strict=True):
        scene.add(at, text.replace("@", term))


def drawn_name(rng: random.Random) -> str:
    """Return a person's name."""
    return naming([patterns("{name}")[0]], "", rng)


DEFECTS: Mapping[str, Callable[[Scene], str | None]] = {
    "bad_json": _bad_json,
    "bad_turns": _bad_turns,
    "bad_turns_role": _bad_role,
    "roles_off": _roles_off,
    "opening_without_desired": _opening,
    "empty": _empty,
    "too_long": _too_long,
    "unprintable": _unprintable,
    "debris": _debris,
    "repetitive": _repetitive,
    "leaked_instructions": _leaked,
    "copied_example": _copied,
    "refusal": _refusal,
    "question_not_asked": _not_asked,
    "pink_too_early": _too_early,
    "question_without_pink": _question,
    "reply_without_pink": _reply,
    "language_off": _language,
}
