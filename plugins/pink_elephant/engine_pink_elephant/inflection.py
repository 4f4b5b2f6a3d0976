"""The forms of an English word: plurals, singulars, and what a verb or an activity becomes.

No dictionary: rules, and tables of what they miss. A form that is a common word of its own is left
out (`window` for Windows, `bowl` for bowling), for it would be found everywhere.
"""

from __future__ import annotations

import re

from engine_pink_elephant import vocabulary

__all__ = ["forms", "plurals"]

_IRREGULAR = {  # singular -> plurals
    "mouse": "mice", "louse": "lice", "goose": "geese", "tooth": "teeth", "foot": "feet",
    "child": "children", "person": "people", "ox": "oxen", "die": "dice", "penny": "pence",
    "knife": "knives", "life": "lives", "wife": "wives", "wolf": "wolves", "leaf": "leaves",
    "loaf": "loaves", "calf": "calves", "half": "halves", "elf": "elves", "shelf": "shelves",
    "self": "selves", "thief": "thieves", "scarf": "scarves", "hoof": "hooves", "wharf": "wharves",
    "dwarf": "dwarves", "sheaf": "sheaves", "cactus": "cacti", "octopus": "octopi",
    "fungus": "fungi", "nucleus": "nuclei", "alumnus": "alumni", "radius": "radii",
    "stimulus": "stimuli", "syllabus": "syllabi", "criterion": "criteria",
    "phenomenon": "phenomena", "bacterium": "bacteria", "curriculum": "curricula",
    "datum": "data", "stadium": "stadia", "aquarium": "aquaria", "matrix": "matrices",
    "index": "indices", "vertex": "vertices", "appendix": "appendices", "quiz": "quizzes",
    "bus": "busses", "gas": "gasses", "genus": "genera", "panino": "panini",
    "graffito": "graffiti", "paparazzo": "paparazzi", "gateau": "gateaux", "bureau": "bureaux",
    "tableau": "tableaux", "brother": "brethren", "passerby": "passersby",
}  # fmt: skip
_SINGULAR = {plural: one for one, plural in _IRREGULAR.items()}
_PAST = {
    "run": "ran", "swim": "swam swum", "write": "wrote written", "drive": "drove driven",
    "ride": "rode ridden", "fly": "flew flown", "eat": "ate eaten", "drink": "drank drunk",
    "sing": "sang sung", "draw": "drew drawn", "read": "read", "sleep": "slept", "build": "built",
    "speak": "spoke spoken", "teach": "taught", "buy": "bought", "sell": "sold", "shoot": "shot",
    "throw": "threw thrown", "spin": "spun", "knit": "knit knitted", "dive": "dove", "hang": "hung",
    "fight": "fought", "think": "thought", "weave": "wove woven", "bet": "bet", "sew": "sewn",
    "freeze": "froze frozen", "sweep": "swept", "forge": "forged", "bike": "biked", "grow": "grew",
}  # fmt: skip
_DERIVED = {
    "vegan": ("veganism",), "vegetarian": ("vegetarianism",), "cycling": ("cyclist", "cyclists"),
    "biking": ("biker", "bikers"), "reddit": ("redditor", "redditors"),
    "photography": ("photographer", "photographers"), "gardening": ("gardener", "gardeners"),
}  # fmt: skip
_RU = "а я у ю ы и е о ои еи ом ем ам ям ами ями ах ях ов ев".split()  # noqa: RUF001, SIM905
_CYRILLIC = re.compile(r"[\u0430-\u044f]{4,}")


def forms(word: str, *, name: bool, words: bool = True) -> list[str]:
    """Return the forms of a word in lower case, itself first.

    - `name`: whether it is a proper name, which becomes a verb at will (googled) but is shortened
      to no common word.
    - `words`: whether verbs count; else only plural and singular.
    """
    found = [word, *plurals(word), *_singulars(word, name)]
    if words:
        found += [form for one in (word, *_singulars(word, name)) for form in _verbal(one, name)]
        found += _DERIVED.get(word, ())
    if _CYRILLIC.fullmatch(word):
        stem = word[:-1] if word[-1] in "аяоеиыйьуюё" else word
        found += [stem + ending for ending in _RU]
    return list(dict.fromkeys(found))


def plurals(word: str) -> list[str]:
    """Return what may be the plural of a word in lower case."""
    if len(word) < 2 or not word.isascii() or not word.isalpha():
        return [word + "s"] if word[-1:].isdigit() else []
    found = [word + "s"]
    if word.endswith(("s", "x", "z", "ch", "sh", "o")) and len(word) > 2:
        found.append(word + "es")
    if word[-1] == "y" and len(word) > 3 and word[-2] not in "aeiou":
        found.append(word[:-1] + "ies")
    if word.endswith("sis") or word == "axis":
        found.append(word[:-2] + "es")
    if word.endswith("man") and len(word) > 4:
        found.append(word[:-3] + "men")
    if word in ("man", "woman"):
        found.append(word[:-2] + "en")
    found += [word[: -len(one)] + many for one, many in _IRREGULAR.items() if _ends(word, one)]
    return found


def _ends(word: str, last: str) -> bool:
    """Return whether a word is another one, or a compound that ends in it (housewife)."""
    return word == last or (len(last) > 4 and word.endswith(last))


def _singulars(word: str, name: bool) -> list[str]:
    if not word.isascii() or word in vocabulary.ALONE:
        return []
    found = [word[: -len(many)] + one for many, one in _SINGULAR.items() if _ends(word, many)]
    if (word.endswith("men") and len(word) > 5) or word == "men":
        found.append(word[:-2] + "an")
    if word.endswith(("lyses", "theses", "crises")):
        found.append(word[:-2] + "is")
    if word.endswith("s") and not word.endswith(("ss", "us", "is", "ics")):
        if word.endswith("ies") and len(word) > 4:
            found += [word[:-3] + "y", word[:-1]]
        elif word.endswith(("shes", "ches", "xes", "sses", "zzes", "oes")):
            found += [word[:-2], word[:-1]]
        else:
            found.append(word[:-1])
    least = 4 if name else 3
    return [one for one in found if len(one) >= least and not (name and one in vocabulary.COMMON)]


def _verbal(word: str, name: bool) -> list[str]:
    """Return the forms of the verb that a word is or is made of."""
    if not word.isascii() or not word.isalpha():
        return []
    found: list[str] = []
    if word.endswith("ing") and len(word) > 4 and word not in vocabulary.NO_VERB:
        for base in _bases(word[:-3]):
            if base in vocabulary.OPAQUE:
                found += [*_agents(base), *(_pasts(base) if base in vocabulary.SPORTS else ())]
            else:
                found += [base, *plurals(base), *_pasts(base), *_agents(base), word + "s"]
    elif word in vocabulary.ACTIVITIES or (name and len(word) >= 4):
        found += [*_pasts(word), *_gerunds(word)]
        if word in vocabulary.ACTIVITIES or len(word) >= 6:
            found += _agents(word)
    return found


_VOWELS = re.compile("[aeiou]+|(?<![aeiou])y")
_SHORT = re.compile(r"[^aeiou]*[aeiou][^aeiouwxy]")  # one vowel, one consonant: plan, not plain


def _bases(stem: str) -> list[str]:
    """Return the verbs of which a stem and `ing` may be made: runn -> run, hik -> hike."""
    groups = len(_VOWELS.findall(stem))
    if not groups:
        return []
    if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "aeiou":
        return [stem[:-1], stem] if stem[-1] in "lsfz" else [stem[:-1]]
    if (groups == 1 and _SHORT.fullmatch(stem)) or re.search("[cvuz]$|[^aeiourwl]l$|[dr]g$", stem):
        return [stem + "e"]
    if groups > 1 or stem[-1] in "sgz":
        return [stem, stem + "e"]
    return [stem]


def _doubled(base: str) -> list[str]:
    """Return a verb as it stands before `ed`, `er` and `ing`."""
    if base.endswith("e"):
        return [base[:-1]]
    if re.search(r"[^aeiou][aeiou][bdgklmnprt]$", base):
        return [base + base[-1]] if len(_VOWELS.findall(base)) == 1 else [base, base + base[-1]]
    return [base]


def _pasts(base: str) -> list[str]:
    if base.endswith("y") and base[-2:-1] not in "aeiou":
        made = [base[:-1] + "ied"]
    else:
        made = [stem + "ed" for stem in _doubled(base)]
    return _PAST[base].split() if base in _PAST else made


def _agents(base: str) -> list[str]:
    made = [stem + "er" for stem in _doubled(base)]
    return [*made, *(one + "s" for one in made)]


def _gerunds(base: str) -> list[str]:
    return [stem + "ing" for stem in (_doubled(base) if base[-2:] not in ("ee", "oe") else [base])]
