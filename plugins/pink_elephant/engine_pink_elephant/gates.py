"""The gates: each returns why a text cannot be used, as a `Fault`, or None.

They run in order of cost; a length bound comes first, so that no later one sees a megabyte. None of
them asks a model: what only a judge can say is in `judging`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from engine_pink_elephant import language as languages
from engine_pink_elephant import mentions, naming, prose
from engine_pink_elephant.rows import Pair

__all__ = [
    "ADVICE",
    "Bands",
    "Fault",
    "critique",
    "pair",
    "plan",
    "prose_fault",
    "revision",
    "roles",
    "term",
    "turn",
    "wrong_language",
]

EXAMPLES = ("Nike", "Adidas", "Taj Mahal", "Ellora")
"""Terms of the prompts' own examples, which small models copy into what they write.

Only such as seldom come up by themselves.
"""

_EXAMPLES = tuple(name.lower() for name in EXAMPLES)

ADVICE = {
    "bad_json": "it is not the JSON that was asked for",
    "copied_example": "it speaks of an example, not of this conversation",
    "coy_reference": "it points at what should be left out",
    "desired_missing": "it does not name what to keep to",
    "echo": "the agent has said that before",
    "language_off": "it is in another language than the conversation",
    "leaked_instructions": "it talks of these instructions",
    "length_off": "it is too short or too long: keep the length of the turn",
    "mentions_pink": "it still talks about what should be left out",
    "names_pink": "it still names what should be left out",
    "no_quote": "it quotes nothing of the turn",
    "quote_not_found": "the turn has no such words: quote them exactly",
    "quote_without_pink": "the quote does not name what should be left out",
    "refusal": "it refuses or apologises: answer with what is wanted",
    "repetitive": "it repeats itself",
    "similarity_off": "it is not a revision of the turn: change what is needed, and no more",
    "unfinished": "its last sentence has no end",
}
"""Reason -> what a retry tells the model; a reason that is not here speaks for itself."""


class Fault(NamedTuple):
    """Why a text cannot be used."""

    reason: str
    """Short and stable: rejects are counted by it."""
    span: str | None = None
    """The part that shows why."""


_ADVISED = tuple(
    part for advice in ADVICE.values() for part in advice.split(": ") if len(part.split()) > 4
)
"""What a retry says, as small models say it back."""

# A match holds one of the words beside its pattern: those are searched for first, which is fast.
_DEBRIS_WORDS = ("{", "[", "<|", ":")
_DEBRIS = re.compile(  # of templates and of the prompts' layout
    r"\{\{[^{}]{0,40}\}\}|\{[a-z_]{2,30}\}|<\|"
    r"|\[(?:insert|your|name|term|topic)\b[^\]]{0,40}\]"
    r"|(?:^|[\n.?!\"“]\s*)(?:user|agent|assistant|wanted|to avoid|critique|revision|plan)\s?:",
    re.I,
)
_PROMPTED = re.compile(r"\b(?:first|second) term\b", re.I)
_REFUSAL_WORDS = (
    *("an ai", "apologi", "sorry", "unable", "not able", "not allowed"),
    *("can't", "cannot", "could not", "will not", "won't"),
)
_REFUSAL = re.compile(
    r"\bas an ai\b|\bi apologi[sz]e\b"
    r"|\bi(?:'m| am) (?:sorry|unable|not able|not allowed|just an ai)\b"
    r"|\bi (?:can(?:no|')t|could not|will not|won't) "
    r"(?:help|assist|talk|discuss|mention|answer|comment)\b",
    re.I,
)
_LEAK_WORDS = (
    *("reply", "response", "critique", "system prompt", "my guidelines"),
    *("instruct", "told", "asked", "supposed"),
)
_LEAK = re.compile(
    r"\bthe (?:(?:last|new) reply\b|(?:reply|response|critique) (?:should|must|needs?|will|can)\b)"
    r"|\b(?:system prompt|my (?:instructions|guidelines))\b"
    r"|\bi(?: was|'ve been| have been| am|'m) (?:not )?"
    r"(?:told|instructed|asked|supposed) (?:not )?to\b",
    re.I,
)
_COY_WORDS = ("the other ", "the one ", "shall not", "know", "competitor", "rival")
_COY = re.compile(
    r"\bthe other (?:one|two|mentioned|brand|option|company|product)\b"
    r"|\bthe one (?:that )?you (?:mentioned|asked|named)\b"
    r"|\bthat which shall not\b|\byou.know.(?:what|who)\b|\bthe (?:competitor|rival)\b",
    re.I,
)
_ASKS = re.compile(
    r"\b(?:tell me|explain|compare|recommend|suggest|show me|let me know|i wonder)\b", re.I
)
_OPEN = frozenset(
    re.findall(r"\w+", "a an the and or but because who which than their its my your of to")
)
"""Words that want another one after them."""
_TERM = re.compile(r"[^\W_][\w .,'’&+#!/®-]*")  # noqa: RUF001
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def prose_fault(text: str, *, longest: int = 4000) -> Fault | None:
    """Return what makes a text unfit for any use: length, control characters, debris, a loop."""
    text = str(text)
    if not text.strip():
        return Fault("empty")
    if len(text) > longest:
        return Fault("too_long", text[:80])
    if not text.isprintable() and (found := _UNPRINTABLE.search(text)):
        return Fault("unprintable", repr(found[0]))
    if debris := _match(_DEBRIS, _DEBRIS_WORDS, text):
        return Fault("debris", debris)
    return Fault("repetitive", text[-80:]) if prose.repeats(text) else None


def term(text: str, *, words: int = 4, longest: int = 40) -> Fault | None:
    """Return why a text is no term or topic."""
    if fault := prose_fault(text, longest=longest):
        return fault
    if len(text.split()) > words or not _TERM.fullmatch(text):
        return Fault("not_a_term", text)
    return None


def pair(made: Pair) -> Fault | None:
    """Return why two terms are no pair."""
    size = {"words": 16, "longest": 120} if made.described else {}
    if fault := term(made.desired, **size) or term(made.pink, **size):
        return fault
    if naming.canonical(made.desired) == naming.canonical(made.pink):
        return Fault("same_term", made.pink)
    if made.names_pink(made.desired) or made.names_desired(made.pink):
        return Fault("terms_overlap", f"{made.desired} - {made.pink}")
    aliases_pink, aliases_desired = " / ".join(made.aliases_pink), " / ".join(made.aliases_desired)
    if made.names_desired(aliases_pink) or made.names_pink(aliases_desired):
        return Fault("aliases_overlap", f"{aliases_desired} - {aliases_pink}")
    named = copied(made.desired) or copied(made.pink)
    return Fault("copied_example", f"{made.desired} - {made.pink}") if named else None


def plan(text: str, of: Pair) -> Fault | None:
    """Return why a text is no plan for a pair: it goes from the desired term to the pink one.

    Of a pair of descriptions only the prose is looked at.
    """
    if fault := prose_fault(text) or foreign(text, of):
        return fault
    if found := _PROMPTED.search(text):
        return Fault("debris", found[0])
    if of.described:
        return None
    if not of.names_desired(text):
        return Fault("plan_without_desired", text)
    return None if of.names_pink(text) else Fault("plan_without_pink", text)


def roles(said: Sequence[str], *, least: int = 4) -> Fault | None:
    """Return `roles_off` unless the roles alternate from the user to the agent, `least` or more."""
    if len(said) < least or list(said) != ["user", "assistant"] * (len(said) // 2):
        return Fault("roles_off", " ".join(said)[:80])
    return None


def turn(text: str, at: int, turns: int, of: Pair, *, judged: bool = False) -> Fault | None:
    """Return why a text cannot be turn `at` of a dialogue of so many turns.

    Whether it mentions the pink term is not asked where that will be `judged`.
    """
    text = str(text)
    if fault := prose_fault(text) or leak(text) or foreign(text, of):
        return fault
    last = turns - 1
    if at == last and (found := _match(_REFUSAL, _REFUSAL_WORDS, text)):
        return Fault("refusal", found)
    if at == last and (fault := unfinished(text)):
        return fault
    if at == last - 1 and "?" not in text and not _ASKS.search(text):
        return Fault("question_not_asked", text)
    if not judged:
        named = of.names_pink(text)
        if at < last - 1 and named:
            return Fault("pink_too_early", text)
        if at >= last - 1 and not named:
            return Fault("question_without_pink" if at < last else "reply_without_pink", text)
    return None


def opening(texts: Sequence[str], of: Pair) -> Fault | None:
    """Return `opening_without_desired` unless the desired term is named by the third turn."""
    if of.described or any(of.names_desired(text) for text in texts[:3]):
        return None
    return Fault("opening_without_desired", texts[0])


def critique(
    text: str, quotes: Sequence[str | None], of: Pair, *, judged: bool = False
) -> Fault | None:
    """Return why a text is no critique; a quote is None where the last turn has no such words."""
    if fault := prose_fault(text) or foreign(text, of):
        return fault
    if not quotes:
        return Fault("no_quote", text)
    if quotes[0] is None:
        return Fault("quote_not_found", text)
    if judged or any(q and of.names_pink(q) for q in quotes):
        return None
    return Fault("quote_without_pink", quotes[0])


class Bands(NamedTuple):
    """How far a revision may go from the original."""

    similarity: tuple[float, float]
    length: tuple[float, float]
    """Of the revision against the original."""


def revision(
    text: str,
    original: str,
    earlier: Iterable[str],
    of: Pair,
    bands: Bands,
    *,
    language: str | None = None,
    judged: bool = False,
) -> Fault | None:
    """Return why a text cannot stand in for the agent's last turn.

    Whether it mentions the pink term is not asked where that will be `judged`.
    """
    text, original = str(text), str(original)
    if fault := prose_fault(text):
        return fault
    if not judged and (found := of.pink_in(text)):
        return Fault("names_pink", found[0].form)
    if not of.described and not of.names_desired(text):
        return Fault("desired_missing")
    if refused := _match(_REFUSAL, _REFUSAL_WORDS, text):
        return Fault("refusal", refused)
    if fault := leak(text) or foreign(text, of):
        return fault
    if fault := unfinished(text) or wrong_language(text, language):
        return fault
    if advice := _held(text.lower(), _ADVISED):
        return Fault("leaked_instructions", advice)
    if coy := _match(_COY, _COY_WORDS, text):
        return Fault("coy_reference", coy)
    if any(prose.same(text, said) for said in earlier):
        return Fault("echo", text)
    if not bands.length[0] <= len(text) / len(original) <= bands.length[1]:
        return Fault("length_off", f"{len(text)} characters, where the turn has {len(original)}")
    least, most = bands.similarity
    alike = prose.similarity(text, original)
    return None if least <= alike <= most else Fault("similarity_off", f"{alike:.2f} alike")


def unfinished(text: str) -> Fault | None:
    """Return `unfinished` where the last word wants another: small models stop at a banned one."""
    end = text[-40:].rstrip(" .!?…")
    wants = end.rpartition(" ")[2].lower() in _OPEN or end.endswith(", so")
    return Fault("unfinished", end) if wants else None


def leak(text: str) -> Fault | None:
    """Return `leaked_instructions` where a text talks of the task instead of doing it."""
    found = _match(_LEAK, _LEAK_WORDS, text)
    return Fault("leaked_instructions", found) if found else None


def _match(pattern: re.Pattern[str], words: Sequence[str], text: str) -> str | None:
    """Return what a pattern finds in a text that holds one of the words, small."""
    if _held(text.lower(), words) is None:
        return None
    found = pattern.search(text)
    return found[0] if found else None


def _held(low: str, words: Sequence[str]) -> str | None:
    """Return the first of the words that a text holds."""
    for word in words:
        if word in low:
            return word
    return None


def wrong_language(text: str, language: str | None) -> Fault | None:
    """Return `language_off` where a text is not in the language (ISO 639-1; None: any will do)."""
    if language is None or languages.is_in(text, language):
        return None
    return Fault("language_off", text[:80])


def foreign(text: str, of: Pair) -> Fault | None:
    """Return `copied_example` where a text names a term of the prompts' examples, not its own."""
    if not copied(text) or copied(of.desired) or copied(of.pink):
        return None
    return Fault("copied_example", text)


def copied(text: str) -> bool:
    """Return whether a text names a term of the prompts' examples."""
    plainly = _held(text.lower(), _EXAMPLES) is not None
    return plainly and mentions.names(text, EXAMPLES[0], EXAMPLES[1:])
