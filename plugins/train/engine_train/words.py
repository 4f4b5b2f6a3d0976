"""A word-level tokenizer, built from a dataset: for models that are trained from nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from engine_train.errors import TrainingError

__all__ = ["SPECIAL", "TEMPLATE", "word_tokenizer"]

PAD, UNKNOWN, BEGIN, END = "<pad>", "<unk>", "<bos>", "<eos>"
SPECIAL = (PAD, UNKNOWN, BEGIN, END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
"""The tokens that come first, whatever the texts are; no text is read as one of them but itself."""

TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|> "
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<eos>{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
"""A chat template: each turn begins with its role, and the assistant's ends with `<eos>`."""


def word_tokenizer(
    texts: Iterable[str], *, words: Sequence[str] = (), max_words: int | None = None
) -> tuple[Any, int]:
    """Return a tokenizer of the words in `texts`, and how many words of them it does not know.

    A word is what stands between spaces, punctuation marks being words of their own: so a text
    that is decoded again is the same up to its spaces. The words are sorted: the order of the texts
    changes nothing. `words` are added, though they be in no text. Of more than `max_words` the most
    frequent are kept, and the others become `<unk>`. Raises TrainingError if there is no word.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Punctuation, WhitespaceSplit
    from tokenizers.pre_tokenizers import Sequence as Steps
    from transformers import PreTrainedTokenizerFast

    split = Steps([WhitespaceSplit(), Punctuation("isolated")])
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in split.pre_tokenize_str(text))
    kept = {word for text in words for word, _ in split.pre_tokenize_str(text)}
    if not counts and not kept:
        raise TrainingError("no word is in the dataset's texts, of which a tokenizer could be made")
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    if max_words is not None:
        ranked = [word for word in ranked if word not in kept][: max(0, max_words - len(kept))]
    kept |= set(ranked)
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(kept - set(SPECIAL))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=list(SPECIAL[4:]),
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.chat_template = TEMPLATE
    return fast, sum(count for word, count in counts.items() if word not in kept)
