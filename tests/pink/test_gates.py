"""Each gate, reached by the shortest text that it is there for."""

from dataclasses import replace

import pytest
from engine_pink_elephant import gates, prose
from engine_pink_elephant.rows import Pair

from engine import Text

BANDS = gates.Bands(similarity=(0.1, 0.95), length=(0.4, 2.5))
ORIGINAL = "Yes, coffee is a good choice for the morning."


def reason(fault: gates.Fault | None) -> str | None:
    return fault.reason if fault else None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("A plain text.", None),
        ("Newer than our tables: \U0001fae8", None),
        ("", "empty"),
        (" \n\t ", "empty"),
        ("a" * 1_000_000, "too_long"),
        ("nul \x00", "unprintable"),
        ("bell \x07 and escape \x1b[31m", "unprintable"),
        ("half a pair \ud800", "unprintable"),
        ("Hello {{name}}", "debris"),
        ("Dear [your name]", "debris"),
        ("<|im_start|>", "debris"),
        ("Fine. User: and what now", "debris"),
        ("Here is a plan: `{ return x }` in her second term.", None),
        ('As it says, "To avoid: coffee"', "debris"),
        ("It is a good game. It is a good game. It is a good game.", "repetitive"),
    ],
)
def test_prose(text: str, fault: str | None) -> None:
    assert reason(gates.prose_fault(text)) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("board games", None),
        ("Dr. Seuss' books", None),
        ("a list of very many words", "not_a_term"),
        ("- drinks", "not_a_term"),
        ("two\nlines", "not_a_term"),
        ("x" * 41, "too_long"),
    ],
)
def test_term(text: str, fault: str | None) -> None:
    assert reason(gates.term(text)) == fault


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"pink": "Teas", "aliases_pink": ()}, "same_term"),
        ({"desired": "Pepsi", "pink": "Pepsi Max", "aliases_pink": ()}, "terms_overlap"),
        ({"desired": "coffee beans", "aliases_desired": ()}, "terms_overlap"),
        ({"aliases_pink": ("tea latte",)}, "aliases_overlap"),
        ({"aliases_desired": ("an espresso",)}, "aliases_overlap"),
        ({"desired": "Nike"}, "copied_example"),
        ({"desired": "?"}, "not_a_term"),
        ({"pink": ""}, "empty"),
    ],
)
def test_pair(pair: Pair, changes: dict[str, str], fault: str | None) -> None:
    assert reason(gates.pair(replace(pair, **changes))) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("A student asks about tea, and then about coffee.", None),
        ("A student asks about coffee.", "plan_without_desired"),
        ("A student asks about tea.", "plan_without_pink"),
        ("From tea to coffee, by Taj Mahal.", "copied_example"),
        ("A student asks about tea, and coffee is the second term.", "debris"),
    ],
)
def test_plan(pair: Pair, text: str, fault: str | None) -> None:
    assert reason(gates.plan(text, pair)) == fault


@pytest.mark.parametrize(
    ("at", "text", "fault"),
    [
        (0, "I like green teas.", None),
        (0, "I like water.", None),
        (0, "I like tea, but also a latte.", "pink_too_early"),
        (1, "Try nikes.", "copied_example"),
        (1, "The reply should be short.", "leaked_instructions"),
        (3, "Coffee is for the morning.", "pink_too_early"),
        (4, "What about coffee?", None),
        (4, "Tell me about coffee.", None),
        (4, "And now?", "question_without_pink"),
        (4, "I drink coffee.", "question_not_asked"),
        (5, "Try an espresso.", None),
        (5, "Try it.", "reply_without_pink"),
        (5, "I'm sorry, I cannot say anything on coffee.", "refusal"),
    ],
)
def test_turn(pair: Pair, at: int, text: str, fault: str | None) -> None:
    assert reason(gates.turn(text, at, 6, pair)) == fault


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (["I like tea."], None),
        (["I like water.", "Why?", "Green tea is better."], None),
        (["I like water.", "Why?", "It is cold.", "Tea is hot."], "opening_without_desired"),
    ],
)
def test_opening(pair: Pair, texts: list[str], fault: str | None) -> None:
    assert reason(gates.opening(texts, pair)) == fault


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (["user", "assistant"] * 2, None),
        (["user", "assistant"], "roles_off"),
        (["user", "assistant", "user"], "roles_off"),
        (["assistant", "user"] * 2, "roles_off"),
        (["user", "user", "assistant", "assistant"], "roles_off"),
    ],
)
def test_roles(said: list[str], fault: str | None) -> None:
    assert reason(gates.roles(said)) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Green tea is mild and cheap, and you can drink it all day.", None),
        (
            "Gr\u00fcner Tee ist mild und billig, und man kann ihn den ganzen Tag trinken.",
            "language_off",
        ),
        (
            "Le th\u00e9 vert est doux et pas cher, on peut en boire toute la journ\u00e9e.",
            "language_off",
        ),
        (
            "\u7eff\u8336\u5f88\u6e29\u548c\uff0c\u4e5f\u5f88\u4fbf\u5b9c\uff0c\u4f60\u53ef\u4ee5\u6574\u5929\u559d\u5b83\uff0c\u8fd9\u5bf9\u8eab\u4f53\u5f88\u597d\u3002",
            "language_off",
        ),
        ("OK!", None),
    ],
)
def test_language(text: str, fault: str | None) -> None:
    assert reason(gates.wrong_language(text, "en")) == fault
    assert gates.wrong_language(text, None) is None


def test_a_description_is_left_to_the_judge(pair: Pair) -> None:
    garden = replace(pair, kind="topic", desired=Text("gardening"), pink=Text("medicines"))
    assert gates.turn("I drink tea.", 0, 4, garden, judged=True) is None
    assert gates.opening(["I drink tea."] * 4, garden) is None
    assert gates.plan("Soil, and then an aching back.", garden) is None
    assert gates.critique("It goes into pills.", ["pills"], garden, judged=True) is None
    text = "Yes, mint is a good choice for the morning."
    assert gates.revision(text, ORIGINAL, [], garden, BANDS, judged=True) is None


def test_every_fault_of_a_reply_has_advice_for_the_retry(pair: Pair) -> None:
    fault = gates.revision("Yes, a latte is a good choice.", ORIGINAL, [], pair, BANDS)
    assert fault == ("names_pink", "latte")
    assert fault.reason in gates.ADVICE


@pytest.mark.parametrize(
    ("quotes", "fault"),
    [
        (["Try an espresso"], None),
        (["Try", None, "an espresso"], None),
        ([], "no_quote"),
        ([None, "an espresso"], "quote_not_found"),
        (["Try"], "quote_without_pink"),
    ],
)
def test_critique(pair: Pair, quotes: list[str | None], fault: str | None) -> None:
    assert reason(gates.critique("It names coffee.", quotes, pair)) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Yes, tea is a good choice for the morning.", None),
        ("Yes, a latte or a tea is a good choice.", "names_pink"),
        ("Yes, it is a good choice for the morning.", "desired_missing"),
        ("I'm not able to talk about that; tea is good.", "refusal"),
        ("As an AI I prefer tea for the morning.", "refusal"),
        ("I was told to stay with tea in the morning.", "leaked_instructions"),
        ("Tea is good, and the other one is not.", "coy_reference"),
        ("Nike makes a good tea for the morning.", "copied_example"),
        ("Tea is  what people drink!", "echo"),
        ("Yes, tea is what people drink.", "echo"),
        ("Tea is mild: change what is needed, and no more.", "leaked_instructions"),
        ("Yes, tea is a good choice for the.", "unfinished"),
        ("Yes, tea is a good choice, so.", "unfinished"),
        ("Yes, tea is a good choice, or so I think so.", None),
        ("Tea!", "length_off"),
        ("Tea " + " ".join(map(str, range(50))), "length_off"),
        ("My aunt drinks green tea every single day", "similarity_off"),
        ("Yes, coffee is a good choice for the morning.".replace("coffee", "tea"), None),
    ],
)
def test_revision(pair: Pair, text: str, fault: str | None) -> None:
    earlier = ["What is tea?", "Tea is what people drink."]
    assert reason(gates.revision(text, ORIGINAL, earlier, pair, BANDS)) == fault


def test_a_revision_must_differ(pair: Pair) -> None:
    tea_for_coffee = replace(pair, desired=Text("choice"))
    bands = BANDS._replace(similarity=(0.1, 0.8))
    text = ORIGINAL.replace("coffee", "it")
    assert reason(gates.revision(text, ORIGINAL, [], tea_for_coffee, bands)) == "similarity_off"


def test_what_needs_the_example_terms_may_name_them(pair: Pair) -> None:
    shoes = replace(pair, desired=Text("Puma"), pink=Text("Adidas"), aliases_pink=())
    assert gates.turn("Puma, not Nike.", 0, 4, shoes) is None


def test_banned_words_leave_the_desired_term_free(pair: Pair) -> None:
    milk = replace(pair, desired=Text("oat milk"), pink=Text("almond milk"), aliases_pink=("Milk",))
    assert set(milk.banned) == {"almond", "Almond"}
    go = replace(pair, pink=Text("Go"), aliases_pink=(Text("Golang"),), case_sensitive=True)
    assert go.banned == ("Go", "Golang")


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("none", None),
        ("“is none of  mine.”", "is none of mine"),
        ("Nonebun IS", "Nonebun is"),
        ("红茶", "红茶"),
        ("Tea", None),
    ],
)
def test_a_quote_is_found_where_it_cuts_no_word(quote: str, found: str | None) -> None:
    text = Text("Nonebun is nonesuch. It is none of mine: 我喜欢红茶吗")
    assert prose.locate(quote, text if found else text[:20]) == found


def test_a_quote_may_leave_an_ending() -> None:
    assert prose.locate("kayak", Text("Two kayaks and a kayaker.")) == "kayak"
    assert prose.locate("ayaks", Text("Two kayaks and a kayaker.")) is None
