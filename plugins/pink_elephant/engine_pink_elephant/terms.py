"""What spells a term: the letters of each of its forms, and what may stand between them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from engine_pink_elephant import inflection, scripts, vocabulary
from engine_pink_elephant.folding import fold

__all__ = ["AMP", "APOSTROPHE", "HUMP", "LONE", "MUST", "Key", "Keys", "keys"]

AMP, APOSTROPHE, HUMP, LONE = "&", "'s", "^", "S"
"""Joints that are not free: `&` is needed; only an apostrophe may stand there; no space may; the
last part is an s that belongs to no word."""
MUST = (AMP, LONE)
"""Joints that no token may pass over."""


class Key(NamedTuple):
    """One way to spell a term."""

    letters: str
    """Letters and digits in lower case, without what stands between them."""
    written: str
    """Those of the term itself, as written."""
    joints: dict[int, str]
    """After how many letters something may stand, and of which kind; the term's own, or none."""
    head: str = ""
    tail: str = ""
    """Signs that belong to the name: the point of .NET, the + of C++."""
    exact: bool = False
    """Whether the case counts."""
    several: bool = False
    """Whether the term has several parts."""
    proper: bool = False
    """Whether it is a name, and no common word."""
    tied: bool = False
    """Whether its parts stand all apart or all together: R and D, RnD."""
    label: bool = False
    """Whether it counts in hashtags, handles and domains alone: hm.com."""

    plural: bool = False
    """Whether the letters end in the small s of an initialism's plural."""
    must: int = 0
    """How many of its joints no token may pass over."""
    capital: bool = False
    """Whether the first letter must be a capital: two Kindles, but not what kindles a fire."""

    @property
    def single(self) -> bool:
        """Whether it is one letter."""
        return len(self.letters) == 1


class Keys(NamedTuple):
    """All ways to spell a term and its aliases."""

    probe: re.Pattern[str]
    """Finds in a folded text the beginning of one; where there is none, no name is spelled."""
    starts: dict[str, list[Key]]
    """What a token may be that begins one -> the keys, the longest first."""
    labels: list[Key]
    """Those looked for in hashtags, handles and domains."""
    unspaced: list[str]
    """Names in scripts without spaces between words."""
    longest: frozenset[str]
    """Names long enough to be known with a letter starred out or drawn out."""
    triples: frozenset[str]
    """Their letters, three times each."""
    reach: int
    """In how many characters any of them ends, and what must be known after it stands."""


class _Word(NamedTuple):
    written: str
    before: str
    """What joins it to the word before."""


_WORD = re.compile(r"[^\W_]+")
_HUMP = re.compile(
    r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])|(?<=[A-Z])(?=[A-Z][a-z]{2})"
)
_CONNECTIVES = frozenset(("and", "n"))
_OF = frozenset(["in", "of", "de", "at", "on", "for", "up", "by"])
_NUMBERS = {str(number): word for number, word in enumerate(vocabulary.NUMBERS)}
_DIGITS = {word: number for number, word in _NUMBERS.items()}
_SPOKEN = {"+": ("plus",), "++": ("plus", "plus"), "#": ("sharp",)}
_UMLAUTS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"}
)


@lru_cache(maxsize=1024)
def keys(terms: tuple[str, ...], case_sensitive: bool = False) -> Keys:
    """Return all ways to spell any of the terms."""
    spelled: dict[tuple[str, str, str, bool], Key] = {}
    labels: dict[str, Key] = {}
    unspaced: dict[str, None] = {}
    for term in terms:
        plain = str(term)
        low = fold(plain).low.strip()
        if scripts.UNSPACED.search(low) or _PICTURE.fullmatch(low):
            unspaced[low] = None
            continue
        said = [plain]
        if not plain.isascii():  # as capitals, other letters look Latin
            said += [unicodedata.normalize("NFC", plain).translate(_UMLAUTS), plain.upper()]
        for form in dict.fromkeys(said):
            for key, base in _keys(fold(form).chars.strip(), case_sensitive):
                if not key.label:
                    spelled.setdefault((key.letters, key.head, key.tail, key.exact), key)
                if base:
                    labels.setdefault(key.letters, key)
    starts: dict[str, list[Key]] = {}
    for key in sorted(spelled.values(), key=lambda key: -len(key.letters)):
        for size in range(1, len(key.letters) + 1):
            starts.setdefault(key.letters[:size], []).append(key)
    longest = frozenset(
        k.letters for k in labels.values() if not k.exact and not k.label and len(k.letters) > 2
    )
    triples = frozenset(letter * 3 for name in longest for letter in name if letter.isalpha())
    return Keys(
        _probe(spelled.values()),
        starts,
        list(labels.values()),
        list(unspaced),
        longest,
        triples,
        40 + 2 * max(map(len, starts), default=0),
    )


_PICTURE = re.compile("[\u2190-\u2bff\U0001f000-\U0001faff]+")


def _probe(spelled: Iterable[Key]) -> re.Pattern[str]:
    beginnings: dict[str, None] = {}
    for key in spelled:
        first, rest = key.letters[0], key.letters[1:3]
        if not rest:
            beginnings[re.escape(first)] = None
            continue
        apart = r"[\W_]{0,16}"
        one = apart if 1 in key.joints else r"(?:[-·]|[\W_]{1,3}(?=.(?![^\W_])))?"
        two = apart if 2 in key.joints else r"(?:[-·]\s{0,9}|[\W_]{1,3}(?=.(?![^\W_])))?"
        beginnings[first + one + (rest if len(rest) < 2 else rest[0] + two + rest[1])] = None
    return re.compile("|".join(beginnings) or "(?!)")


def _keys(term: str, case_sensitive: bool) -> Iterator[tuple[Key, bool]]:
    """Yield the keys of a folded term, and whether each is the term itself, without an ending."""
    tail = found[1] if (found := re.search(r"\w\s?([+#]+)$", term)) else ""
    head = "." if re.match(r"\.\w", term) else ""
    words = _words(term)
    if not words:
        return
    exact = (
        case_sensitive
        or term.endswith("?")
        or (term.isupper() and _initials(words) in vocabulary.WORDS_IN_CAPITALS)
    )
    for style in _styles(words):
        yield from _forms(style, head, tail, exact, case_sensitive)
        for other in _numbered(style):
            yield from _forms(other, head, tail, exact, case_sensitive)
    if tail in _SPOKEN:
        yield from _forms([*words, *(_Word(w, "") for w in _SPOKEN[tail])], "", "", exact, True)
    if head:
        yield from _forms([_Word("dot", ""), *words], "", "", False, True)


def _initials(words: list[_Word]) -> str:
    """Return an initialism in lower case, be it written with points: US, U.S."""
    joined = "".join(word.written for word in words).lower()
    return joined if all(word.before in ("", ".") for word in words) else ""


def _words(term: str) -> list[_Word]:
    """Return the words of a term; a leading article that it does not need is left out."""
    words, done = [], 0
    for m in _WORD.finditer(term):
        gap = term[done : m.start()].strip()
        own = APOSTROPHE if gap == "'" and m[0].lower() == "s" else AMP if gap == "&" else gap
        words.append(_Word(m[0], own if done else ""))
        done = m.end()
    if len(words) > 1 and words[0].written.lower() == "the":
        rest = "".join(word.written for word in words[1:]).lower()
        if len(rest) > 3 and rest not in vocabulary.COMMON and rest[:-1] not in vocabulary.COMMON:
            words = [_Word(words[1].written, ""), *words[2:]]
    return words


def _styles(words: list[_Word]) -> Iterator[list[_Word]]:
    """Yield the words with what joins them said otherwise: R&D, R and D, RnD."""
    joined: list[_Word] = []
    for at, word in enumerate(words):
        if 0 < at < len(words) - 1 and word.written.lower() in _CONNECTIVES:
            continue
        link = at > 0 and words[at - 1].written.lower() in _CONNECTIVES and joined and at > 1
        joined.append(_Word(word.written, AMP) if link else word)
    links = [at for at, word in enumerate(joined) if word.before == AMP]
    if not links:
        yield words
        return
    for style in (AMP, "and", "n", ""):
        said: list[_Word] = []
        for word in joined:
            if word.before != AMP or style == AMP:
                said.append(word)
            elif style:
                said += [_Word(style, _TIED), _Word(word.written, _TIED)]
            else:
                said.append(_Word(word.written, "" if _long(joined) else _TIGHT))
        if style or sum(len(word.written) for word in said) > 1:
            yield said
    if joined[-1].before == APOSTROPHE and len(joined) > 2:
        yield joined[:-1]  # an M&M


_TIED = "="
_TIGHT = "0"  # nothing may stand there, and it must be in capitals: ATT


def _long(words: list[_Word]) -> bool:
    return all(len(word.written) >= 3 or word.before == APOSTROPHE for word in words)


def _numbered(words: list[_Word]) -> Iterator[list[_Word]]:
    """Yield the words with their numbers in letters (PlayStation Five), or in digits (5 Guys)."""
    parts = _parts(words)
    for said in (_NUMBERS, _DIGITS) if len(parts) > 1 else ():
        other = [_Word(said.get(p.written.lower(), p.written), p.before) for p in parts]
        if other != parts and any(p in parts and len(p.written) > 1 for p in other):
            yield other


def _parts(words: list[_Word]) -> list[_Word]:
    """Return the parts of words in camel case or with digits: You Tube, PS 5."""
    made: list[_Word] = []
    for word in words:
        parts = _HUMP.split(word.written)
        alone = any(len(part) == 1 and part.isalpha() for part in parts) and not made
        made.append(_Word(parts[0], word.before))
        made += [_Word(part, HUMP if alone else "") for part in parts[1:]]
    return made


def _forms(
    words: list[_Word], head: str, tail: str, exact: bool, case_sensitive: bool
) -> Iterator[tuple[Key, bool]]:
    written = "".join(word.written for word in words)
    tight = any(word.before == _TIGHT for word in words)
    if tight and len(written) < 3:
        if not exact:
            yield Key(written.lower(), written, {}, several=True, label=True), True
        return
    proper = written != written.lower()
    if len(written) == 1 or re.fullmatch(r"\d[A-Za-z]", written):
        exact = exact or not tail
    if tight:
        exact, written = True, written.upper()
    tied = any(word.before == _TIED for word in words)
    firsts = [words]
    if len(words) > 1 and words[1].written.lower() in _OF:
        firsts += [
            [_Word(many, words[0].before), *words[1:]]
            for many in inflection.plurals(words[0].written.lower())
        ]
    for variant in firsts:
        parts = _parts(variant)
        joints: dict[int, str] = {}
        size = 0
        for part in parts:
            if size and part.before != _TIGHT:
                joints[size] = "" if part.before == _TIED else part.before
                if part is parts[-1] and part.written.lower() == "s" and not part.before:
                    joints[size] = LONE
            size += len(part.written)
        last = variant[-1]
        stem = "".join(part.written for part in parts).lower()[: -len(last.written)]
        word = last.written.lower()
        ends = [word]
        if not tail and not tight and last.before != APOSTROPHE:
            verbs = not case_sensitive and (len(words) == 1 or not proper or word.endswith("ing"))
            ends = inflection.forms(word, name=proper and len(words) == 1, words=verbs)
        if re.fullmatch("[A-Z]{2,}s", last.written):
            ends = [word, word[:-1]]
        if proper and len(words) == 1 and word in vocabulary.VERBS:
            ends = [word] if case_sensitive else [word, word + "s"]
        for form in ends:
            kept = len(stem) + _common(form, word)
            yield (
                Key(
                    stem + form,
                    written,
                    {at: joint for at, joint in joints.items() if at <= kept},
                    head,
                    tail,
                    exact,
                    len(parts) > 1,
                    proper,
                    tied,
                    must=sum(joint in MUST for joint in joints.values()),
                    plural=form == word + "s" and last.written.isupper() and len(word) < 4,
                    capital=proper and form != word and word in vocabulary.VERBS,
                ),
                form == word and variant is words,
            )


def _common(one: str, two: str) -> int:
    """Return how many letters two words begin with alike."""
    size = 0
    while size < min(len(one), len(two)) and one[size] == two[size]:
        size += 1
    return size
