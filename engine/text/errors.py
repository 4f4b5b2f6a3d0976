"""The errors of this package."""


class TextError(ValueError):
    """A template, a stored graph or a JSON reply is not what it should be.

    The message says where, what was found, and what to do about it.
    """


class Misplaced(TextError):
    """Something wrong at an offset of a text; whoever knows the text's name says the place."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__(what)
        self.at = at

    def place(self, text: str, first_line: int = 1) -> str:
        """`line:column: what`, both counted from 1; the text begins at `first_line`."""
        line = text.count("\n", 0, self.at)
        column = self.at - text.rfind("\n", 0, self.at)
        return f"{line + first_line}:{column}: {self}"
