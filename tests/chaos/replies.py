"""The model behind the server: its reply is a function of the request, and of nothing else.

A sample is part of the request, through its `seed`. The model knows the prompts of the pink
pipeline, answers by JSON Schema where one is asked for, and else says a few words. A fault of the
content is part of the function, too: the sample is bad whenever it is drawn.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CONTENTS", "Completion", "complete", "digest"]

Body = Mapping[str, Any]

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07 cleared",
    "\x1b]8;;http://x.invalid\x1b\\link\x1b]8;;\x1b\\ \x1b]52;c;cm0gLXJm\x07",
    "[bold red]markup[/nope] [link=http://x.invalid]here[/link]",
    "{{ cycler.__init__ }} {% raw %} ${HOME} $(touch owned) `reboot` %s {0}",
    "nul \x00 bell \x07 back \x08 delete \x7f c1 \x9b31m",
    "lone \ud800 surrogate \udfff",
    "bidi \u202e\u2066reversed\u2069 zero\u200bwidth \ufeffmark",
    "\r\nX-Injected: 1\r\n\r\n<script>alert(1)</script>",
    "'; DROP TABLE calls; -- =cmd|' /C calc'!A0",
    "../../../etc/passwd\x00.jsonl",
)
HUGE = 20 * 2**20
"""Characters of a reply that went on and on."""
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "islet", "jetty")


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model says, and why it ended."""

    text: str
    finish: str = "stop"

    def dumps(self, model: str) -> bytes:
        """Return the JSON of a chat completion; lone surrogates are its escapes."""
        tokens = len(self.text) // 4 + 1
        return json.dumps(
            {
                "id": "chatcmpl-chaos",
                "object": "chat.completion",
                "created": 0,
                "model": model,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": self.text},
                        "finish_reason": self.finish,
                    }
                ],
                "usage": {
                    "prompt_tokens": 100,
                    "completion_tokens": tokens,
                    "total_tokens": 100 + tokens,
                    "prompt_tokens_details": {"cached_tokens": 64},
                },
            }
        ).encode()


CONTENTS: Mapping[str, Callable[[Completion, random.Random], Completion]] = {
    "wrong_schema": lambda said, rng: Completion('{"unasked": [1, {"for": null}]}'),
    "not_json": lambda said, rng: Completion("Sure! Here is the JSON: {turns: [}"),
    "empty": lambda said, rng: Completion(""),
    "length": lambda said, rng: Completion(said.text[: len(said.text) // 3], "length"),
    "content_filter": lambda said, rng: Completion("", "content_filter"),
    "hostile": lambda said, rng: Completion(rng.choice(HOSTILE)),
    "huge": lambda said, rng: Completion("and so on " * (HUGE // 10), "length"),
}
"""Faults of the content: what is said in place of the reply."""


def digest(body: Body) -> str:
    """Return what tells a request, sample included, from all others."""
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()


def complete(
    body: Body, seed: int, contents: tuple[str, ...] = (), rate: float = 0.0
) -> Completion:
    """Return the reply to a request, in `rate` of the cases spoilt by one of `contents`."""
    said = Completion(_say(body, random.Random(f"{seed} {digest(body)}")))
    rng = random.Random(f"content {seed} {digest(body)}")
    # The list of topics is asked for by a source, which has no second attempt.
    source = re.match(r"List |Area: ", _asked(body)[0])
    if not contents or rng.random() >= rate or source:
        return said
    return CONTENTS[rng.choice(contents)](said, rng)


def _asked(body: Body) -> tuple[str, str]:
    """Return what the user asked, be it again, and the words that the reply goes on from."""
    *_, last = body["messages"]
    asked = [m["content"] for m in body["messages"] if m["role"] == "user"]
    first = next(a for a in reversed(asked) if not a.startswith("That will not do: "))
    return first, last["content"] if last["role"] == "assistant" else ""


def _say(body: Body, rng: random.Random) -> str:
    asked, prefix = _asked(body)
    if found := re.match(r"Good from seed (\d+): (.*)", asked):
        return found[2] if body["seed"] >= int(found[1]) else ""
    topics = ("garden birds", "card games", "wild berries")
    if found := re.match(r"List (\d+) new topics", asked):
        return "\n".join(topics[: int(found[1])])
    if found := re.match(r"Area: .*\. New topics: (\d+)\. Known: ", asked):
        made = [{"topic": topic, "probability": 0.1} for topic in topics[: int(found[1])]]
        return json.dumps({"topics": made})
    if found := re.match(r"Topic: .*\. New pairs: (\d+)\.( Used: )?", asked):
        terms = [(_name(rng), _name(rng)) for _ in range(int(found[1]))]
        if not found[2]:
            return "\n".join(f"{one} - {two}" for one, two in terms)
        return json.dumps({"pairs": [_pair(*pair) for pair in terms]})
    if points := re.findall(r"^\d+\. ", asked, re.MULTILINE):
        return json.dumps({"plans": [{"plan": _plan(*_terms(asked), rng)} for _ in points]})
    if "The user is" in asked:
        desired, pink = _terms(asked)
        plan = "" if prefix else f"A student asks about {desired} first."
        return f"{plan} In the end the question is whether {pink} would be {_word(rng)}."
    if asked.startswith("Turns:"):
        return _dialogue(body, *_terms(asked), prefix, rng)
    if found := re.search(r"Wanted: (.*)\. To avoid: (.*)\.", asked):
        return _revision(asked, found[1], found[2], prefix, rng)
    if schema := body.get("response_format"):
        return json.dumps(_value(schema["json_schema"]["schema"], rng))
    return f"{_word(rng)} {_word(rng)} {rng.randrange(1000)}"


def _pair(desired: str, pink: str) -> dict[str, Any]:
    names: dict[str, Any] = {"aliases_desired": [], "aliases_pink": []}
    rest = {"case_sensitive": False, "ambiguous": False, "why": "Both.", "probability": 0.1}
    return {"desired": desired, "pink": pink} | names | rest


def _plan(desired: str, pink: str, rng: random.Random) -> str:
    return (
        f"A student from {_name(rng)} who is fond of {_name(rng)} asks about {desired} first. On "
        f"the way to {_name(rng)} the question is whether {pink} would be {_word(rng)}."
    )


def _advice(desired: str, rng: random.Random) -> str:
    """Say what is said of nothing else: else one dialogue were nearly another."""
    one, two, three, four = (_name(rng) for _ in range(4))
    return (
        f"Yes, {desired} is a very {_word(rng)} choice. People from {one} to {two} say so, and "
        f"those who come from {three} like it with a little {four}."
    )


def _dialogue(body: Body, desired: str, pink: str, prefix: str, rng: random.Random) -> str:
    if "response_format" in body:
        turns = [
            ("user", f"I am thinking about {desired}. Is it a {_word(rng)} choice?"),
            ("assistant", _advice(desired, rng)),
            ("user", f"A friend told me about {pink}. What is that like?"),
            ("assistant", _praise(pink, rng)),
        ]
        return json.dumps({"turns": [{"role": role, "text": text} for role, text in turns]})
    return (
        f" Is it a {_word(rng)} choice?",
        f" {_advice(desired, rng)}",
        f" and is it {_word(rng)}?",
        f" {_praise(pink, rng)}",
    )[prefix.count("\n")]


def _revision(asked: str, desired: str, pink: str, prefix: str, rng: random.Random) -> str:
    if "Critique:" in asked:
        return _praise(desired, rng)
    if prefix:
        return f" recommend {desired} in its {_word(rng)} place."
    last = asked.rpartition("Agent: ")[2].partition("\n")[0]
    quote = last.partition(". ")[2].rstrip(".") or last
    return f'"{quote}" names {pink}. Say why {desired} is {_word(rng)}.'


def _praise(term: str, rng: random.Random) -> str:
    return f"It is nice. Many people love {term} for its {_word(rng)} character."


def _terms(asked: str) -> tuple[str, str]:
    found = re.search(r"First term: (.*)\. Second term: (.*?)\.(?: The user is| Plan:|\n)", asked)
    if found is None:
        raise ValueError(f"a prompt without its two terms: {asked[:200]!r}")
    return found[1], found[2]


def _word(rng: random.Random) -> str:
    return rng.choice(WORDS)


def _name(rng: random.Random) -> str:
    """Make up a name that no topic has."""
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(4))


def _value(schema: Mapping[str, Any], rng: random.Random) -> Any:
    """Make up a value of a JSON Schema without references."""
    match schema.get("type"):
        case "object":
            return {name: _value(part, rng) for name, part in schema["properties"].items()}
        case "array":
            return [_value(schema["items"], rng) for _ in range(rng.randrange(1, 4))]
        case "integer" | "number":
            return rng.randrange(100)
        case "boolean":
            return rng.random() < 0.5
        case _:
            return rng.choice(schema.get("enum") or WORDS)
