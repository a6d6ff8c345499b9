"""The counting models, by hand on a log of a few events."""

import numpy as np
import pytest
import torch
from torch import tensor

from reclib.backbones import ItemKNN, ItemTransitions, Popularity
from reclib.evaluation import evaluate
from tests.logs import make_log

# Six events: 1 → 2 → 3, 1 → 2, 2. Item 4 was never touched.
SIX = make_log([[1, 2, 3], [1, 2], [2]], n_items=4)
HISTORY = tensor([[1, 0, 0], [3, 2, 0], [2, 2, 1], [4, 0, 0]])


def test_popularity_by_hand():
    scores = Popularity().fit(SIX).score(HISTORY)
    assert scores.tolist() == [[-torch.inf, 2, 3, 1, 0]] * 4


def test_transitions_by_hand():
    scores = ItemTransitions().fit(SIX).score(HISTORY)
    share = np.array([2, 3, 1, 0]) / 7  # popularity, below one even for an item that is all there is
    assert torch.isneginf(scores[:, 0]).all()
    after_one, after_two, after_four = [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]
    expected = np.array([after_one, after_two, after_one, after_four]) + share
    np.testing.assert_allclose(scores[:, 1:], expected)


def test_transitions_do_not_leap_from_user_to_user():
    """User 0 ends with 3, user 1 begins with 1: nothing followed 3."""
    scores = ItemTransitions().fit(SIX).score(tensor([[3]]))
    assert scores.argsort(descending=True)[0, :4].tolist() == [2, 1, 3, 4]


def test_popularity_decides_between_equal_counts_however_large():
    """Both followed item 1 a thousand times; one more event elsewhere, of a million, decides."""
    followers = [[1, 2]] * 1000 + [[1, 3]] * 1000
    for more, order in (([[3]], [3, 2]), ([[2]], [2, 3])):
        log = make_log([*followers, *more, [4] * 600_000, [5, 1, 4]], n_items=5)
        model = ItemTransitions().fit(log)
        assert model.score(tensor([[1]]))[0, 1:].argsort(descending=True)[:2].add(1).tolist() == order
        cases = make_log([[5, 1, 4]], n_items=5).leave_one_out().test
        for tie_seed in range(4):  # no tie is left to the order that breaks ties
            top = evaluate(model, cases, (2,), tie_seed=tie_seed).top
            assert top.tolist() == [order]


def test_a_count_beats_any_popularity():
    log = make_log([[1, 2], [3] * 50], n_items=3)
    assert ItemTransitions().fit(log).score(tensor([[1]]))[0].argmax() == 2


def test_item_knn_by_hand():
    scores = ItemKNN().fit(SIX).score(HISTORY)
    # Users with item 1: 2, item 2: 3, item 3: 1; with 1 and 2: 2, with 1 and 3: 1, with 2 and 3: 1.
    c12, c13, c23 = 2 / 6**0.5, 1 / 2**0.5, 1 / 3**0.5
    inf = -torch.inf
    expected = tensor(
        [
            [inf, 0, c12, c13, 0],
            [inf, c13 + c12, c23, c23, 0],  # 3 and 2
            [inf, 2 * c12, c12, 2 * c23 + c13, 0],  # 2, 2 and 1
            [inf, 0, 0, 0, 0],
        ]
    )
    torch.testing.assert_close(scores, expected)


def test_item_knn_looks_at_the_last_items_only():
    model = ItemKNN(window=1).fit(SIX)
    torch.testing.assert_close(model.score(HISTORY), model.score(tensor([[1], [2], [1], [4]])))


def test_item_knn_counts_a_user_once():
    """Repeats inside a user change no similarity."""
    again = make_log([[1, 2, 3, 3, 1], [1, 2, 2], [2]], n_items=4)
    torch.testing.assert_close(ItemKNN().fit(again).score(HISTORY), ItemKNN().fit(SIX).score(HISTORY))


@pytest.mark.parametrize("model", [Popularity(), ItemTransitions(), ItemKNN(), ItemKNN(window=2)])
def test_padding_changes_nothing(model):
    model.fit(SIX)
    wide = torch.cat([HISTORY, torch.zeros(4, 5, dtype=torch.long)], dim=1)
    scores = model.score(HISTORY)
    assert scores.shape == (4, 5)
    assert torch.equal(model.score(wide), scores)
    assert torch.equal(model.score(HISTORY), scores)  # asking changes nothing either


@pytest.mark.parametrize("model", [ItemTransitions(), ItemKNN()])
def test_bad_histories(model):
    model.fit(SIX)
    with pytest.raises(ValueError, match="history: a row holds no item"):
        model.score(tensor([[1, 2], [0, 0]]))
    with pytest.raises(ValueError, match="history: an item follows a 0; left-align"):
        model.score(tensor([[1, 2], [0, 2]]))


def test_bad_window():
    with pytest.raises(ValueError, match="window: must be at least 1, got 0"):
        ItemKNN(window=0)
