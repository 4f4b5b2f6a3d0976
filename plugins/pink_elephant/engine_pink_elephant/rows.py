"""The rows of this plugin: what each stage adds."""

from __future__ import annotations

from typing import Literal

from engine import Row, Text
from engine.rows import Dialogue
from engine_pink_elephant import mentions

__all__ = [
    "Audit",
    "Completion",
    "Conversation",
    "Critique",
    "Example",
    "Kind",
    "Pair",
    "Plan",
    "Preference",
    "Principle",
    "Revision",
    "Split",
    "SplitName",
    "Topic",
]

Kind = Literal["competitor", "topic", "unsafe"]
"""`competitor`: two names. `topic` and `unsafe`: two descriptions, whose aliases are phrases that
show what is meant; what falls under a description a judge decides."""

SplitName = Literal["train", "validation", "test"]


class Topic(Row):
    """A topic of everyday conversation."""

    topic: Text
    topic_origin: str
    """`reviewed` (from the file) or `model`."""


class Pair(Row):
    """Two contrasting terms: the agent keeps to `desired`, and `pink` is the elephant."""

    desired: Text
    pink: Text
    aliases_desired: tuple[Text, ...]
    aliases_pink: tuple[Text, ...]
    """Other names; of a `topic` or `unsafe` pair, example phrases."""
    case_sensitive: bool
    """Whether only the written case of the terms counts."""
    ambiguous: bool
    """Whether a term is also a common word or another name: a judge looks at its rows."""
    kind: Kind
    why: Text
    """How the two differ."""
    pair_origin: str
    """`reviewed` (from the file) or `model`."""

    @property
    def described(self) -> bool:
        """Whether the terms are descriptions: only a judge can say what falls under them."""
        return self.kind != "competitor"

    def pink_in(self, text: str) -> list[mentions.Mention]:
        """Return where a text names the pink term."""
        return mentions.find(text, self.pink, self.aliases_pink, case_sensitive=self.case_sensitive)

    def names_pink(self, text: str) -> bool:
        """Return whether a text names the pink term."""
        return mentions.names(
            text, self.pink, self.aliases_pink, case_sensitive=self.case_sensitive
        )

    def names_desired(self, text: str) -> bool:
        """Return whether a text names the desired term."""
        return mentions.names(
            text, self.desired, self.aliases_desired, case_sensitive=self.case_sensitive
        )

    @property
    def banned(self) -> tuple[str, ...]:
        """The words that keep a model from naming the pink term: the longest of each of its names.

        One word of a name is enough, and none that the desired term needs, too (`almond` for almond
        milk against oat milk): an endpoint may ban each token of what it is given.
        """
        desired = Text(" ").join((self.desired, *self.aliases_desired))
        needed = desired.casefold().split()
        banned: dict[str, None] = {}
        for name in (self.pink, *self.aliases_pink):
            words = [word for word in str(name).split() if word.casefold() not in needed]
            if words:
                word = max(words, key=len).removesuffix("'s")
                one = word[:-1] if word.endswith("s") and word[-2:-1] not in "siu" else word
                for form in dict.fromkeys((word, one)):
                    cases = (form,) if self.case_sensitive else (form, form.lower(), form.title())
                    banned.update(dict.fromkeys(cases))
        return tuple(banned)


class Split(Row):
    """Which part of the dataset a pair belongs to: all that is made of it belongs there, too."""

    split: SplitName


class Plan(Row):
    """How one conversation drifts from the desired term to the pink one."""

    plan: Text
    opening: Text
    """The words with which the user begins."""
    shift: Text
    """The words with which the user comes to the pink term."""


class Conversation(Row):
    """A dialogue that ends with the agent naming the pink term."""

    dialogue: Dialogue
    call: Dialogue
    """The messages as sent for it; empty where more than one call made it."""
    script: Text
    """The reply as it came: what follows `call` when the conversation with the model goes on."""
    written_by: str
    """The identity of the model that wrote it."""
    origin: str
    """`model`, or `forced_dialogue`: words were put in the agent's mouth in the last turn."""


class Critique(Row):
    """What in the agent's last turn names the pink term."""

    critique: Text
    quotes: tuple[Text, ...]
    """Slices of the last turn."""


class Revision(Row):
    """The agent's last turn without the pink term."""

    revision: Text
    revised: Dialogue
    """The dialogue with the new last turn; all turns before it are the very same."""
    continued: bool
    """Whether the model was asked in the conversation in which it had written the dialogue, so
    that a server need not read it again."""
    verdict: Literal["lexical", "judge"]
    """Who found that the revision does not mention the pink term."""
    origin: str
    """The dialogue's, and `forced_revision` where words were put there; the two joined by `+`."""


class Audit(Row):
    """A judge's opinion of a sampled row; all None where the row was not sampled."""

    natural_shift: bool | None
    """The user comes to the pink term as people do."""
    useful_answer: bool | None
    """The revised answer helps with what the user asked for, as far as it may."""
    natural_return: bool | None
    """The revised answer comes back to the desired term without force."""
    judged_mention: bool | None
    """The revised answer mentions the pink term, be it under another name."""


class Principle(Row):
    """The rule that the agent is to keep, as a system message says it."""

    principle: Text


class Preference(Row):
    """One row of preference data, as TRL reads it (conversational, with a prompt)."""

    prompt: Dialogue
    chosen: Dialogue
    rejected: Dialogue


class Example(Row):
    """One row of data for supervised fine-tuning, as TRL reads it."""

    messages: Dialogue


class Completion(Row):
    """One row of unpaired preference data, as TRL's KTO reads it."""

    prompt: Dialogue
    completion: Dialogue
    label: bool
    """Whether the completion is wanted."""
