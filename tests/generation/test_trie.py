"""The trie by hand, and against the list of items."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reclib.generation import SemanticIdTrie
from reclib.tokenizers import SemanticIds

# item:        1       2       3       4       5
CODES = [(1, 0), (0, 2), (1, 0), (1, 1), (0, 0)]


def trie_of(rows, sizes=(2, 3)):
    return SemanticIdTrie(SemanticIds.from_codes(torch.tensor(rows), sizes))


def test_by_hand():
    trie = trie_of(CODES)
    assert [trie.nodes(level) for level in range(3)] == [1, 2, 4]
    zero, one = trie.followers(0)[0].tolist()
    assert (trie.followers(1)[[zero, one]] >= 0).tolist() == [[True, False, True], [True, True, False]]
    leaf = int(trie.followers(1)[one, 0])
    assert trie.prefix(2, leaf) == (1, 0)
    assert trie.leaf.tolist()[1:] == [leaf, trie.leaf[2], leaf, trie.leaf[4], trie.leaf[5]]


def test_colliding_items_are_all_listed_by_id():
    trie = trie_of(CODES)
    leaves = trie.leaf[torch.tensor([[4, 1, 2], [5, 2, 4]])]
    assert trie.expand(leaves, 5).tolist() == [[4, 1, 3, 2, 0], [5, 2, 4, 0, 0]]
    missing = torch.tensor([[-1, int(trie.leaf[1]), -1]])
    assert trie.expand(missing, 3).tolist() == [[1, 3, 0]]
    assert trie.expand(leaves, 2).tolist() == [[4, 1], [5, 2]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=30))
def test_it_holds_the_items_sequences_and_nothing_else(rows):
    trie = trie_of(rows, (4, 4, 4))
    for a in range(4):
        for b in range(4):
            for c in range(4):
                node = 0
                for level, code in enumerate((a, b, c)):
                    node = int(trie.followers(level)[node, code]) if node >= 0 else -1
                expected = [i + 1 for i, row in enumerate(rows) if row == (a, b, c)]
                found = trie.expand(torch.tensor([[node]]), len(rows))[0].tolist()
                assert [item for item in found if item] == expected


def test_an_empty_trie_cannot_be_built():
    with pytest.raises(ValueError, match="at least one item"):
        SemanticIdTrie(SemanticIds(torch.tensor([[-1, -1]]), (2, 2)))
