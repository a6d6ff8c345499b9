"""Item texts and their vectors: which columns, lengths and angles by hand, texts without words, a missing library."""

import math
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch

from reclib.tokenizers import SentenceEncoder, TfidfSvd, item_text
from reclib.world import AdWorld, AdWorldConfig


def test_texts_of_a_table():
    items = pd.DataFrame(
        {
            "asin": ["B1", "B2", "B3"],
            "categories": [["Beauty", "Nails"], [], np.array(["Hair"])],
            "title": ["Red polish", None, "Comb"],
            "genres": ["Crime|Drama", math.nan, " "],
            "brand": ["OPI", "Acme", math.nan],
        }
    )
    assert item_text(items) == ["Red polish OPI Beauty Nails Crime Drama", "Acme", "Comb Hair"]
    assert item_text(items, columns=["brand", "asin"]) == ["OPI B1", "Acme B2", "B3"]
    with pytest.raises(ValueError, match="columns: there is no column 'price'; the table has asin, categories"):
        item_text(items, columns=["price"])
    with pytest.raises(ValueError, match="items: no column of text"):
        item_text(items[["asin"]])


def test_texts_of_the_ad_world():
    items = AdWorld(AdWorldConfig.preset("tiny")).simulate().items
    texts = item_text(items)
    assert len(texts) == len(items)
    row = items.iloc[0]
    assert texts[0] == " ".join([row.title, row.brand, row.industry, row.sector, row.topic, row.description])
    vectors = TfidfSvd(dim=16).fit_transform(texts)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(items)))
    # Ads of one topic are closer than others.
    same = torch.tensor(items.topic.to_numpy()[:, None] == items.topic.to_numpy())
    cosine = vectors @ vectors.T
    assert cosine[same & ~torch.eye(len(items), dtype=torch.bool)].mean() > cosine[~same].mean() + 0.3


def test_angles_by_hand():
    """Two texts with a word in common and one each of their own; idf of 2 of 3 texts and of 1 of 3, smoothed."""
    texts = ["red polish", "red comb", "wine"]
    vectors = TfidfSvd(dim=3).fit_transform(texts)
    common, own = 1 + math.log(4 / 3), 1 + math.log(4 / 2)
    cosine = common**2 / (common**2 + own**2)
    expected = [[1, cosine, 0], [cosine, 1, 0], [0, 0, 1]]
    torch.testing.assert_close(vectors @ vectors.T, torch.tensor(expected), atol=1e-5, rtol=0)


def test_repeats_count_by_their_logarithm():
    vectors = TfidfSvd(dim=2).fit_transform(["red red comb", "red comb"])
    twice = 1 + math.log(2)
    cosine = (twice + 1) / math.sqrt((twice**2 + 1) * 2)
    assert (vectors[0] @ vectors[1]).item() == pytest.approx(cosine, abs=1e-5)


def test_a_text_outside_all_directions_is_zero():
    """Two directions hold the two groups; the loner is no rounding error blown up to length one."""
    vectors = TfidfSvd(dim=2).fit_transform(["red"] * 3 + ["green"] * 3 + ["loner"])
    assert vectors[6].tolist() == [0.0, 0.0]
    torch.testing.assert_close(vectors[:6].norm(dim=1), torch.ones(6))


def test_the_seed_decides():
    texts = item_text(AdWorld(AdWorldConfig.preset("tiny")).simulate().items)
    first, again = (TfidfSvd(dim=8, seed=1).fit_transform(texts) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("texts", "dim", "message"),
    [
        ([], 2, "texts: no word in 0 texts"),
        (["", " . "], 2, "texts: no word in 2 texts"),
        (["red", "", "blue", "!"], 2, "texts: 2 hold no word, the first is number 1 \\(''\\)"),
        (["red comb", "red"], 3, "dim: 3 directions are more than 2 texts with 2 different words have; use at most 2"),
        (["red", "red", "red comb"], 3, "dim: 3 directions are more than 3 texts with 2 different words"),
    ],
)
def test_bad_texts(texts, dim, message):
    with pytest.raises(ValueError, match=message):
        TfidfSvd(dim=dim).fit_transform(texts)


def test_bad_dim():
    with pytest.raises(ValueError, match="dim: must be at least 1, got 0"):
        TfidfSvd(dim=0)


class FakeModel:
    """Stands in for a model of sentence-transformers: length and number of words, made to length 1."""

    def __init__(self, folder, local_files_only):
        assert local_files_only
        self.folder = folder

    def encode(self, texts, convert_to_tensor, normalize_embeddings):
        assert convert_to_tensor
        assert normalize_embeddings
        raw = torch.tensor([[len(text), len(text.split())] for text in texts], dtype=torch.float64)
        return raw / raw.norm(dim=1, keepdim=True)


def test_sentence_encoder(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=FakeModel))
    encoder = SentenceEncoder(tmp_path)
    assert encoder.model.folder == str(tmp_path)
    vectors = encoder.fit_transform(["four", "a b"])
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, torch.tensor([[4 / 17**0.5, 1 / 17**0.5], [3 / 13**0.5, 2 / 13**0.5]]))
    with pytest.raises(ValueError, match="texts: number 1 is empty"):
        encoder.fit_transform(["red", " "])
    with pytest.raises(ValueError, match="texts: there are none"):
        encoder.fit_transform([])


def test_sentence_encoder_without_library_or_folder(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # importing it fails
    with pytest.raises(ImportError, match=r"pip install 'reclib\[llm\]'"):
        SentenceEncoder(tmp_path)
    with pytest.raises(ValueError, match="folder: there is no folder"):
        SentenceEncoder(tmp_path / "missing")


def test_sentence_encoder_takes_a_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=FakeModel))
    (tmp_path / "a_small_model" / "model").mkdir(parents=True)
    (tmp_path / "a_small_model" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert SentenceEncoder("a-small-model").model.folder == str(tmp_path / "a_small_model" / "model")
    with pytest.raises(ValueError, match="nor a package"):
        SentenceEncoder("another-model")


def test_further_texts_get_the_vectors_they_would_have_had():
    texts = ["red tent", "blue tent", "red lamp", "blue lamp", "green lamp"]
    encoder = TfidfSvd(3)
    vectors = encoder.fit_transform(texts)
    torch.testing.assert_close(encoder.transform(texts), vectors, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.transform(["tent red unheard"])[0], vectors[0], rtol=1e-4, atol=1e-5)
    assert encoder.transform(["unheard"]).abs().sum() == 0
    with pytest.raises(ValueError, match="not fitted"):
        TfidfSvd(3).transform(texts)
