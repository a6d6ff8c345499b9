"""Semantic IDs: collisions, suffixes and code health by hand, files, bad input."""

import gzip
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reclib.tokenizers import SemanticIds


def ids_of(*rows, sizes=None):
    codes = torch.tensor(rows)
    return SemanticIds.from_codes(codes, sizes or tuple(int(c) + 1 for c in codes.amax(0)))


SIX = [(1, 2, 3), (1, 2, 3), (1, 2, 4), (5, 0, 0), (5, 0, 0), (5, 0, 0)]  # the example of the UniSID sheet


def test_collisions_by_hand():
    ids = ids_of(*SIX)
    assert ids.n_sequences == 3
    assert ids.collision_rate == pytest.approx(1 - 3 / 6)
    assert ids.share_in_collisions == pytest.approx(5 / 6)


def test_usage_and_perplexity_by_hand():
    codes = [(0,)] * 4 + [(1,)] * 2 + [(2,), (3,)]
    ids = ids_of(*codes, sizes=(5,))
    assert ids.usage(0) == pytest.approx(0.8)
    assert ids.perplexity(0) == pytest.approx(3.363586, abs=1e-6)  # counts 4, 2, 1, 1, 0
    assert ids_of(*[(c,) for c in range(7)]).perplexity(0) == pytest.approx(7)
    assert ids_of((0,), (0,), sizes=(9,)).perplexity(0) == pytest.approx(1)


def test_suffixes_number_the_items_of_a_sequence_by_id():
    ids = ids_of(*SIX).deduplicated()
    assert ids.codes[1:, 3].tolist() == [0, 1, 0, 0, 1, 2]
    assert ids.sizes == (6, 3, 5, 3)
    assert ids.collision_rate == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=40))
def test_deduplicated_ids_are_unique_and_keep_their_codes(rows):
    ids = ids_of(*rows, sizes=(4, 4, 4))
    longer = ids.deduplicated()
    assert len({tuple(row) for row in longer.codes[1:].tolist()}) == len(rows)
    assert torch.equal(longer.codes[:, :3], ids.codes)
    counts = {row: rows.count(row) for row in rows}
    assert ids.collision_rate == pytest.approx(1 - len(counts) / len(rows))
    assert ids.share_in_collisions == pytest.approx(sum(n for n in counts.values() if n > 1) / len(rows))
    assert longer.sizes[-1] == max(counts.values())
    entropy = -sum(p * math.log(p) for c in range(4) if (p := sum(r[0] == c for r in rows) / len(rows)))
    assert ids.perplexity(0) == pytest.approx(math.exp(entropy))


def test_tokens_of_different_levels_never_meet():
    ids = ids_of((0, 0), (1, 2), (1, 0))
    assert ids.sizes == (2, 3)
    assert ids.vocabulary == 6
    assert ids.tokens.tolist() == [[0, 0], [1, 3], [2, 5], [2, 3]]


def test_round_trip_through_files(tmp_path):
    ids = ids_of(*SIX, sizes=(6, 3, 7))
    again = SemanticIds.load(ids.save(tmp_path / "ids"))
    assert torch.equal(again.codes, ids.codes)
    assert (again.sizes, again.name) == (ids.sizes, ids.name)


def test_other_peoples_ids(tmp_path):
    path = tmp_path / "letter.txt.gz"
    with gzip.open(path, "wt") as file:
        file.write("2 7 1\n1 0 3\n\n")
    ids = SemanticIds.read_text(path)
    assert ids.codes.tolist() == [[-1, -1], [0, 3], [7, 1]]
    assert (ids.sizes, ids.name) == ((8, 4), "letter")
    assert SemanticIds.read_text(path, sizes=(256, 256)).sizes == (256, 256)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs lines"),
        ("1 2\n2 3 4\n", "one length"),
        ("1 5\n3 5\n", "every item 1 … 2"),
        ("1 5\n1 5\n", "every item"),
    ],
)
def test_damaged_lists_of_ids(tmp_path, text, message):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        SemanticIds.read_text(tmp_path / "ids.txt")


@pytest.mark.parametrize(
    ("codes", "sizes", "message"),
    [
        (torch.tensor([[-1, -1], [0, 2]]), (1, 2), "item 1 has the unknown code 2 at level 2; codes there are 0 … 1"),
        (torch.tensor([[0, 0], [0, 1]]), (1, 2), "row 0 belongs to padding"),
        (torch.tensor([[-1, -1], [0, 1]]), (2,), "sizes: 1 sizes for 2 levels"),
        (torch.tensor([[-1]]), (2,), "at least one item"),
        (torch.tensor([[-1], [0]], dtype=torch.int32), (2,), "int64"),
    ],
)
def test_bad_codes(codes, sizes, message):
    with pytest.raises(ValueError, match=message):
        SemanticIds(codes, sizes)


def test_a_folder_without_ids(tmp_path):
    with pytest.raises(ValueError, match="holds no semantic IDs"):
        SemanticIds.load(tmp_path)
