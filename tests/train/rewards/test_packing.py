"""Two replies to one prompt share a row, and are scored as if each stood alone."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from engine_train.errors import TrainingError
from engine_train.packing import Tokens, cut, encode, pair, paired, plain, why_not
from engine_train.rewards import RewardModel, token_scores

TOKENS = 40


def pairs(count: int = 12) -> list[tuple[Tokens, Tokens]]:
    """Return pairs with every odd case: equal beginnings, one reply inside the other, no prompt."""
    draw = random.Random(1)

    def some(low: int, high: int) -> list[int]:
        return [draw.randrange(2, TOKENS) for _ in range(draw.randint(low, high))]

    found = []
    for _ in range(count):
        prompt, begin = some(0, 9), some(0, 3)
        one, two = begin + some(1, 7), begin + some(1, 7)
        found.append((Tokens(prompt + one, len(prompt)), Tokens(prompt + two, len(prompt))))
    found.append((Tokens([5, 6, 7], 2), Tokens([5, 6, 7, 8], 2)))
    found.append((Tokens([9, 6], 0), Tokens([5], 0)))
    found.append((Tokens([5, 6, 7], 1), Tokens([5, 6, 7], 1)))
    return found


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt_neox"])
def test_packed_rewards_are_those_of_sequences_alone(
    models: Callable[..., Any], kind: str, attention: str, pooling: str
) -> None:
    model = RewardModel(models(kind, attention=attention), None)
    model.pooling = pooling
    assert model.packs
    alone = [model.score([tokens])[0] for both in pairs() for tokens in both]
    packed = [reward for both in model.score_pairs(pairs()) for reward in both]
    assert packed == pytest.approx(alone, abs=1e-5)
    assert max(alone) - min(alone) > 0.1


@pytest.mark.parametrize("kind", ["mistral", "falcon", "bloom"])
def test_a_model_that_cannot_share_rows_reads_two(models: Callable[..., Any], kind: str) -> None:
    attention = "eager" if kind == "bloom" else "sdpa"
    found = models(kind, attention=attention)
    assert why_not(found) is not None
    model = RewardModel(found, None)
    alone = [model.score([tokens])[0] for both in pairs() for tokens in both]
    assert [r for both in model.score_pairs(pairs()) for r in both] == pytest.approx(
        alone, abs=1e-5
    )


def test_a_shared_row_is_shorter_by_the_prompt() -> None:
    prompt = list(range(2, 22))
    one, two = Tokens([*prompt, 30, 31], 20), Tokens([*prompt, 32, 33, 34], 20)
    packed = paired([(one, two)], 0, "mean")
    assert packed.tokens == 25
    assert plain([one, two], 0, "mean").tokens == 45
    positions = packed.inputs["position_ids"][0].tolist()
    assert positions == [*range(20), 20, 21, 20, 21, 22]


def test_replies_do_not_see_each_other(models: Callable[..., Any]) -> None:
    model = models("llama")
    prompt = [5, 6, 7]
    scores = []
    for other in ([8, 9], [20, 21]):
        batch = paired([(Tokens([*prompt, *other], 3), Tokens([*prompt, 30, 31], 3))], 0, "mean")
        scores.append(batch.rewards(token_scores(model, batch)[0]).tolist())
    assert scores[0][1] == pytest.approx(scores[1][1], abs=1e-6)
    assert abs(scores[0][0] - scores[1][0]) > 1e-3


def test_gradients_are_those_of_sequences_alone(models: Callable[..., Any]) -> None:
    model, found = models("llama"), []
    for packed in (True, False):
        model.zero_grad()
        both = pairs(4)
        batch = (
            paired(both, 0, "mean") if packed else plain([t for p in both for t in p], 0, "mean")
        )
        rewards = batch.rewards(token_scores(model, batch)[0]).view(-1, 2)
        (rewards[:, 0] - rewards[:, 1]).square().sum().backward()
        found.append([w.grad.clone() for w in model.parameters()])
    for one, two in zip(*found, strict=True):
        assert (one - two).abs().max() <= 1e-4 * max(1.0, float(two.abs().max()))


MESSAGES = {
    "prompt": [{"role": "user", "content": "help me"}],
    "chosen": [{"role": "assistant", "content": "yes"}],
    "rejected": [{"role": "assistant", "content": "no thanks"}],
}
WHOLE = {name: MESSAGES["prompt"] + MESSAGES[name] for name in ("chosen", "rejected")}
TEXTS = {"prompt": "help me", "chosen": " yes", "rejected": " no thanks"}


@pytest.mark.parametrize(
    "row",
    [
        MESSAGES,
        WHOLE,
        TEXTS,
        {"chosen": "help me yes", "rejected": "help me no thanks [END]"},
        {"chosen_ids": [6, 7, 8], "rejected_ids": [6, 9]},
    ],
    ids=["messages", "whole", "texts", "whole texts", "tokens"],
)
def test_tokens_are_those_of_trl(tokenizer: Any, row: dict[str, Any]) -> None:
    from datasets import Dataset
    from trl.trainer.reward_trainer import RewardTrainer

    class Settings:
        dataset_num_proc, max_length = None, None

    bare = RewardTrainer.__new__(RewardTrainer)
    theirs = bare._prepare_dataset(Dataset.from_list([row]), tokenizer, Settings(), "train")[0]
    chosen, rejected = pair(tokenizer, row)
    assert (chosen.ids, rejected.ids) == (theirs["chosen_ids"], theirs["rejected_ids"])


@pytest.mark.parametrize("row", [MESSAGES, WHOLE], ids=["explicit", "implicit"])
def test_the_reply_begins_after_the_prompt(tokenizer: Any, row: dict[str, Any]) -> None:
    for tokens, words in zip(pair(tokenizer, row), ("yes", "no thanks"), strict=True):
        assert tokenizer.decode(tokens.ids[tokens.start :]) == f"{words} [END]"


def test_where_a_reply_begins_does_not_depend_on_the_other(tokenizer: Any) -> None:
    row = {**TEXTS, "chosen": " no thanks", "rejected": " no help"}
    chosen, rejected = pair(tokenizer, row)
    assert chosen.start == rejected.start == 2
    assert chosen == encode(tokenizer, TEXTS["prompt"], row["chosen"])


def test_prompts_are_cut_at_the_front_and_replies_at_the_end() -> None:
    tokens = Tokens([1, 2, 3, 4, 5, 6, 7], 4)
    assert cut(tokens, 2, 2) == Tokens([3, 4, 5, 6], 2)
    assert cut(tokens, None, 1) == Tokens([1, 2, 3, 4, 5], 4)
    assert cut(tokens, 9, None) == tokens


def test_conversations_need_a_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(TrainingError, match="has no chat template: take an instruct model"):
        pair(tokenizer, MESSAGES)


def test_an_end_that_the_tokenizer_adds_too_is_not_doubled(tokenizer: Any) -> None:
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [END]", special_tokens=[("[END]", 1)]
    )
    assert tokenizer("yes")["input_ids"][-1] == 1
    tokens = encode(tokenizer, "help me", " yes")
    assert tokenizer.decode(tokens.ids) == "help me yes [END]"
    assert tokens.start == 2


def test_a_conversation_that_the_template_refuses_is_told(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system, please') }}"
    with pytest.raises(TrainingError, match="refuses a conversation of user.*no system, please"):
        pair(tokenizer, MESSAGES)
