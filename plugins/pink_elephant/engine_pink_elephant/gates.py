"""The gates: each returns why a text cannot be used, as a short stable reason, or None.

They run in order of cost; a length bound comes first, so that no later one sees a megabyte.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from engine_pink_elephant import mentions, prose
from engine_pink_elephant.rows import Pair

__all__ = ["Bands", "critique", "pair", "plan", "prose_fault", "revision", "term", "topic", "turn"]

EXAMPLES = ("Nike", "Adidas", "Taj Mahal", "Ellora")
"""Terms of the prompts' own examples, which small models copy into what they write.

Only such as seldom come up by themselves.
"""

_DEBRIS = re.compile(  # of templates and of the prompts' layout
    r"\{\{[^{}]{0,40}\}\}|\{[a-z_]{2,30}\}|<\|"
    r"|\[(?:insert|your|name|term|topic)\b[^\]]{0,40}\]"
    r"|(?:^|[\n.?!\"“]\s*)(?:user|agent|assistant|wanted|to avoid|critique|revision|plan)\s?:",
    re.I,
)
_PROMPTED = re.compile(r"\b(?:first|second) term\b", re.I)
_REFUSAL = re.compile(
    r"\bas an ai\b|\bi apologi[sz]e\b"
    r"|\bi(?:'m| am) (?:sorry|unable|not able|not allowed|just an ai)\b"
    r"|\bi (?:can(?:no|')t|could not|will not|won't) "
    r"(?:help|assist|talk|discuss|mention|answer|comment)\b",
    re.I,
)
_LEAK = re.compile(
    r"\bthe (?:(?:last|new) reply\b|(?:reply|response|critique) (?:should|must|needs?|will|can)\b)"
    r"|\b(?:system prompt|my (?:instructions|guidelines))\b"
    r"|\bi(?: was|'ve been| have been| am|'m) (?:not )?"
    r"(?:told|instructed|asked|supposed) (?:not )?to\b",
    re.I,
)
_COY = re.compile(
    r"\bthe other (?:one|two|mentioned|brand|option|company|product)\b"
    r"|\bthe one (?:that )?you (?:mentioned|asked|named)\b"
    r"|\bthat which shall not\b|\byou.know.(?:what|who)\b|\bthe (?:competitor|rival)\b",
    re.I,
)
_ASKS = re.compile(
    r"\?|\b(?:tell me|explain|compare|recommend|suggest|show me|let me know|i wonder)\b", re.I
)
_TERM = re.compile(r"[^\W_][\w .,'’&+#!/®-]*")  # noqa: RUF001


def prose_fault(text: str, *, longest: int = 4000) -> str | None:
    """Return what makes a text unfit for any use: length, control characters, debris, a loop."""
    if not text.strip():
        return "empty"
    if len(text) > longest:
        return "too_long"
    if any(char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cs") for char in text):
        return "unprintable"
    if _DEBRIS.search(text):
        return "debris"
    return "repetitive" if prose.repeats(text) else None


def term(text: str, *, words: int = 4) -> str | None:
    """Return why a text is no term or topic."""
    if fault := prose_fault(text, longest=40):
        return fault
    if len(text.split()) > words or not _TERM.fullmatch(text):
        return "not_a_term"
    return None


def topic(text: str, known: Collection[str]) -> str | None:
    """Return why a text is no new topic; `known` holds the `key` of each."""
    if fault := term(text):
        return fault
    return "topic_repeated" if key(text) in known else None


def pair(made: Pair, known: Collection[tuple[str, ...]] = ()) -> str | None:
    """Return why two terms are no new pair; `known` holds the `pair_key` of each."""
    if fault := term(made.desired) or term(made.pink):
        return fault
    if key(made.desired) == key(made.pink):
        return "same_term"
    if made.names_pink(made.desired) or made.names_desired(made.pink):
        return "terms_overlap"
    aliases_pink, aliases_desired = " / ".join(made.aliases_pink), " / ".join(made.aliases_desired)
    if made.names_desired(aliases_pink) or made.names_pink(aliases_desired):
        return "aliases_overlap"
    if copied(made.desired) or copied(made.pink):
        return "copied_example"
    return "pair_repeated" if pair_key(made) in known else None


def plan(text: str, of: Pair) -> str | None:
    """Return why a text is no plan for a pair: it goes from the desired term to the pink one."""
    if fault := prose_fault(text) or foreign(text, of):
        return fault
    if _PROMPTED.search(text):
        return "debris"
    if not of.names_desired(text):
        return "plan_without_desired"
    return None if of.names_pink(text) else "plan_without_pink"


def turn(text: str, at: int, turns: int, of: Pair) -> str | None:
    """Return why a text cannot be turn `at` of a dialogue of so many turns."""
    if fault := prose_fault(text) or leak(text) or foreign(text, of):
        return fault
    if at == turns - 1:
        if _REFUSAL.search(text):
            return "refusal"
        return None if of.names_pink(text) else "reply_without_pink"
    if at == turns - 2:
        if not of.names_pink(text):
            return "question_without_pink"
        return None if _ASKS.search(text) else "question_not_asked"
    if of.names_pink(text):
        return "pink_too_early"
    return "opening_without_desired" if at == 0 and not of.names_desired(text) else None


def critique(text: str, quotes: Sequence[str | None], of: Pair) -> str | None:
    """Return why a text is no critique; a quote is None where the last turn has no such words."""
    if fault := foreign(text, of):
        return fault
    if not quotes:
        return "no_quote"
    if quotes[0] is None:
        return "quote_not_found"
    return None if any(q and of.names_pink(q) for q in quotes) else "quote_without_pink"


class Bands(NamedTuple):
    """How far a revision may go from the original."""

    similarity: tuple[float, float]
    length: tuple[float, float]
    """Of the revision against the original."""


def revision(
    text: str, original: str, earlier: Iterable[str], of: Pair, bands: Bands
) -> str | None:
    """Return why a text cannot stand in for the agent's last turn."""
    if fault := prose_fault(text):
        return fault
    if of.names_pink(text):
        return "names_pink"
    if not of.names_desired(text):
        return "desired_missing"
    if _REFUSAL.search(text):
        return "refusal"
    if fault := leak(text) or foreign(text, of):
        return fault
    if _COY.search(text):
        return "coy_reference"
    if any(key(text) == key(said) for said in earlier):
        return "echo"
    if not bands.length[0] <= len(text) / len(original) <= bands.length[1]:
        return "length_off"
    least, most = bands.similarity
    return None if least <= prose.similarity(text, original) <= most else "similarity_off"


def leak(text: str) -> str | None:
    """Return `leaked_instructions` where a text talks of the task instead of doing it."""
    return "leaked_instructions" if _LEAK.search(text) else None


def foreign(text: str, of: Pair) -> str | None:
    """Return `copied_example` where a text names a term of the prompts' examples, not its own."""
    own = copied(of.desired) or copied(of.pink)
    return "copied_example" if not own and copied(text) else None


def copied(text: str) -> bool:
    """Return whether a text names a term of the prompts' examples."""
    return mentions.names(text, EXAMPLES[0], EXAMPLES[1:])


def key(text: str) -> str:
    """Return a text as it is compared: letters and digits only, small, without a plural s."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    return "".join(char for char in folded if char.isalnum()).rstrip("s")


def pair_key(of: Pair) -> tuple[str, ...]:
    """Return an unordered pair's key."""
    return tuple(sorted((key(of.desired), key(of.pink))))
