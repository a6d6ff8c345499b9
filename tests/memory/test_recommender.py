"""A recommender on memories: serving click by click equals the full pass, and bad sizes are named."""

import pytest
import torch
from torch.testing import assert_close

from reclib.backbones import NextItemLoss
from reclib.memory import DeltaNet, LinearAttention, MemoryConfig, MemoryRecommender, Prism
from reclib.training.batches import SequenceBatch


def recommender(kind=Prism, **more):
    torch.manual_seed(0)
    return MemoryRecommender(30, lambda: kind(MemoryConfig(dim=8, chunk=4)), **({"max_len": 20} | more)).eval()


@pytest.mark.parametrize("kind", [LinearAttention, DeltaNet, Prism])
def test_serving_click_by_click_is_the_full_pass(kind):
    model = recommender(kind)
    history = torch.randint(1, 31, (3, 12), generator=torch.Generator().manual_seed(0))
    hidden, states = model.encode(history), None
    for t in range(12):
        last, states = model.step(history[:, t], states)
        assert_close(last, hidden[:, t], atol=1e-5, rtol=1e-5)
    assert sum(part.numel() for state in states for part in state) == 3 * 2 * (8 * 8 + 4 * 8)


def test_padding_on_the_right_changes_nothing():
    model = recommender()
    history = torch.tensor([[3, 7, 9]])
    assert_close(model.score(torch.cat([history, torch.zeros(1, 4, dtype=torch.long)], 1)), model.score(history))


def test_scores_read_the_last_items_only():
    model = recommender(max_len=5)
    history = torch.randint(1, 31, (2, 9), generator=torch.Generator().manual_seed(0))
    assert_close(model.score(history), model.score(history[:, 4:]))
    assert model.score(history)[:, 0].isneginf().all()


def test_it_learns_what_follows_what():
    model = recommender(dropout=0.0).train()
    history = torch.arange(1, 21).expand(4, -1)
    batch = SequenceBatch(history[:, :-1], history[:, 1:], None, None)
    optimiser, first = torch.optim.Adam(model.parameters(), lr=0.01), None
    for _ in range(60):
        loss, count = NextItemLoss()(model, batch)
        first = float(loss.detach()) / count if first is None else first
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) / count < 0.2 * first


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="layers: must be at least 1, got 0"):
        recommender(layers=0)
    with pytest.raises(ValueError, match="history: 25 items, but max_len is 20"):
        recommender().encode(torch.ones(1, 25, dtype=torch.long))
