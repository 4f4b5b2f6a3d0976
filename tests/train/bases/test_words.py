"""The tokenizer of words: what it knows, and that nothing but spaces is lost."""

import re

import pytest
from engine_train.errors import TrainingError
from engine_train.words import word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

TEXTS = ["Red, red green! It's a_b.", "green (blue) one\ntwo"]


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=30), min_size=1)
)
def test_a_text_is_the_same_but_for_its_spaces(texts: list[str]) -> None:
    tokenizer, unknown = word_tokenizer([*texts, "word"])
    assert unknown == 0
    for text in texts:
        assert squeezed(tokenizer.decode(tokenizer(text)["input_ids"])) == squeezed(text)


def test_the_order_of_the_texts_changes_nothing() -> None:
    one, _ = word_tokenizer(TEXTS)
    other, _ = word_tokenizer(reversed(TEXTS))
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    words = sorted(one.get_vocab(), key=one.get_vocab().__getitem__)
    assert words[8:] == sorted(words[8:])


def test_the_most_frequent_words_are_kept_and_the_others_counted() -> None:
    tokenizer, unknown = word_tokenizer(["a a a b b c d d d d"], words=["z"], max_words=3)
    assert sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) == [
        "a",
        "d",
        "z",
    ]
    assert unknown == 3
    assert tokenizer.decode(tokenizer("a b z c")["input_ids"]) == "a <unk> z <unk>"


def test_turns_begin_with_their_role_and_the_assistants_end() -> None:
    tokenizer, _ = word_tokenizer(["red green blue"])
    turns = [
        {"role": "system", "content": "blue"},
        {"role": "user", "content": "red"},
        {"role": "assistant", "content": "green"},
    ]
    asked = tokenizer.apply_chat_template(turns[:2], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(
        turns, return_dict=True, return_assistant_tokens_mask=True
    )
    ids = whole["input_ids"]
    assert ids[: len(asked)] == asked
    assert tokenizer.decode(ids) == "<|system|> blue <|user|> red <|assistant|> green <eos>"
    assert whole["assistant_masks"] == [0, 0, 0, 0, 0, 1, 1]
    assert tokenizer.unk_token_id not in ids


def test_no_words_are_no_tokenizer() -> None:
    with pytest.raises(TrainingError, match="no word is in the dataset's texts"):
        word_tokenizer(["  \n", ""])
