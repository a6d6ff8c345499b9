"""The vocabulary: numbers, unknown words, files."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reclib.language import Vocabulary

TEXTS = ["user : women saves", "ad : camera new saves"]


def test_numbers_by_hand():
    vocabulary = Vocabulary.of_texts(TEXTS, special=["<scores>"])
    assert vocabulary.tokens == ("<pad>", "<end>", "<scores>", ":", "ad", "camera", "new", "saves", "user", "women")
    assert vocabulary.encode("user : camera <scores>") == [8, 3, 5, 2]
    assert vocabulary.encode("  user\n:camera".replace(":", " : ")) == [8, 3, 5]
    assert vocabulary.encode("") == []
    assert vocabulary.decode([0, 8, 3, 5, 2, 1, 0]) == "user : camera <scores>"
    assert vocabulary.decode(torch.tensor([4, 7])) == "ad saves"
    assert len(vocabulary) == 10
    assert "camera" in vocabulary
    assert "zebra" not in vocabulary


def test_words_keep_their_order_and_count_once():
    assert Vocabulary(["b", "a", "b"]).tokens == ("<pad>", "<end>", "b", "a")


def test_unknown_words_are_named_unless_there_is_a_token_for_them():
    with pytest.raises(ValueError, match="the word 'zebra' is not in the vocabulary of 9 tokens"):
        Vocabulary.of_texts(TEXTS).encode("user : zebra")
    forgiving = Vocabulary.of_texts(TEXTS, unk="<unk>")
    assert forgiving.decode(forgiving.encode("user : zebra")) == "user : <unk>"


@given(st.lists(st.text(min_size=1).filter(lambda t: t.split() == [t]), min_size=1))
def test_texts_come_back(words):
    vocabulary = Vocabulary.of_texts([" ".join(words)])
    kept = [word for word in words if word not in ("<pad>", "<end>")]
    assert vocabulary.decode(vocabulary.encode(" ".join(words))) == " ".join(kept)
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


@pytest.mark.parametrize("unk", [None, "<unk>"])
def test_files(tmp_path, unk):
    vocabulary = Vocabulary.of_texts(TEXTS, special=["<scores>"], unk=unk)
    vocabulary.save(tmp_path / "words.json")
    again = Vocabulary.load(tmp_path / "words.json")
    assert again == vocabulary
    assert hash(again) == hash(vocabulary)
    assert again != Vocabulary(["other"])
    (tmp_path / "words.json").write_text('{"tokens": ["a", "b"], "unk": null}')
    with pytest.raises(ValueError, match="begins with <pad> and <end>"):
        Vocabulary.load(tmp_path / "words.json")
    (tmp_path / "words.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="is no vocabulary"):
        Vocabulary.load(tmp_path / "words.json")


def test_bad_words_and_numbers():
    with pytest.raises(ValueError, match="'two words' is empty or holds white space"):
        Vocabulary(["two words"])
    with pytest.raises(ValueError, match="'' is empty"):
        Vocabulary([""])
    with pytest.raises(ValueError, match="ids: -1 is no token"):
        Vocabulary(["a"]).decode([2, -1])
