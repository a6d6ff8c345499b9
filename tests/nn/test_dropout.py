"""Dropout against PyTorch's: the same distribution, in training and outside it."""

import pytest
import torch
from torch import nn

from reclib.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_it_keeps_the_share_and_the_mean(p):
    torch.manual_seed(0)
    out = dropout(torch.ones(1000, 999), p)
    assert (out > 0).double().mean() == pytest.approx(1 - p, abs=2e-3)
    assert out.double().mean() == pytest.approx(1, abs=5e-3 if p < 0.9 else 2e-2)
    torch.testing.assert_close(out.unique(), torch.tensor([0, 1 / (1 - p)] if p else [1.0]), rtol=1e-4, atol=0)


def test_elements_are_dropped_independently():
    """Neighbours come from one random number; every pair and triple of them has to be as frequent as chance says."""
    torch.manual_seed(0)
    kept = dropout(torch.ones(400_000, 4), 0.3) > 0
    number = (kept.long() * torch.tensor([8, 4, 2, 1])).sum(1)
    found = torch.bincount(number, minlength=16) / len(number)
    expected = torch.tensor([0.7 ** bin(i).count("1") * 0.3 ** (4 - bin(i).count("1")) for i in range(16)])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_gradients_pass_where_values_do():
    torch.manual_seed(0)
    x = torch.randn(50, 7, requires_grad=True)
    out = dropout(x, 0.4)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)


def test_nothing_happens_outside_training_and_the_seed_decides_inside():
    layer, x = Dropout(0.5), torch.randn(3, 5)
    assert torch.equal(layer.eval()(x), x)
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        drawn.append(layer.train()(x))
    assert torch.equal(*drawn)
    assert not torch.equal(layer(x), drawn[0])


def test_it_drops_as_often_as_pytorch():
    torch.manual_seed(0)
    x = torch.ones(200_000)
    ours, theirs = (float((d(x) > 0).double().mean()) for d in (Dropout(0.2), nn.Dropout(0.2)))
    assert ours == pytest.approx(theirs, abs=5e-3)


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_share_outside_the_range_is_refused(p):
    with pytest.raises(ValueError, match="p: a share"):
        dropout(torch.ones(3), p)
