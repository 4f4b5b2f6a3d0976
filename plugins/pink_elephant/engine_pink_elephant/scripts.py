"""Names in scripts without spaces between words, or with small words written onto others."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["UNSPACED", "places"]

UNSPACED = re.compile(
    "[\u0590-\u06ff\u0700-\u10ff\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7ff]"
)
"""A letter of such a script: Hebrew, Arabic, Indic, Thai, Korean, Japanese, Chinese and others."""

_KATAKANA = re.compile("[\u30a1-\u30fa\u30fc]")
_HANGUL = re.compile("[\u1100-\u11ff\uac00-\ud7ff]")
_ARABIC = re.compile("[\u0620-\u064a\u0671-\u06d3]")
_HEBREW = re.compile("[\u05d0-\u05ea]")
_FREE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u309f\u3400-\u9fff]")
_BEFORE = {  # what may be written onto a word: and, in, for, the ...
    _ARABIC: frozenset(("", *"وبلكف", "ال", "بال", "وال", "لل", "فال", "كال", "ولل", "وب", "ول")),
    _HEBREW: frozenset(("", *"הובלמשכ", "וה", "שה", "מה", "בה", "כש")),
}
_AFTER = {
    _ARABIC: frozenset(("", "ي", "ه", "ها", "ات", "ين", "ون", "نا", "ك", "هم", "كم")),  # noqa: RUF001
    _HEBREW: frozenset(("", "ים", "ות", "י", "ה")),  # noqa: RUF001
}


def places(low: str, name: str) -> Iterator[tuple[int, int]]:
    """Yield where a folded text has the name as a word; the rule is that of the name's script."""
    at = low.find(name)
    while at >= 0:
        stop = at + len(name)
        if _is_word(low, at, stop):
            yield at, stop
        at = low.find(name, at + 1)


def _is_word(low: str, start: int, stop: int) -> bool:
    first, last = low[start], low[stop - 1]
    before, after = low[:start][-1:], low[stop : stop + 1]
    if _KATAKANA.match(first):
        alone = not (_KATAKANA.match(before) or _KATAKANA.match(after))
        return alone or stop - start >= 4
    if _HANGUL.match(first):
        return not _HANGUL.match(before)
    for script, written_on in _BEFORE.items():
        if script.match(first):
            return (
                _run(script, low[max(0, start - 5) : start][::-1])[::-1] in written_on
                and _run(script, low[stop : stop + 5]) in _AFTER[script]
            )
    if _FREE.match(first):
        return True
    clear = not before.isalnum() or _FREE.match(before) is not None
    return clear and (
        not after.isalnum() or not UNSPACED.match(last) or _FREE.match(after) is not None
    )


def _run(script: re.Pattern[str], chars: str) -> str:
    """Return the letters of a script that some characters begin with."""
    size = 0
    while size < len(chars) and script.match(chars[size]):
        size += 1
    return chars[:size]
