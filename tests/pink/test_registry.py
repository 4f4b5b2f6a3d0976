"""The registry of pairs, and the split: no pair twice, no name on both sides of a wall."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest
from engine_pink_elephant import mentions, naming
from engine_pink_elephant.registry import unique_pairs
from engine_pink_elephant.rows import Pair
from engine_pink_elephant.splits import TopicPair, split
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Context, Reject, Text
from engine.testing import collect

pytestmark = pytest.mark.anyio


def pair(
    desired: str,
    pink: str,
    aliases_desired: Sequence[str] = (),
    aliases_pink: Sequence[str] = (),
    *,
    topic: str = "a topic",
    kind: Any = "competitor",
) -> TopicPair:
    return TopicPair(
        desired=Text(desired),
        pink=Text(pink),
        aliases_desired=tuple(map(Text, aliases_desired)),
        aliases_pink=tuple(map(Text, aliases_pink)),
        case_sensitive=False,
        ambiguous=False,
        kind=kind,
        why=Text(),
        pair_origin="model",
        topic=Text(topic),
    )


async def stream(rows: Iterable[Any]) -> AsyncIterator[Any]:
    for row in rows:
        yield row


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("The Beatles", "beatles", True),
        ("McDonald's", "McDonalds", True),
        ("Pok\u00e9mon", "Pokemon", True),
        ("cookie", "Cookies", True),
        ("cherry", "cherries", True),
        ("peach", "peaches", True),
        ("potato", "potatoes", True),
        ("glass", "glasses", True),
        ("Coca-Cola", "Coca Cola", True),
        ("H&M", "H and M", True),
        ("Disney+", "Disney Plus", True),
        ("C++", "C#", False),
        ("C", "C++", False),
        ("bus", "bu", False),
        ("Pepsi", "Pepsi Max", False),
        ("+", "\u2014", False),
    ],
)
def test_the_key_of_a_name(one: str, two: str, same: bool) -> None:
    assert (naming.canonical(one) == naming.canonical(two)) is same


class TestRegistry:
    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            (["a b", "B A's", "a c", "a d", "a e", "b c"], "kept repeated kept kept over kept"),
            (["Coca-Cola=Coke Pepsi", "Coke Pepsi"], "kept repeated"),
            (["Coke Pepsi", "Coca-Cola=Coke Pepsi"], "kept repeated"),
            (["Coca-Cola=Coke Pepsi", "Coke Coca-Cola"], "kept same"),
            (["a b", "a=b c"], "kept two"),
            (["a=x b", "c=x d", "x e"], "kept kept two"),
            (["a b=a"], "same"),
        ],
    )
    async def test_an_alias_stands_for_its_term(self, rows: list[str], said: str) -> None:
        made = []
        for row in rows:
            (one, *first), (two, *second) = (side.split("=") for side in row.split())
            made.append(pair(one, two, first, second))
        reasons = {"repeated": "pair_repeated", "over": "term_overused", "same": "same_term"}
        reasons |= {"two": "names_two_terms"}
        out = await collect(unique_pairs(stream(made)))
        assert [getattr(row, "reason", "kept") for row in out] == [
            reasons.get(word, word) for word in said.split()
        ]

    async def test_a_phrase_that_shows_a_description_is_no_name_of_it(self) -> None:
        rows = [
            pair("cooking", "diets", ["a quick supper"], kind="topic"),
            pair("a quick supper", "takeaways", kind="topic"),
        ]
        assert await collect(unique_pairs(stream(rows))) == rows

    @settings(max_examples=200, deadline=None)
    @given(
        rows=st.lists(
            st.builds(
                pair,
                *[st.sampled_from("abcdefgh")] * 2,
                *[st.lists(st.sampled_from("abcdefgh"), max_size=2)] * 2,
            ),
            max_size=30,
        ),
        cap=st.integers(1, 4),
    )
    async def test_no_two_pairs_are_one_whatever_their_terms_are_called(
        self, rows: list[Pair], cap: int
    ) -> None:
        out = await collect(unique_pairs(stream(rows), cap=cap))
        kept = [row for row in out if not isinstance(row, Reject)]
        assert len(out) == len(rows)
        assert kept[:1] == rows[:1] or out[0].reason == "same_term"
        # Names are one where one of them is an alias of the other, and both are terms.
        one = {name: {name} for row in kept for name in (row.desired, row.pink)}
        for row in kept:
            for term, others in ((row.desired, row.aliases_desired), (row.pink, row.aliases_pink)):
                for other in {*others} & one.keys():
                    both = one[term] | one[other]
                    for name in both:
                        one[name] = both
        found = [frozenset({min(one[row.desired]), min(one[row.pink])}) for row in kept]
        assert len({*found}) == len(found)
        assert all(len(terms) == 2 for terms in found)
        assert max(Counter(term for terms in found for term in terms).values(), default=0) <= cap


NAMES = [a + b + c for a in "bdkt" for b in "aeiou" for c in ("rro", "lma", "nti", "sko")]
"""Made-up names, none of which is another's plural."""


@st.composite
def categories(draw: Any) -> list[TopicPair]:
    """Pairs of brands that stand in a category or two, and may bear a name of two words."""
    rows = []
    for topic in range(draw(st.integers(3, 8))):
        names = draw(st.lists(st.sampled_from(NAMES), min_size=4, max_size=12, unique=True))
        names = [draw(st.sampled_from(("", "Royal "))) + name for name in names]
        for at in range(0, len(names) - 3, 4):
            one, two, *others = names[at : at + 4]
            rows.append(pair(one, two, others[:1], others[1:], topic=NAMES[topic] + " goods"))
    return rows


async def parted(rows: list[TopicPair], seed: int = 1, **shares: float) -> Any:
    """Return each row's part, None where it was dropped, in order."""
    out = await collect(split(stream(rows), ctx=Context("split", seed=seed), **shares))
    given = [row.row for row in out]
    assert all(one is two for one, two in zip(given, rows, strict=True))
    dropped = {row.reason for row in out if isinstance(row, Reject)}
    assert dropped <= {"crossing_pair"}
    return [None if isinstance(row, Reject) else row.added.split for row in out]


def names(row: Pair) -> list[str]:
    return [row.desired, row.pink, *row.aliases_desired, *row.aliases_pink]


class TestSplit:
    @settings(max_examples=60, deadline=None)
    @given(rows=categories(), seed=st.integers(0, 3))
    async def test_no_name_is_shared_and_topics_stay_whole(
        self, rows: list[TopicPair], seed: int
    ) -> None:
        parts = await parted(rows, seed, validation=0.2, test=0.2)
        assert "test" in parts  # it loses nothing
        of: dict[str, set[str]] = {}
        for row, part in zip(rows, parts, strict=True):
            if part is not None:
                of.setdefault(row.topic, set()).add(part)
        assert all(len(found) == 1 for found in of.values())
        kept = [(row, part) for row, part in zip(rows, parts, strict=True) if part]
        for row, part in kept:
            for other, another in kept:
                if part != another:
                    told = " / ".join(names(other))
                    assert not {*map(naming.canonical, names(row))} & {
                        *map(naming.canonical, names(other))
                    }
                    assert not mentions.names(told, row.pink, row.aliases_pink)
                    assert not mentions.names(told, row.desired, row.aliases_desired)

    @settings(max_examples=100, deadline=None)
    @given(
        sizes=st.lists(st.integers(1, 9), min_size=3, max_size=9),
        test=st.floats(0.01, 0.6),
        validation=st.floats(0.01, 0.39),
    )
    async def test_shares_are_as_near_as_whole_topics_allow(
        self, sizes: list[int], test: float, validation: float
    ) -> None:
        rows = [
            pair(f"one{t}x{n}", f"two{t}x{n}", topic=f"{NAMES[8 * t]} {NAMES[8 * t + 5]}")
            for t, size in enumerate(sizes)
            for n in range(size)
        ]
        parts = Counter(await parted(rows, validation=validation, test=test))
        assert {*parts} == {"train", "validation", "test"}
        fewest = {0: 0}  # each sum: how many topics it takes
        for size in sizes:
            for total, count in [*fewest.items()]:
                fewest[total + size] = min(fewest.get(total + size, 99), count + 1)
        target = test * len(rows)
        possible = [t for t, count in fewest.items() if 1 <= count <= len(sizes) - 2]
        assert abs(parts["test"] - target) == min(abs(t - target) for t in possible)

    async def test_a_brand_in_two_categories_is_dropped_from_train(self) -> None:
        rows = [
            *(pair(f"car{n}", f"van{n}", topic="cars") for n in range(9)),
            *(pair(f"amp{n}", f"horn{n}", topic="music") for n in range(8)),
            pair("Yamaha", "Roland", topic="music"),
            *(pair(f"moto{n}", f"trike{n}", topic="motorcycles") for n in range(8)),
            pair("Ducati", "Yamaha Motor", topic="motorcycles"),
        ]
        seen = set()
        for seed in range(12):
            parts = await parted(rows, seed, validation=0, test=0.4)
            music, bikes = parts[17], parts[-1]
            assert "test" in (music, bikes) or music == bikes == "train"
            assert (music is None) == (bikes == "test")
            assert (bikes is None) == (music == "test")
            seen.add((music, bikes))
        assert len(seen) > 1  # another seed, another split

    @pytest.mark.parametrize(
        ("trained", "tested"),
        [
            ("a diet of skis", "skiing"),
            ("Yamaha Motor", "Yamaha"),
            ("Yamaha", "Yamaha Motor"),
            ("CocaCola Zero", "Coca-Cola"),
            ("cities", "the City"),
        ],
    )
    async def test_a_name_is_shared_where_it_is_named(self, trained: str, tested: str) -> None:
        rows = [
            *(pair(f"car{n}", f"van{n}", topic="cars") for n in range(9)),
            pair("truck", "lorry", aliases_pink=[trained], topic="cars"),
            pair("moped", tested, topic="motorcycles"),
        ]
        assert await parted(rows, validation=0, test=0.1) == ["train"] * 9 + [None, "test"]

    async def test_topics_that_are_one_stay_together(self) -> None:
        found = ("running shoes", "shoes for running", "trail running shoes", "tea")
        rows = [pair(f"one{n}", f"two{n}", topic=topic) for n, topic in enumerate(found)]
        parts = await parted(rows, validation=0, test=0.2)
        assert parts == ["train"] * 3 + ["test"]

    async def test_without_shares_all_is_for_training(self) -> None:
        rows = [pair("a", "b"), pair("a", "b")]
        assert await parted(rows, validation=0, test=0) == ["train", "train"]

    async def test_the_rows_order_does_not_matter(self) -> None:
        rows = [pair(f"one{n}", f"two{n}", topic=f"{NAMES[7 * n % 80]} goods") for n in range(20)]
        forth = await parted(rows, validation=0.2, test=0.2)
        back = await parted(rows[::-1], validation=0.2, test=0.2)
        assert forth == back[::-1]

    @pytest.mark.parametrize(
        ("topics", "parts", "said"),
        [
            (["tea", "teas"], ["train", "train"], ["test", "validation"]),
            (["tea", "tea", "cars"], ["train", "train", "test"], ["validation"]),
            ([], [], ["test", "validation"]),
        ],
    )
    async def test_with_too_few_topics_the_log_says_what_is_left_out(
        self, caplog: Any, topics: list[str], parts: list[str], said: list[str]
    ) -> None:
        rows = [pair(f"one{n}", f"two{n}", topic=topic) for n, topic in enumerate(topics)]
        assert await parted(rows, validation=0.1, test=0.2) == parts
        assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == said

    async def test_shares_of_all_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"test 0.6 and validation 0.4 leave nothing"):
            await parted([pair("a", "b")], validation=0.4, test=0.6)
