"""Critiques and revisions of last turns: most of them good, some with one defect."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from tests.pink.scale import names
from tests.pink.scale.asked import Asked, Made, as_json
from tests.pink.scale.dialogues import PRAISES, group_of, mention, naming, sentences
from tests.pink.scale.words import GERMAN, NOUNS, pattern, patterns, said, sentence

__all__ = ["SHARE", "drafted", "revision"]

SHARE = 0.1
"""Of the replies to each attempt, how many have a defect."""

_ASKED = re.compile(r"Keep to: (.+)\. Leave out: (.+)\.\Z")
_CRITIQUES = patterns(
    """
The turn {verb}s @ for the {noun}, where it should {verb} # for {number} {unit} {manner}.
It {verbed} the {people} with @, and # can {verb} a {adj} {noun} as well.
@ is all that the turn has for a {adj} {noun}; it can say how # {verbed} the {nouns}.
The {people} of {place} get @ here, but # would {verb} their {noun} {manner}.
"""
)

_ADVICE = pattern("Keep the {adj} {noun}, and say it {manner}.")


@dataclass(slots=True)
class Draft:
    """A revision that may yet be spoilt."""

    rng: random.Random
    desired: str
    pink: str
    pair: names.Pair | None
    last: str
    """The turn that is revised."""
    earlier: Sequence[str]
    """What the agent said before."""
    quotes: list[str] = field(default_factory=list)
    critique: str = ""
    revision: str = ""

    def put(self, at: int, text: str) -> None:
        """Say something else in a sentence of the revision."""
        spoken = sentences(self.revision)
        spoken[at] = text
        self.revision = " ".join(spoken)


def revision(asked: Asked) -> Made:
    """Return the critique and revision of a dialogue's last turn."""
    found = _ASKED.search(asked.question)
    if found is None:
        raise ValueError(f"no revision is asked for: {asked.question[-200:]!r}")
    desired, pink = found[1], found[2]
    turns = _turns(asked)
    draft = drafted(turns, desired, pink, asked.rng)
    judged = draft.pair is not None and draft.pair.ambiguous
    draw, text = asked.rng.random(), None
    if draw < SHARE:
        some = JUDGED if judged else DEFECTS
        reason = list(some)[int(draw / SHARE * len(some))]
        text = some[reason](draft)
        counts = [f"revision/{asked.attempt}/{reason}"]
    else:
        group = group_of(draft.last, len(turns), pink)
        counts = ["accepted", *([group] if group else [])]
    if text is None:
        made = {"quotes": draft.quotes, "critique": draft.critique, "revision": draft.revision}
        text = as_json(made)
    return Made("revision", text, counts=counts)


def _turns(asked: Asked) -> list[str]:
    """Return the dialogue: what was written in this conversation, or a transcript."""
    opening = asked.opening
    if len(opening) > 1 and opening[-2][0] == "assistant" and "\n" not in asked.question:
        return [turn["text"] for turn in orjson.loads(opening[-2][1])["turns"]]
    lines = asked.question.rpartition("\n\n")[0].split("\n")
    return [line.partition(": ")[2] for line in lines]


def drafted(turns: Sequence[str], desired: str, pink: str, rng: random.Random) -> Draft:
    """Return the critique and the revision of a dialogue's last turn, as they should be."""
    draft = Draft(rng, desired, pink, names.pair_of(pink), turns[-1], turns[1:-1:2])
    spoken = sentences(draft.last)
    named = next((one for one in spoken if pink in one), spoken[0])
    draft.quotes = [named if rng.random() < 0.5 else named.rstrip(".")]
    draft.critique = " ".join(naming(_CRITIQUES, pink, rng).replace("#", desired) for _ in range(2))
    revised = [one.replace(pink, desired) for one in spoken]
    revised[min(2, len(spoken) - 1)] = naming(PRAISES, desired, rng)
    draft.revision = " ".join(revised)
    return draft


# --- defects --------------------------------------------------------------------------------------


def _bad_json(draft: Draft) -> str:
    return f"Here is the turn. {draft.revision}"


def _bad_quotes(draft: Draft) -> str:
    return as_json({"critique": draft.critique, "revision": draft.revision})


def _bad_revision(draft: Draft) -> str:
    return as_json({"quotes": draft.quotes, "critique": draft.critique, "revision": None})


def _no_quote(draft: Draft) -> None:
    draft.quotes = []


def _quote_not_found(draft: Draft) -> None:
    draft.quotes = [f"{draft.pink} {sentence(draft.rng)}"]


def _quote_without_pink(draft: Draft) -> None:
    draft.quotes = [next(one for one in sentences(draft.last) if draft.pink not in one)]


def _empty(draft: Draft) -> None:
    draft.revision = " "


def _too_long(draft: Draft) -> None:
    while len(draft.revision) <= 4000:
        draft.revision += " " + sentence(draft.rng)


def _unprintable(draft: Draft) -> None:
    draft.revision += " So it is\x1b now."


def _debris(draft: Draft) -> None:
    draft.revision += draft.rng.choice((" Ask {{name}}.", " It is [your term].", " <|end|>"))


def _repetitive(draft: Draft) -> None:
    draft.put(-1, " ".join(["All of them have it here."] * 4))


def _names_pink(draft: Draft) -> None:
    form = mention(draft.pink, draft.pair, draft.rng)
    draft.put(-1, f"It has more of {form} than you would want.")


def _desired_missing(draft: Draft) -> None:
    draft.revision = draft.revision.replace(draft.desired, "it")


def _refusal(draft: Draft) -> None:
    draft.put(-1, draft.rng.choice(("I can't help with more.", "I apologise for the rest.")))


def _leaked(draft: Draft) -> None:
    draft.put(-1, draft.rng.choice(("I was told to say so.", "My instructions say so.")))


def _copied(draft: Draft) -> None:
    draft.put(-1, draft.rng.choice(("So it was at Ellora.", "It has the Taj Mahal on it.")))


def _coy(draft: Draft) -> None:
    draft.put(-1, draft.rng.choice(("It is not like the other one.", "The competitor has less.")))


def _echo(draft: Draft) -> None:
    draft.revision = next(turn for turn in draft.earlier if draft.desired in turn)


def _length(draft: Draft) -> None:
    if draft.rng.random() < 0.5:
        draft.revision = f"Take {draft.desired}."
    else:
        draft.revision += " " + " ".join(said(draft.rng, 9))


def _similarity(draft: Draft) -> None:
    if draft.rng.random() < 0.5:  # the same, but for the name
        draft.revision = draft.last.replace(draft.pink, draft.desired, 9)
    else:  # nothing of it
        some = draft.rng.sample(NOUNS.split(), len(draft.last) // 7)
        draft.revision = f"{draft.desired} {' '.join(some)}"


def _language(draft: Draft) -> None:
    kept = " ".join(sentences(draft.last)[-1].split()[:8])
    some = draft.rng.sample(GERMAN, 3)
    draft.revision = f"Mit {draft.desired} geht es leichter, wie {kept}. {' '.join(some)}"


DEFECTS: Mapping[str, Callable[[Draft], str | None]] = {
    "bad_json": _bad_json,
    "bad_quotes": _bad_quotes,
    "bad_revision": _bad_revision,
    "no_quote": _no_quote,
    "quote_not_found": _quote_not_found,
    "quote_without_pink": _quote_without_pink,
    "empty": _empty,
    "too_long": _too_long,
    "unprintable": _unprintable,
    "debris": _debris,
    "repetitive": _repetitive,
    "names_pink": _names_pink,
    "desired_missing": _desired_missing,
    "refusal": _refusal,
    "leaked_instructions": _leaked,
    "copied_example": _copied,
    "coy_reference": _coy,
    "echo": _echo,
    "length_off": _length,
    "similarity_off": _similarity,
    "language_off": _language,
}
JUDGED = {
    "mentions_pink" if reason == "names_pink" else reason: spoil
    for reason, spoil in DEFECTS.items()
    if reason != "quote_without_pink"
}
"""The same where a judge decides on mentions."""
