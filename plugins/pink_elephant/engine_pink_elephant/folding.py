"""A text as it is compared: what only looks different is made alike, and every place is kept.

Width, accents, ligatures, zero-width characters and letters of other scripts that look Latin are
folded; HTML tags and entities, percent-encoding and emphasis inside of a word are undone. An ASCII
text without any of these is its own folding.
"""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from engine_pink_elephant import vocabulary

__all__ = ["Folded", "Token", "fold", "word_at"]


class Token(NamedTuple):
    """A run of letters of one case pattern, or of digits; `JavaScript` has two, `N1ke` three."""

    low: str
    start: int
    stop: int


_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W0-9_A-Za-z]+")
_ASCII_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


class Folded:
    """A folded text; make it with `fold`, which keeps the last ones."""

    def __init__(self, text: str, spans: list[tuple[int, int]] | None = None) -> None:
        self.text = text
        """The text, decoded."""
        self._decoded = spans
        ascii_ = text.isascii()
        self.chars = text if ascii_ else _lookalikes(text.translate(_FOLDS))
        self.low = self.chars.lower()
        self.starred: Folded | None = None
        """The text before emphasis inside of words was undone, where letters may be starred out."""
        self._token = _ASCII_TOKEN if ascii_ else _TOKEN

        self._looked = 0

    def tokens_at(self, place: int, reach: int) -> tuple[list[Token], int]:
        """Return tokens around a place, and which of them stands there or is the next.

        The first few times only those near by are made, as far as the name may `reach`.
        """
        self._looked += 1
        if self._looked < 4:
            near = self._tokens(max(0, place - 16), place + reach)
            return near, next(at for at, token in enumerate(near) if token.stop > place)
        all_ = self._all_tokens
        return all_, bisect_left(all_, place, key=lambda token: token.start)

    @cached_property
    def _all_tokens(self) -> list[Token]:
        return self._tokens(0, len(self.chars))

    def _tokens(self, start: int, stop: int) -> list[Token]:
        low, made = self.low, []
        for m in self._token.finditer(self.chars, start, stop):
            first, end = m.span()
            made.append(Token(low[first:end], first, end))
        return made

    @cached_property
    def plain(self) -> tuple[Folded, ...]:
        """The text with digits and signs that stand for letters (N1ke, Pep$i) read as letters."""
        leet = _SIGN.search(self.low) and _LEET.search(self.low)
        if not (leet or _TALL.search(self.chars)):
            return ()
        read = {_LEET_RUN.sub(_as_letters(table), self.chars) for table in (_ONE_IS_I, _ONE_IS_L)}
        read |= {_TALL.sub("l", self.chars)}
        return tuple(Folded(chars) for chars in sorted(read - {self.chars}))

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Return the place in the text given to `fold` of a part of the folded one."""
        if self._spans is None:
            return start, stop
        return self._spans[start][0], self._spans[stop - 1][1]

    @cached_property
    def _spans(self) -> list[tuple[int, int]] | None:
        """For each folded character its place in the text; None where the places are the same."""
        if self._decoded is None and all(len(_FOLDS[ord(char)]) == 1 for char in set(self.text)):
            return None
        spans: list[tuple[int, int]] = []
        for place, char in enumerate(self.text):
            made = _FOLDS[ord(char)]
            start, stop = self._decoded[place] if self._decoded else (place, place + 1)
            if not made and spans and unicodedata.category(char) in ("Mn", "Me"):
                spans[-1] = spans[-1][0], stop  # an accent belongs to its letter
            spans += [(start, stop)] * len(made)
        return spans


@lru_cache(maxsize=64)
def fold(text: str) -> Folded:
    """Return a text as it is compared; the last 64 are kept, for terms asked of the same text."""
    decoded, spans = text, None
    if "<" in text:
        decoded, spans = _replaced(decoded, spans, _TAG, _tag)
    if "&" in text:
        decoded, spans = _replaced(decoded, spans, _ENTITY, lambda m: html.unescape(m[0]))
    if "\\" in text:
        decoded, spans = _replaced(decoded, spans, _ESCAPE, _unescaped)
    if "%" in text:
        decoded, spans = _replaced(decoded, spans, _PERCENT, lambda m: unquote(m[0]))
    starred = Folded(decoded, spans) if "*" in text and _STARRED.search(decoded) else None
    if "*" in text or "~~" in text or "`" in text:
        decoded, spans = _replaced(decoded, spans, _EMPHASIS, lambda _: "")
    if "[" in text:
        decoded, spans = _replaced(decoded, spans, _BRACKET, lambda m: m[1])
    folded = Folded(decoded, spans)
    folded.starred = starred
    return folded


def word_at(chars: str, start: int, stop: int) -> tuple[int, int]:
    """Return the whole word, letters and digits, around a part of a text."""
    while start > 0 and chars[start - 1].isalnum():
        start -= 1
    while stop < len(chars) and chars[stop].isalnum():
        stop += 1
    return start, stop


_TAG = re.compile(r"</?([A-Za-z][A-Za-z0-9]{0,15})\b([^<>]{0,300})>")
_NAMING = re.compile(r"\b(?:href|src|alt|title|content|value|placeholder)\s*=", re.I)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_ESCAPE = re.compile(r"\\(?:[nrt](?=[A-Z])|u([0-9A-Fa-f]{4}))")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}){1,64}")
_STARRED = re.compile(r"\w\*")
_BRACKET = re.compile(r"(?<![^\W_])\[([A-Za-z])\](?=[a-z])")  # [N]ike
_EMPHASIS = re.compile(r"(?<=[^\W_])(?:\*{1,3}|~~|`)(?=[^\W_])")


def _tag(m: re.Match[str]) -> str:
    if _NAMING.search(m[2]):
        return m[0]  # what it points to counts
    return "" if m[1].lower() in vocabulary.INLINE else " "


def _unescaped(m: re.Match[str]) -> str:
    return chr(int(m[1], 16)) if m[1] else " "


def _replaced(
    text: str,
    spans: list[tuple[int, int]] | None,
    pattern: re.Pattern[str],
    made: Callable[[re.Match[str]], str],
) -> tuple[str, list[tuple[int, int]] | None]:
    """Return the text with what the pattern finds replaced, and where each character was."""
    found = list(pattern.finditer(text))
    if not found or (pattern is _EMPHASIS and len(found) < 2 and text.count(found[0][0]) < 2):
        return text, spans
    before = spans or [(place, place + 1) for place in range(len(text))]
    parts: list[str] = []
    after: list[tuple[int, int]] = []
    done = 0
    for m in found:
        new = made(m)
        parts += [text[done : m.start()], new]
        after += before[done : m.start()]
        if new == m[0]:
            after += before[m.start() : m.end()]
        else:
            after += [(before[m.start()][0], before[m.end() - 1][1])] * len(new)
        done = m.end()
    return "".join([*parts, text[done:]]), after + before[done:]


_SIGN = re.compile(r"[0-9$@|]|!(?=[a-z])")
_LEET = re.compile(r"[a-z][0-9$@!|]|[0-9$@|][a-z]")
_LEET_RUN = re.compile(r"[A-Za-z0-9$@!|]+")
_TALL = re.compile(r"I(?<=[a-z]I)(?=[a-z])|l(?=[A-Z][a-z])(?<![A-Za-z]l)")  # GoogIe
_ONE_IS_I = str.maketrans("0134578@$!|9", "oieasTbasiig".lower())
_ONE_IS_L = str.maketrans("0134578@$!|9", "oleasTbasllg".lower())


def _as_letters(table: dict[int, int]) -> Callable[[re.Match[str]], str]:
    def read(m: re.Match[str]) -> str:
        letters = sum(map(str.isalpha, m[0]))
        return m[0].translate(table) if 2 * letters >= len(m[0]) > letters else m[0]

    return read


_SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "ARABIC", "HEBREW", "ARMENIAN")
_KEPT_MARKS = re.compile("[\u0900-\u0dff\u0e00-\u109f\u1700-\u1aff\u3099\u309a]")
_SINGLE = dict(
    zip(
        "ıȷłøđħŧŋƒɑɡɢʀʟɴʙʜɪᴀᴄᴅᴇᴊᴋᴍᴏᴘᴛᴜᴠᴡʏᴢꜰꜱɩɛɔɾʋ",
        "ijlodhtnfagGRLNBHIACDEJKMOPTUVWYZFSieoru",
        strict=True,
    )
) | {"Ł": "L", "Ø": "O", "Đ": "D", "Ħ": "H", "Ŧ": "T", "Ɩ": "I"}
_SEVERAL = {
    "ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "þ": "th", "Þ": "TH",
    "ð": "d", "Ð": "D", "™": " ", "®": " ", "©": " ", "℠": " ", "ـ": "", "\u3164": "",
    "\u2800": " ", "‧": "·", "\u093c": "",
}  # fmt: skip
_MARKS = dict.fromkeys("‘’ʼʻ‛´′ˈ`＇", "'") | dict.fromkeys("“”„‟″«»＂", '"')  # noqa: RUF001
_DASHES = dict.fromkeys("‐‑‒–—―−﹣－", "-")  # noqa: RUF001


class _Folds(dict[int, str]):
    """Character -> what it is compared as; filled as characters are met."""

    def __missing__(self, code: int) -> str:
        folded = self[code] = self._folded(chr(code))
        return folded

    @staticmethod
    def _folded(char: str) -> str:
        if char.isascii() and char != "`":
            return char
        known = {**_SINGLE, **_SEVERAL, **_MARKS, **_DASHES}.get(char)
        if known is not None:
            return known
        for first in (0x1F130, 0x1F150, 0x1F170):  # letters in boxes and discs
            if first <= ord(char) < first + 26:
                return chr(ord("A") + ord(char) - first)
        category = unicodedata.category(char)
        if category in ("Cf", "Me") or (category == "Mn" and not _KEPT_MARKS.match(char)):
            return ""
        if category == "Sk":
            return "'" if char == "\u00b4" else ""
        parts = unicodedata.normalize("NFKD", char)
        if category != "Mn" and unicodedata.name(parts[0], "").split(" ")[0] in (
            *_SCRIPTS,
            "DIGIT",
        ):
            kept = (p for p in parts if unicodedata.category(p) not in ("Mn", "Me", "Cf"))
            return "".join(_SINGLE.get(p) or _SEVERAL.get(p) or p for p in kept)
        if category == "Nd":
            return str(unicodedata.digit(char))
        return unicodedata.normalize("NFKC", char).replace("\u093c", "")


_FOLDS = _Folds()

_LOOKALIKES = str.maketrans(
    "АВЕЅІЈКМНОРСТХУԚԜӀаеѕіјкорсхуһԁԛԝӏ"
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧανορτυχκιγεη"
    "օսհոց"  # noqa: RUF001
    "ᎪᏴᏟᎠᎬᏀᎻᎫᏦᏞᎷᏢᏚᎢᏙᎳᏃᎡᎥ",  # noqa: RUF001
    "ABESIJKMHOPCTXYQWIaesijkopcxyhdqwlABEZHIKMNOPTYXavoptuxkiyenouhngABCDEGHJKLMPSTVWZRi",
)
_AMONG_LATIN = str.maketrans("тмнвпгь", "tmhbnrb")
_FOREIGN = re.compile("[\u0370-\u03ff\u0400-\u052f\u0530-\u058f\u13a0-\u13ff]")
_LETTERS = re.compile(r"[^\W\d_]+")


def _lookalikes(chars: str) -> str:
    """Return the text with words that only look Latin, in whole or in part, written so."""
    if not _FOREIGN.search(chars):
        return chars
    return _LETTERS.sub(_looked_at, chars)


def _looked_at(m: re.Match[str]) -> str:
    word = m[0]
    if not _FOREIGN.search(word):
        return word
    if _ANY_LATIN.search(word):
        return word.translate(_LOOKALIKES).translate(_AMONG_LATIN)
    seen = word.translate(_LOOKALIKES)
    return seen if seen.isascii() else word


_ANY_LATIN = re.compile("[A-Za-z]")
