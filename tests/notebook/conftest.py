"""What the tests of a notebook's views share: a page as a browser would read it."""

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

TAGS = {"b", "code", "div", "i", "span", "sup", "table", "td", "th", "tr"}
STYLE = re.compile(r"(?:[a-z-]+:[a-z0-9 .,()#-]+;?)+")


class Shown(HTMLParser):
    """What a browser would make of it: the words, the titles, and no element but ours."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words, self.titles, self.open = "", [], []
        self.feed(page)
        self.close()
        assert not self.open, "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        self.open.append(tag)
        for name, value in attrs:
            assert value is not None
            match name:
                case "style":
                    assert STYLE.fullmatch(value), value
                    assert "url" not in value
                case "title":
                    self.titles.append(value)
                case _:
                    assert (name, value) == ("dir", "auto")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "sup" not in self.open:
            self.words += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    handle_decl = handle_pi = unknown_decl = handle_comment


@pytest.fixture(scope="session")
def show() -> Callable[[str], Shown]:
    return Shown
