"""DRPO's rivals, one hand-computed number and one property each."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.testing import assert_close

from reclib.objectives import offline

DOUBLE = torch.float64


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


LOG_PROB, REWARD, VALUE = tensor([-1.0, -2.0, -4.0]), tensor([0.9, 0.5, 0.1]), tensor([0.4, 0.5, 0.3])


def dot(weights, log_prob):
    return float(tensor([float(w) for w in weights]) @ log_prob)


def test_cloning_and_the_plain_gradient_by_hand():
    assert float(offline.bc_loss(LOG_PROB)) == pytest.approx(7 / 3)
    assert float(offline.apg_loss(LOG_PROB, REWARD)) == pytest.approx(-(-0.4 + 0.4 * 4) / 3)


def test_awr_by_hand_and_its_clip():
    weights = [math.exp(0.5 / 0.2), 1, math.exp(-0.2 / 0.2)]
    expected = -dot(weights, LOG_PROB) / 3
    assert float(offline.awr_loss(LOG_PROB, REWARD, VALUE, 0.2)) == pytest.approx(expected)
    clipped = -dot([20, 1, math.exp(-20)], LOG_PROB) / 3
    assert float(offline.awr_loss(LOG_PROB, REWARD, VALUE, 0.01)) == pytest.approx(clipped)
    assert torch.isfinite(offline.awr_loss(LOG_PROB, REWARD, VALUE, 1e-6))  # e^500000 would not be
    assert_close(offline.awr_loss(LOG_PROB, REWARD, VALUE, 1e12), offline.bc_loss(LOG_PROB))


def test_asymre_by_hand_and_where_it_turns_into_weighted_cloning():
    expected = -dot([0.6, 0.1, -0.1], LOG_PROB) / 3
    assert float(offline.asymre_loss(LOG_PROB, REWARD, VALUE, -0.1)) == pytest.approx(expected)
    log_prob = LOG_PROB.clone().requires_grad_()
    (below,) = torch.autograd.grad(offline.asymre_loss(log_prob, REWARD, VALUE, -0.3), log_prob)
    assert (below <= 0).all()  # V below the smallest reward: nothing repels
    (above,) = torch.autograd.grad(offline.asymre_loss(log_prob, REWARD, VALUE, 0.1), log_prob)
    assert (above > 0).any()


def test_asymre_s_limit_depends_on_the_side_of_v():
    """A softmax over three arms, logged uniformly: δ < 0 finds the better arms, δ > 0 ends on one of them alone."""
    reward, ends = tensor([1.0, 0.6, 0.2]), {}
    for delta in (-0.2, 0.2):
        logits = torch.zeros(3, dtype=DOUBLE, requires_grad=True)
        value = reward.mean().expand(3)
        for _ in range(800):
            (slope,) = torch.autograd.grad(offline.asymre_loss(logits.log_softmax(-1), reward, value, delta), logits)
            logits = (logits - 1.0 * slope).detach().requires_grad_()
        ends[delta] = logits.softmax(-1).detach()
    # With a = μ(r - V) = (.6, .2, -.2) / 3 the limit is (a - c)⁺ / (V^μ - V), c = .2 / 6 such that it sums to 1.
    assert_close(ends[-0.2], tensor([5 / 6, 1 / 6, 0.0]), atol=0.01, rtol=0)
    assert float(ends[0.2].max()) > 0.99


def test_scaled_negatives_have_the_ratio_w():
    advantage = REWARD - REWARD.mean()
    expected = -dot([0.4, 0, -0.04], LOG_PROB) / 3
    assert float(offline.scaled_negatives_loss(LOG_PROB, advantage, 0.1)) == pytest.approx(expected)
    assert_close(offline.scaled_negatives_loss(LOG_PROB, advantage, 1.0), offline.apg_loss(LOG_PROB, REWARD))


def test_crr_by_hand():
    q, baseline = tensor([0.8, 0.2, 0.5]), tensor([0.5, 0.5, 0.5])
    expected = -dot([math.exp(0.3 / 0.5), math.exp(-0.3 / 0.5), 1], LOG_PROB) / 3
    assert float(offline.crr_loss(LOG_PROB, q, baseline, 0.5)) == pytest.approx(expected)
    assert float(offline.crr_binary_loss(LOG_PROB, q, baseline)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("tau", [0.5, 0.7, 0.9])
def test_the_expectile_is_the_minimiser(tau):
    reward = random(50)
    value = torch.full((50,), 0.3, dtype=DOUBLE)

    def loss(v):
        u = reward.numpy() - v
        return np.mean(np.where(u < 0, 1 - tau, tau) * u**2)

    assert float(offline.expectile_loss(value, reward, tau)) == pytest.approx(loss(0.3))
    best = minimize_scalar(loss).x
    at_best = torch.tensor(best, dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(offline.expectile_loss(at_best.expand(50), reward, tau), at_best)
    assert float(slope) == pytest.approx(0, abs=1e-6)
    assert (best > float(reward.mean()) + 1e-3) == (tau > 0.5)


def test_iql_is_awr_with_an_inverse_temperature():
    assert_close(
        offline.iql_loss(LOG_PROB, REWARD, VALUE, 4.0), offline.awr_loss(LOG_PROB, REWARD, VALUE, 0.25, clip=100.0)
    )


def test_bppo_by_hand():
    old = LOG_PROB.clone()
    new = (LOG_PROB + tensor([0.5, 0.0, -0.5])).requires_grad_()
    advantage = tensor([1.0, 0.0, -1.0])  # standardised already
    loss = offline.bppo_loss(new, old, advantage, 0.2)
    assert float(loss) == pytest.approx(-(0.9 * 1.2 - 0.1 * 0.8) / 3, rel=1e-6)
    loss.backward()
    assert (new.grad == 0).all()  # both have moved far enough
    near = (LOG_PROB + tensor([0.1, 0.0, -0.1])).requires_grad_()
    offline.bppo_loss(near, old, advantage, 0.2).backward()
    assert near.grad[0] < 0 < near.grad[2]


def test_percent_bc_keeps_the_best_rows():
    reward = tensor([0.3, 0.9, 0.1, 0.9, 0.5])
    assert offline.best_rows(reward, 0.4).tolist() == [False, True, False, True, False]
    assert offline.best_rows(reward, 0.2).tolist() == [False, True, False, False, False]  # among equals the earlier
    with pytest.raises(ValueError, match=r"fraction: 0 must lie in \(0, 1\]"):
        offline.best_rows(reward, 0)


def stacked(loss):
    """One call for two runs with hyper-parameters of their own equals two calls."""
    log_prob, reward, value = -random(2, 9), random(2, 9, seed=1), random(2, 9, seed=2)
    both = loss(log_prob, reward, value, tensor([0.1, 0.4]))
    for run, parameter in enumerate((0.1, 0.4)):
        assert_close(both[run], loss(log_prob[run], reward[run], value[run], parameter))


@pytest.mark.parametrize(
    "loss",
    [
        offline.awr_loss,
        offline.asymre_loss,
        offline.crr_loss,
        offline.iql_loss,
        lambda log_prob, reward, value, w: offline.scaled_negatives_loss(log_prob, reward - value, w),
        lambda log_prob, reward, value, tau: offline.expectile_loss(value, reward, tau),
        lambda log_prob, reward, value, epsilon: offline.bppo_loss(log_prob, log_prob - value, reward, epsilon),
    ],
)
def test_runs_are_stacked_without_mixing(loss):
    stacked(loss)


def test_weights_are_constants():
    value = VALUE.clone().requires_grad_()
    log_prob = LOG_PROB.clone().requires_grad_()
    for loss in (offline.awr_loss, offline.asymre_loss, offline.iql_loss, offline.crr_loss):
        found = torch.autograd.grad(loss(log_prob, REWARD, value, 0.5), (log_prob, value), allow_unused=True)
        assert found[0].abs().sum() > 0
        assert found[1] is None


def test_bad_input_is_named():
    bad = tensor([0.9, math.nan, 0.1])
    for call in (
        lambda: offline.apg_loss(LOG_PROB, bad),
        lambda: offline.awr_loss(LOG_PROB, bad, VALUE, 0.2),
        lambda: offline.asymre_loss(LOG_PROB, bad, VALUE, -0.1),
        lambda: offline.iql_loss(LOG_PROB, bad, VALUE, 3.0),
        lambda: offline.best_rows(bad, 0.5),
    ):
        with pytest.raises(ValueError, match="reward: 1 of 3 values are NaN or infinite"):
            call()
    with pytest.raises(ValueError, match=r"beta: 0.0 must be positive"):
        offline.awr_loss(LOG_PROB, REWARD, VALUE, 0.0)
    with pytest.raises(ValueError, match=r"tau: 1.0 must lie in \(0, 1\)"):
        offline.expectile_loss(VALUE, REWARD, 1.0)
    with pytest.raises(ValueError, match=r"epsilon: -0.1 must be positive"):
        offline.bppo_loss(LOG_PROB, LOG_PROB, REWARD, -0.1)
