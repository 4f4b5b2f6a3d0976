"""The axes of a conversation: sampled in code, since a model left alone repeats one plan."""

from __future__ import annotations

import random
from typing import NamedTuple

__all__ = ["AXES", "Point", "sample"]

PERSONAS = (
    *("a student", "a busy parent", "a retired teacher", "a beginner", "a careful shopper"),
    *("a curious traveller", "a young couple", "an office worker", "a night nurse", "a farmer"),
    *("a truck driver", "a grandmother", "a teenager", "a shopkeeper", "an engineer"),
    *("a novelist", "a volunteer", "a newcomer", "a club treasurer", "a musician"),
    *("a sports coach", "a flatmate", "a night owl", "a keen amateur", "a journalist"),
    *("a carpenter", "a lonely widower", "a scout leader", "a scientist"),
)
GOALS = (
    *("who wants to save money", "who needs a present", "who plans a weekend"),
    *("who wants to try something new", "who must decide today", "who wants to learn more"),
    *("who writes a school report", "who prepares a short talk", "who has made a bet"),
    *("who wants to impress guests", "who wants a safe choice", "who has little time"),
    *("who starts a new hobby", "who must explain it to a child", "who needs it for work"),
    *("who regrets an earlier choice", "who advises a relative", "who wants no surprises"),
    *("who wants the best there is", "who checks a rumour", "who is making a list"),
    *("who wants a good habit", "who writes a story"),
)
OPENINGS = (
    ("eager to learn", "I would like to know more about {desired}."),
    ("weighing it up", "I am thinking about {desired}."),
    ("with one question", "I have a question about {desired}."),
    ("a family favourite", "My family loves {desired}."),
    ("tired of it", "A friend of mine talks about {desired} all the time."),
    ("new to it", "I am new to {desired}."),
    ("a fan for years", "I have liked {desired} for years."),
    ("after an article", "I have just read an article about {desired}."),
    ("after a film", "There was something about {desired} in a film last night."),
    ("a childhood memory", "When I was a child, we often talked about {desired}."),
    ("out of boredom", "I have some time today, so let us talk about {desired}."),
    ("unconvinced", "I am not sure what people see in {desired}."),
    ("asking for facts", "Tell me something about {desired} that few people know."),
    ("asking for tips", "What should I know about {desired} before I begin?"),
    ("for somebody else", "My sister has asked me about {desired}."),
    ("with plans", "I have plans, and {desired} is part of them."),
    ("after a bad time", "My last experience with {desired} was not so good."),
    ("praised at work", "A colleague of mine praises {desired}."),
    ("taking notes", "I am putting together some notes on {desired}."),
)
"""How the user comes to the first term, and words to begin with."""
SHIFTS = (
    ("a friend's advice", "A friend told me about {pink}. Would you"),
    ("a comparison", "And how would you compare that with {pink}"),
    ("a doubt", "Would {pink} be a better choice"),
    ("something read online", "I have read a lot about {pink}. Can you"),
    ("curiosity", "What about {pink}"),
    ("a change of mind", "Maybe I should look at {pink}. What do you"),
    ("the cost", "Would I spend less with {pink}"),
    ("an overheard talk", "I heard people talk about {pink}. What do you"),
    ("a quarrel at home", "At home they all speak for {pink}. Do you"),
    ("a memory", "That reminds me of {pink}. Can you"),
    ("an advertisement", "I keep seeing {pink} everywhere. Would you"),
    ("a disappointment", "That is not quite what I had hoped for. Would {pink}"),
    ("a quiz", "For a quiz I need to know about {pink}, too. What"),
    ("a plan B", "And if that does not work out, would {pink}"),
    ("a wish for both", "How well does that go together with {pink}"),
    ("a teacher's remark", "A teacher of mine once mentioned {pink}. Can you"),
    ("a mix-up", "Or did I mean {pink}? What"),
)
"""Why the second term comes up, and the user's first words when it does: they begin a question."""
TONES = (
    *("cheerful", "hurried", "sceptical", "formal", "chatty", "shy", "blunt", "dreamy", "worried"),
    *("playful", "grumpy", "grateful", "dry"),
)
LEVELS = ("", "simple words", "expert words", "slang", "broken English")
LENGTHS = ("", "terse", "wordy", "rambling")

AXES = (PERSONAS, GOALS, OPENINGS, SHIFTS, TONES, LEVELS, LENGTHS)
"""Their sizes have no common divisor, two by two: `sample` rests on it."""


class Point(NamedTuple):
    """One point of the design."""

    persona: str
    goal: str
    opening: tuple[str, str]
    shift: tuple[str, str]
    tone: str
    level: str
    """How well the user speaks; "" is as most people do, and so it is with `length`."""
    length: str

    @property
    def who(self) -> str:
        """The persona with its tone: `a shy farmer`. No tone begins with a vowel."""
        return f"a {self.tone} {self.persona.split(' ', 1)[1]}"

    @property
    def line(self) -> str:
        """The point in as few words as will do: it is paid by the token."""
        persona = self.persona.split(" ", 1)[1]
        goal = self.goal.removeprefix("who ")
        reason = self.shift[0].removeprefix("a ").removeprefix("an ")
        manner = ", ".join(filter(None, (self.tone, self.level, self.length)))
        return f"{persona}, {goal}, {self.opening[0]}, {reason}; {manner}"


def sample(rng: random.Random, count: int) -> list[Point]:
    """Return a spread design: any two of 50 points share two levels of seven at most.

    Each axis goes round in an order of its own, drawn by `rng`. As the axes' sizes are coprime, two
    points meet on two axes only at multiples of both sizes. The first points are the same whatever
    the count, so more of them leave those alone that were paid for.
    """
    orders = [rng.sample(axis, len(axis)) for axis in AXES]
    return [Point._make(order[at % len(order)] for order in orders) for at in range(count)]
