"""Where a text names a term: the one question on which every gate of this plugin rests.

Asked as a company would ask that bans a competitor's name from its assistant's replies. It counts:
- the name in any case, width, script of look-alike letters, or spelling trick (N1ke, N i k e, N*ke,
  Nikeee), broken by markup or at a line's end, in URLs, addresses, hashtags and file names;
- its parts joined otherwise: Coca-Cola, Coca Cola, CocaCola; R&D, R and D; Disney+, Disney Plus;
- possessives, plurals and singulars, verbs (googled) and those who do it (skiing: ski, skied,
  skier; golf: golfer), compounds with a hyphen or a hump (non-coffee, Nike-like, NikeFuel), and
  longer names with it (Pepsi Max). Single letters count only as written.
It does not: another word that holds the letters (pineapple, coffeehouse, JavaScript for Java), its
parts with other words between them or in another order, misspellings, names of the same thing that
are no alias. Which of two meanings a word has is for a judge, but with `case_sensitive` a name
counts only as written or in capitals, not where it opens a sentence as a word (Go home, Target
your ...), and in any case as a domain or handle (apple.com, @apple).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from engine_pink_elephant import disguises, scripts, vocabulary
from engine_pink_elephant.folding import Folded, Token, fold, word_at
from engine_pink_elephant.terms import AMP, APOSTROPHE, HUMP, LONE, MUST, Key, Keys, keys

__all__ = ["Mention", "find", "names"]


class Mention(NamedTuple):
    """Where a text names a term."""

    start: int
    stop: int
    form: str
    """The characters found."""


def find(
    text: str, term: str, aliases: Sequence[str] = (), *, case_sensitive: bool = False
) -> list[Mention]:
    """Return where `text` names the term or one of its aliases, in order; [] where it does not.

    Places are in code points of `text`; mentions do not overlap, and the longest is told.

    >>> find("I prefer Coca Cola's taste.", "Coca-Cola")
    [Mention(start=9, stop=20, form="Coca Cola's")]
    """
    text = str(text)
    folded = fold(text)
    wanted = keys((term, *aliases), case_sensitive)
    spans = sorted(
        {of.span(*_with_s(of, start, stop)) for of, start, stop in _found(folded, wanted)},
        key=lambda span: (span[0], -span[1]),
    )
    mentions: list[Mention] = []
    for start, stop in spans:
        if not mentions or start >= mentions[-1].stop:
            mentions.append(Mention(start, stop, text[start:stop]))
        elif stop > mentions[-1].stop:
            first = mentions.pop().start
            mentions.append(Mention(first, stop, text[first:stop]))
    return mentions


def names(
    text: str, term: str, aliases: Sequence[str] = (), *, case_sensitive: bool = False
) -> bool:
    """Return whether `text` names the term or one of its aliases; see `find`."""
    wanted = keys((term, *aliases), case_sensitive)
    return next(_found(fold(str(text)), wanted), None) is not None


_POSSESSIVE = re.compile(r"['`]s(?![a-z0-9])", re.IGNORECASE)


def _with_s(folded: Folded, start: int, stop: int) -> tuple[int, int]:
    """Return a place with the possessive s that follows."""
    s = _POSSESSIVE.match(folded.chars, stop)
    return start, s.end() if s else stop


def _found(folded: Folded, wanted: Keys) -> Iterator[tuple[Folded, int, int]]:
    """Yield the parts of a folded text that name one of the keys, and the reading they are in."""
    yield from _read(folded, wanted)
    for key in wanted.unspaced:
        yield from ((folded, *span) for span in scripts.places(folded.low, key))
    low = folded.low
    if "#" in low or "@" in low or disguises.HOST.search(low):
        yield from ((folded, *span) for span in disguises.compounds(folded, wanted))
    if folded.starred:
        yield from (
            (folded.starred, *span) for span in disguises.censored(folded.starred.low, wanted)
        )
    for triple in wanted.triples:
        if triple in low:
            yield from ((folded, *span) for span in disguises.drawn_out(folded, wanted))
            break
    for plain in folded.plain:
        for _, start, stop in _read(plain, wanted):
            if _mostly(folded.chars[start:stop], plain.chars[start:stop]):
                yield folded, start, stop


def _mostly(written: str, read: str) -> bool:
    """Return whether a word read from digits and signs has letters enough, and some of these."""
    changed = sum(a != b for a, b in zip(written, read, strict=True))
    return changed > 0 and len(written) >= 4 and 2 * changed <= len(written)


def _read(folded: Folded, wanted: Keys) -> Iterator[tuple[Folded, int, int]]:
    """Yield where tokens, one after the other, spell a key."""
    chars, low = folded.chars, folded.low
    found = wanted.probe.search(low)
    while found:
        start = found.start()
        if not start or not (chars[start].islower() and chars[start - 1].islower()):
            tokens, at = folded.tokens_at(start, wanted.reach)
            inside = at == len(tokens) or tokens[at].start != start
            first = "" if inside else tokens[at].low
            after = tokens[at + 1].low[0] if at + 1 < len(tokens) else ""
            for key in wanted.starts.get(first, ()):
                if key.letters[len(first) : len(first) + 1] not in ("", after):
                    continue  # most keys are other forms of the word
                last = _spelled(chars, tokens, at, key)
                if last is not None and (span := _accepted(folded, tokens, at, last, key)):
                    yield folded, *span
        found = wanted.probe.search(low, start + 1)


def _spelled(chars: str, tokens: list[Token], at: int, key: Key) -> int | None:
    """Return the last of the tokens from `at` that spell the key, or None."""
    letters, size = key.letters, len(key.letters)
    done, last, inner, apart, met = 0, at, [], 0, 0
    while True:
        token = tokens[last]
        if not letters.startswith(token.low, done):
            return None
        done += len(token.low)
        if done == size:
            break
        last += 1
        if last == len(tokens):
            return None
        gap = chars[token.stop : tokens[last].start]
        joint = key.joints.get(done)
        if joint is not None and _joined(gap, joint, token, tokens[last], chars):
            apart += bool(gap)
            met += joint in MUST
            continue
        if gap:
            ends = done + 1 == size or done + 1 in key.joints
            if gap == "'" and ends and tokens[last].low == "s":
                continue
            inner.append(gap)
    if key.tied and apart and apart < len(key.joints):
        return None
    if met < key.must:
        return None
    if inner and not _letter_by_letter(chars, tokens, at, last, key):
        parts = tokens[at : last + 1]
        hyphens = all(map(_HYPHEN.fullmatch, inner)) and len({gap[0] for gap in inner}) == 1
        apart = hyphens and size > 4 and not all(len(part.low) == 1 for part in parts)
        if not apart and not (inner == [" "] and key.proper and _titled(chars, parts)):
            return None
    return last


def _titled(chars: str, parts: list[Token]) -> bool:
    """Return whether the two halves of a name are written as two names: Face Book."""
    return len(parts) == 2 and all(
        len(part.low) > 2 and chars[part.start : part.stop].istitle() for part in parts
    )


_HYPHEN = re.compile(r"[-·](?:\s?\n\s{0,8})?")
_GAP = re.compile(r"(?:[\s_*~`\"'\\-]|·|•|\.(?!\s)){0,6}|\+|[ \t]?-?[ \t]?\n[ \t>]{0,12}")
_POINT = re.compile(r"\.\s")
_AMP = re.compile(r"\s?(?:&|\+|'?n'?)\s?")
_LONE = re.compile(r"[\s_-]{0,2}")
_APOSTROPHE = re.compile(r"['`]?|\s'|'\s")


def _joined(gap: str, joint: str, before: Token, after: Token, chars: str) -> bool:
    """Return whether what stands between two parts of a name may stand there."""
    if joint == AMP:
        return _AMP.fullmatch(gap) is not None
    if joint == LONE:  # Model S, ModelS, but neither models nor a model's
        return _LONE.fullmatch(gap) is not None
    if joint == APOSTROPHE:
        return _APOSTROPHE.fullmatch(gap) is not None
    if joint == HUMP:  # i-phone, but not "I phone her"
        lower = chars[before.start].islower() and not before.low.isdigit()
        return gap in ("", "-") or (gap == " " and lower and not after.low.isdigit())
    if (len(before.low) == 1 or before.low in vocabulary.SHORTENED) and _POINT.fullmatch(gap):
        return True  # Dr. Pepper
    if joint and gap.strip() == joint:
        return True
    return _GAP.fullmatch(gap) is not None and gap.count("\n") < 2


_SPELLING = re.compile(r"[\s.\-_*·•/|~]{1,3}")


def _letter_by_letter(chars: str, tokens: list[Token], at: int, last: int, key: Key) -> bool:
    """Return whether the tokens spell the name letter by letter: N i k e, I.B.M."""
    parts = tokens[at : last + 1]
    if any(len(part.low) > 1 for part in parts):
        return False
    gaps = [chars[a.stop : b.start] for a, b in itertools.pairwise(parts)]
    if not all(map(_SPELLING.fullmatch, gaps)):
        return False
    if len(parts) < 3 and not (set(gaps) == {"."} and chars[parts[0].start].isupper()):
        return False
    around = []
    if at:
        around.append((tokens[at - 1], chars[tokens[at - 1].stop : parts[0].start]))
    if last + 1 < len(tokens):
        around.append((tokens[last + 1], chars[parts[-1].stop : tokens[last + 1].start]))
    return not any(
        len(token.low) == 1 and gap == gaps[0] and (gap != " " or token.low not in "ai")
        for token, gap in around
    )


def _accepted(
    folded: Folded, tokens: list[Token], at: int, last: int, key: Key
) -> tuple[int, int] | None:
    """Return the place of a spelled key if it stands there as a name."""
    chars = folded.chars
    start, stop = tokens[at].start, tokens[last].stop
    if key.tail:
        stop += chars[stop : stop + 1] == " "
        if not chars.startswith(key.tail, stop):
            return None
        stop += len(key.tail)
        if chars[stop : stop + 1] == key.tail[-1]:
            return None
    if key.head:
        if chars[start - 1 : start] != key.head:
            return None
        start -= 1
        if start and chars[start - 1].isalnum():  # ASP.NET, but not example.net
            return (start, stop) if chars[start + 1 : stop].isupper() else None
    spelled = "".join(chars[t.start : t.stop] for t in tokens[at : last + 1])
    if not _cased(folded, tokens, at, last, key, spelled):
        return None
    if not key.head and not _begins(folded, tokens, at, key):
        return None
    if not key.tail and not _ends(folded, tokens, last, key, start):
        return None
    return start, stop


def _cased(folded: Folded, tokens: list[Token], at: int, last: int, key: Key, spelled: str) -> bool:
    """Return whether the case of what was found is the case that the key asks for."""
    if (key.plural and spelled[-1] == "S") or (key.capital and spelled[0].islower()):
        return False
    if not key.exact:
        return True
    written, start = key.written, tokens[at].start
    same = 0
    while same < min(len(written), len(spelled)) and written[same].lower() == spelled[same].lower():
        same += 1
    opens = _OPENS.search(folded.chars, max(0, start - 4), start) is not None or not start
    if spelled[:same] == written[:same]:
        return not (opens and _is_word(folded, tokens, last, key, spelled))
    if spelled.isupper():
        return 1 < len(spelled) <= len(written)
    if written.islower() and opens:
        return spelled[0].isupper() and spelled[1:].islower()
    return (
        not key.single
        and spelled.islower()
        and disguises.is_address(folded.low, start, start + len(spelled))
    )


_OPENS = re.compile(r"(?:^|[.!?\n:;])[\s\"'(*_-]*\Z")


def _is_word(folded: Folded, tokens: list[Token], last: int, key: Key, spelled: str) -> bool:
    """Return whether a name that opens a sentence reads as the word that it is, too."""
    if key.several or not key.written.istitle():
        return False
    if len(spelled) > len(key.written):
        return True  # Apples are healthy
    if last + 1 == len(tokens):
        return False
    after = tokens[last + 1]
    if folded.chars[tokens[last].stop : after.start] != " ":
        return False
    return after.low in (vocabulary.AFTER_GO if key.letters == "go" else vocabulary.DETERMINERS)


def _begins(folded: Folded, tokens: list[Token], at: int, key: Key) -> bool:
    """Return whether a name may begin at a token."""
    chars, start = folded.chars, tokens[at].start
    if start == 0:
        return True
    before = chars[start - 1]
    if before.isalnum():
        if not before.isascii() and scripts.UNSPACED.match(before):
            return True
        if not chars[start].isupper() or len(key.letters) < 3:
            return False
        if before.isdigit():
            return key.proper
        return before.islower() and _hump(folded, start, tokens[at].stop, key)
    if key.single and before in "&.-'":
        return start < 2 or not chars[start - 2].isalnum() or chars[start - 2].isdigit()
    if before.isspace() and "\n" in chars[max(0, start - 9) : start]:
        broken = _BROKEN_BEFORE.search(chars, max(0, start - 24), start)
        if broken and not chars[start].isupper():
            return broken[1].lower() in vocabulary.PREFIXES
    return True


_BROKEN_BEFORE = re.compile(r"([a-z]+)-[^\S\n]?\n[^\S\n]{0,8}\Z")
_BROKEN_AFTER = re.compile(r"-[^\S\n]?\n[^\S\n]{0,8}([a-z]+)")
_THOUSANDS = re.compile(r"[.,]\d{3}(?!\d)")


def _ends(folded: Folded, tokens: list[Token], last: int, key: Key, start: int) -> bool:
    """Return whether a name may end with a token."""
    chars, stop = folded.chars, tokens[last].stop
    after = chars[stop : stop + 1]
    if key.letters[-1].isdigit() and _THOUSANDS.match(chars, stop):
        return False
    if not after or after in " \n,?":
        return not _goes_on(folded, tokens, last, key)
    if not after.isalnum():
        if after == "+" and chars.startswith("++", stop):
            return False
        if len(key.letters) < 3 and after in "+#" and key.exact:
            return False
        if key.single and after in "-'.&":
            return _single_ends(chars, stop)
        if after == "-" and (broken := _BROKEN_AFTER.match(chars, stop)):
            return broken[1] in vocabulary.SUFFIXES
        return not _goes_on(folded, tokens, last, key)
    if not after.isascii() and scripts.UNSPACED.match(after):
        return True
    if after.isdigit():
        return not key.single and not key.letters[-1].isdigit()
    if key.letters[-1].isdigit():
        return after.isupper() or any(t.low in vocabulary.MODELS for t in tokens[last + 1 :][:1])
    return after.isupper() and chars[stop - 1].islower() and _hump(folded, start, stop, key)


def _single_ends(chars: str, stop: int) -> bool:
    """Return whether a single letter is a name before one of - ' . &."""
    rest = chars[stop + 1 : stop + 12].lower()
    if not rest[:1].isalnum():
        return True
    if chars[stop] == "-":
        return rest.startswith(("based", "like", "style", "powered"))
    if chars[stop] == "'":
        return re.match(r"[sd](?![a-z0-9])", rest) is not None
    return chars[stop] == "." and disguises.DOMAIN.match(chars.lower(), stop) is not None


def _goes_on(folded: Folded, tokens: list[Token], last: int, key: Key) -> bool:
    """Return whether a name is the first half of another one: Java Script."""
    if (
        last + 1 == len(tokens)
        or folded.chars[tokens[last].stop : tokens[last + 1].start] not in " -"
    ):
        return False
    return key.letters + tokens[last + 1].low in vocabulary.OTHERS


def _hump(folded: Folded, start: int, stop: int, key: Key) -> bool:
    """Return whether a part of a word in camel case may be a name there: NikeFuel, not GitHub."""
    chars = folded.chars
    first, end = word_at(chars, start, stop)
    if folded.low[first:end] in vocabulary.OTHERS:
        return False
    if first and chars[first - 1] in "#@":
        return True
    before = _LAST_HUMP.search(chars, first, start)
    if before and (len(before[0]) == 1 or before[0].lower() in ("mc", "mac", "de", "le", "la")):
        return False
    return key.proper or len(key.letters) > 2


_LAST_HUMP = re.compile(r"[A-Z]?[a-z]+\Z")
