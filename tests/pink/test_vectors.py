"""Texts as vectors: a table that is built here, and the figures that they are for."""

from pathlib import Path

import numpy as np
import pytest
from engine_pink_elephant import vectors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter

from engine.errors import ResourceError

TEXTS = ("a cup of tea", "a cup of tea!", "the rules of chess", "")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model2vec model in which tea and chai, and chess and draughts, mean the same."""
    from model2vec import StaticModel
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "tea", "chai", "chess", "draughts", "I", "like"]
    rows = [(0, 0, 0), (1, 0, 0), (1, 0.1, 0), (0, 1, 0), (0.1, 1, 0), (0, 0, 1), (0, 0, 1)]
    tokenizer = Tokenizer(models.WordLevel({w: at for at, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("table")
    StaticModel(np.array(rows, np.float32), tokenizer, {}).save_pretrained(folder)
    return str(folder)


def cosines(name: str | None, *texts: str) -> np.ndarray:
    made = vectors.centred(vectors.load(name)(texts))
    return made @ made.T


def test_a_table_sees_paraphrase_and_the_grams_do_not(table: str) -> None:
    texts = ("I like tea", "I like chai", "I like chess", "I like draughts")
    alike = cosines(table, *texts)
    assert alike[0, 1] > 0.9
    assert alike[2, 3] > 0.9
    assert alike[0, 2] < 0
    grams = cosines(None, *texts)
    assert abs(grams[0, 1] - grams[0, 2]) < 0.3


def test_the_grams_see_copied_wording() -> None:
    made = vectors.load()(TEXTS)
    assert made.dtype == np.float32
    assert made[0] @ made[1] > 0.8 > 0.3 > made[0] @ made[2]
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)


def test_a_model_with_pooled_states_is_read_from_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "tea", "i"]))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes = {"vocab_size": 6, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=16)
    transformers.BertModel(config).save_pretrained(tmp_path)
    kinds = '[{"type": "sentence_transformers.models.Transformer"}]'
    (tmp_path / "modules.json").write_text(kinds)
    embed = vectors.load(str(tmp_path))
    alone, long = embed(["tea"]), embed(["tea", "i " * 99])
    assert alone.shape == (1, 8)
    assert np.allclose(alone[0], long[0], atol=1e-5)  # padding is no part of a text
    assert embed([]).shape == (0, 8)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    vectors.load.cache_clear()
    with pytest.raises(ResourceError, match="mean pooling"):
        vectors.load(str(tmp_path))


def test_what_is_no_model_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match=r"no model can be read"):
        vectors.load(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ResourceError, match=r"'no/such-model': there is no such folder"):
        vectors.load("no/such-model")


def test_a_folder_is_told_from_a_hub_id_as_it_is_written() -> None:
    names = TypeAdapter(vectors.Name)
    assert names.validate_python("org/model") == "org/model"
    assert names.validate_python("./model") == Path("./model")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "model2vec", None)
    with pytest.raises(ResourceError, match=r"st-engine-pink-elephant\[embedding\]"):
        vectors.load(str(tmp_path))


MATRICES = st.tuples(st.integers(1, 12), st.integers(2, 6)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-9, 9, width=32))
)


@given(MATRICES)
def test_vendi_lies_between_one_and_the_number_of_texts(made: np.ndarray) -> None:
    score = vectors.vendi(made)
    assert 1 - 1e-6 <= score <= len(made) + 1e-6
    assert score == pytest.approx(vectors.vendi(np.repeat(made, 3, axis=0)), rel=1e-3)


def test_vendi_counts_what_is_different() -> None:
    eye = np.eye(6, dtype=np.float32)
    assert vectors.vendi(eye) == pytest.approx(6)
    assert vectors.vendi(eye[:1].repeat(9, axis=0)) == pytest.approx(1)
    assert vectors.vendi(np.concatenate([eye[:2]] * 9)) == pytest.approx(2)  # the dual form
    assert vectors.vendi(eye[:0]) == 0
    same = vectors.centred(np.full((5, 3), 0.3, np.float32))
    assert vectors.vendi(same) == 1
