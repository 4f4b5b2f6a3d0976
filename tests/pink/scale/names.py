"""Names for 500,000 terms and 2,000 topics, each told from its name alone: nothing is remembered.

A pair has the number of its topic and its place in it; of these come its two terms, their aliases
and what is planted in it, so that a request tells all that a reply to it rests on.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

__all__ = ["TOPICS", "Pair", "drawn_at", "number_of", "pair", "pair_of", "topic", "topic_number"]

PLACES = 64
"""Pairs that a topic may have."""
TOPICS = 2000
_CONSONANTS, _VOWELS, _LAST = "bdfgklmnprstvzhj", "aeiou", "nrkmlt"
_SYLLABLES = [c + v for c in _CONSONANTS for v in _VOWELS]
_MANY = len(_SYLLABLES) ** 3
_STEP = 198_491
"""Neighbours should not look alike; it has no divisor in common with their number."""
_BACK = pow(_STEP, -1, _MANY)
_KINDS = ("Lane", "Hall", "Mill", "Park", "Studio", "Garden", "Valley", "Farm")
_NAME = re.compile(r"([A-Z][a-z])([a-z]{2})([a-z]{2})[a-z](?: [A-Z][a-z]+)?")

_FIRST = """
academic alpine antique balcony bamboo bargain canal ceramic coastal concert copper desert evening family
festival folding forest garden glass harbour heritage holiday indoor island kitchen leather library
linen marble market meadow midnight modern morning mountain museum office organic porcelain pocket
polar railway rainy river rooftop rural school seaside silk silver stone street summer sunday
temple travel tropical urban valley velvet village vintage winter wooden
"""
_SECOND = """
anthems apricots backpacks banjos barbecues beetles blankets bookshops candles caravans carnivals
cereals chandeliers cheeses cruises cushions cyclists dumplings embroidery exhibitions fabrics
ferries fireworks flutes fountains gloves guidebooks hammocks hostels icebreakers jigsaws juices
kayaks kettles lanterns lawnmowers magazines mushrooms noodles observatories orchids pancakes
perfumes pianos pottery puddings quizzes radios raincoats sandals saunas scooters soups spices
stationery sunglasses tapestries telescopes thermostats umbrellas violins wallpapers windmills
yoghurts
"""
_FIRSTS, _SECONDS = _FIRST.split(), _SECOND.split()


class Pair(NamedTuple):
    """A pair of the number `place` in topic `topic`."""

    topic: int
    place: int
    desired: str
    pink: str
    aliases_desired: tuple[str, ...]
    aliases_pink: tuple[str, ...]
    case_sensitive: bool
    ambiguous: bool


def drawn_at(*parts: object) -> float:
    """Return a number from 0 up to 1 that hangs on the parts alone."""
    data = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=7).digest(), "big") / (1 << 56)


def topic(number: int) -> str:
    """Return the name of a topic. Neighbours share no word."""
    first, second = number % 64, (number // 64 + 7 * number) % 64
    return f"{_FIRSTS[first]} {_SECONDS[second]}"


_NUMBERS = {topic(number): number for number in range(TOPICS)}


def topic_number(name: str) -> int | None:
    """Return the number of a topic of ours, else None."""
    return _NUMBERS.get(name)


def term(number: int) -> str:
    """Return the name of a term; one of four has two words."""
    at = number * _STEP % _MANY
    one, rest = divmod(at, len(_SYLLABLES) ** 2)
    two, three = divmod(rest, len(_SYLLABLES))
    last = _LAST[(one + two + three) % len(_LAST)]
    name = (_SYLLABLES[one] + _SYLLABLES[two] + _SYLLABLES[three] + last).capitalize()
    return f"{name} {_KINDS[number // 4 % len(_KINDS)]}" if number % 16 < 2 else name


def number_of(name: str) -> int | None:
    """Return the number of a term of ours, else None."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    one, two, three = (_SYLLABLES.index(found[i].lower()) for i in (1, 2, 3))
    at = (one * len(_SYLLABLES) + two) * len(_SYLLABLES) + three
    return at * _BACK % _MANY


def pair(of: int, place: int) -> Pair:
    """Return the pair of a place in a topic."""
    first = 4 * (of * PLACES + place)
    draw = drawn_at("pair", first)
    return Pair(
        of,
        place,
        term(first),
        term(first + 1),
        (term(first + 2).split()[0],) if draw < 0.7 else (),
        (term(first + 3).split()[0],) if draw > 0.2 else (),
        case_sensitive=drawn_at("case", first) < 0.05,
        ambiguous=drawn_at("ambiguous", first) < 0.02,
    )


def pair_of(name: str) -> Pair | None:
    """Return the pair that a term was made for, else None."""
    number = number_of(name)
    return None if number is None else pair(*divmod(number // 4, PLACES))
