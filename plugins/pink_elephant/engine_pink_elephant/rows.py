"""The rows of this plugin: what each stage adds."""

from __future__ import annotations

from engine import Row, Text
from engine.rows import Dialogue
from engine_pink_elephant import mentions

__all__ = ["Conversation", "Critique", "Pair", "Plan", "Preference", "Revision", "Topic"]


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
    case_sensitive: bool
    """Whether only the written case of the terms counts."""
    ambiguous: bool
    """Whether a term is also a common word or another name: look at these rows by hand or judge."""
    why: Text
    """How the two differ."""
    pair_origin: str
    """`reviewed` (from the file) or `model`."""

    def pink_in(self, text: str) -> list[tuple[int, int]]:
        """Return where a text names the pink term."""
        terms = (self.pink, *self.aliases_pink)
        return mentions.find(text, terms, case_sensitive=self.case_sensitive)

    def names_pink(self, text: str) -> bool:
        """Return whether a text names the pink term."""
        terms = (self.pink, *self.aliases_pink)
        return mentions.names(text, terms, case_sensitive=self.case_sensitive)

    def names_desired(self, text: str) -> bool:
        """Return whether a text names the desired term."""
        terms = (self.desired, *self.aliases_desired)
        return mentions.names(text, terms, case_sensitive=self.case_sensitive)

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
    origin: str
    """The dialogue's, and `forced_revision` where words were put there; the two joined by `+`."""


class Preference(Row):
    """One row of preference data, as TRL reads it (conversational, with a prompt)."""

    prompt: Dialogue
    chosen: Dialogue
    rejected: Dialogue
