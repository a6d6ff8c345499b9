"""Balanced codes: by hand, against an exact assignment, loads and collisions of a lopsided catalogue."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import tensor

from reclib.tokenizers import BalancedRQKMeans, BalancedRQKMeansConfig, RQKMeans, RQKMeansConfig
from reclib.tokenizers.balanced import balanced_codes, balancing_prices, squared_distances


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lopsided(items=1000, dim=8):
    """Groups of very different size, so that k-means has full codes and empty ones."""
    rng = np.random.default_rng(0)
    group = np.minimum(rng.geometric(0.15, size=items), 30)
    spread = rng.gamma(1.0, size=(items, 1))
    return torch.from_numpy(
        3 * rng.standard_normal((31, dim))[group] + spread * rng.standard_normal((items, dim))
    ).float()


def test_by_hand():
    """Three items want code 0, two may have it: the one that loses least goes to code 1."""
    distance = tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0], [4.0, 0.0]])
    assert distance.argmin(1).tolist() == [0, 0, 0, 1]
    assert balanced_codes(distance).tolist() == [1, 0, 0, 1]
    price = balancing_prices(distance)
    assert 1 < price[0] - price[1] < 2  # dear enough for the first item, not for the second


def test_nothing_to_balance():
    distance = torch.eye(3).repeat(2, 1)
    assert torch.equal(balanced_codes(1 - distance), distance.argmax(1))
    torch.testing.assert_close(balancing_prices(torch.zeros(6, 3)), torch.zeros(3))


@pytest.mark.parametrize("seed", range(3))
def test_close_to_the_exact_assignment(seed):
    """120 items, 6 codes, 20 places each: scipy's assignment problem with every code 20 times."""
    distance = squared_distances(random(120, 2, seed=seed), 0.5 * random(6, 2, seed=seed + 9))
    _, place = linear_sum_assignment(distance.repeat_interleave(20, dim=1).numpy())
    exact, ours = torch.from_numpy(place // 20), balanced_codes(distance, epsilon=0.002, iterations=200)
    assert torch.bincount(ours, minlength=6).tolist() == pytest.approx([20] * 6, abs=1)
    assert (ours == exact).double().mean() > 0.95
    row = torch.arange(120)
    assert distance[row, ours].sum().item() == pytest.approx(distance[row, exact].sum().item(), rel=0.02)
    nearest = torch.bincount(distance.argmin(1), minlength=6)
    assert (nearest - 20).abs().max() > 8  # there was something to balance


def test_what_all_codes_share_changes_no_price():
    distance = squared_distances(random(50, 3), random(5, 3, seed=1)).double()
    shifted = distance + 3 * torch.rand(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ratio = float(distance.mean() / shifted.mean())  # the unit of epsilon
    prices = balancing_prices(distance, 0.02, 300), balancing_prices(shifted, 0.02 * ratio, 300)
    torch.testing.assert_close(*prices, rtol=0.02, atol=0.02)


def test_loads_even_out_and_collisions_fall():
    items = lopsided()
    plain = RQKMeans(RQKMeansConfig(levels=3, codes=16)).fit(items)
    even = BalancedRQKMeans(BalancedRQKMeansConfig(levels=3, codes=16)).fit(items)
    before, after = plain.encode(items), even.encode(items)
    assert torch.equal(before.codes[:, :2], after.codes[:, :2])  # only the last level differs
    assert before.frequencies(2).max() * 16 > 2.5
    assert after.frequencies(2).max() * 16 < 1.2
    assert after.frequencies(2).min() * 16 > 0.8
    assert after.collision_rate < 0.9 * before.collision_rate
    assert (after.name, after.sizes) == ("balanced rq-kmeans", (16, 16, 16))


def test_moving_the_codewords_makes_balance_cheaper():
    items = lopsided()
    errors = []
    for rounds in (0, 5):
        model = BalancedRQKMeans(BalancedRQKMeansConfig(levels=3, codes=16, rounds=rounds)).fit(items)
        errors.append(float((items - model.decode(model.codes_of(items))).square().sum()))
    assert errors[1] < 0.95 * errors[0]


def test_a_new_item_is_encoded_on_its_own_and_duplicates_share_their_codes():
    items = lopsided(300)
    model = BalancedRQKMeans(BalancedRQKMeansConfig(levels=2, codes=8)).fit(items)
    codes = model.codes_of(items)
    assert torch.equal(model.codes_of(items[5:7]), codes[5:7])
    assert torch.equal(model.encode(items[[3, 3]]).codes[1:], codes[[3, 3]])


def test_one_level():
    items = lopsided(300)
    ids = BalancedRQKMeans(BalancedRQKMeansConfig(levels=1, codes=8)).fit(items).encode(items)
    assert ids.frequencies(0).max() * 8 < 1.2


def test_bad_input():
    model = BalancedRQKMeans(BalancedRQKMeansConfig(levels=2, codes=4))
    with pytest.raises(ValueError, match="codebooks: there are none yet"):
        model.encode(random(5, 2))
    with pytest.raises(ValueError, match="items: 3 vectors cannot fill 4 codes"):
        model.fit(random(3, 2))
    model.fit(random(20, 2))
    with pytest.raises(ValueError, match="items: vectors of width 3, but fit saw 2"):
        model.encode(random(5, 3))
    with pytest.raises(ValueError, match="distance: holds NaN"):
        balanced_codes(tensor([[0.0, torch.nan]]))
    with pytest.raises(ValueError, match="epsilon: must be positive, got 0"):
        balanced_codes(torch.zeros(2, 2), epsilon=0)
    with pytest.raises(ValueError, match="iterations: must be at least 1, got 0"):
        balanced_codes(torch.zeros(2, 2), iterations=0)
    for values, message in [
        ({"epsilon": -1.0}, "epsilon: must be positive"),
        ({"sinkhorn": 0}, "sinkhorn: must be at least 1"),
        ({"rounds": -1}, "rounds: must not be negative"),
        ({"codes": 1}, "codes: must be at least 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            BalancedRQKMeansConfig(**values)
