"""Off-policy estimates against hand computations, exact expectations and the ad world's truth."""

import math

import numpy as np
import pytest

from reclib.objectives import off_policy as op
from reclib.world import AdWorld, AdWorldConfig
from reclib.world.policies import expert, random, stale

REWARD, PROPENSITY = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.5, 0.25, 0.2, 0.5])
PROBABILITY = np.array([0.25, 0.25, 0.4, 0.1])
WEIGHT = np.array([0.5, 1.0, 2.0, 0.2])


def test_weights_and_sums_by_hand():
    assert np.allclose(op.importance_weights(PROBABILITY, PROPENSITY), WEIGHT)
    assert op.ips(REWARD, WEIGHT) == pytest.approx(2.5 / 4)
    assert op.snips(REWARD, WEIGHT) == pytest.approx(2.5 / 3.7)
    assert op.effective_sample_size(WEIGHT) == pytest.approx(3.7**2 / (0.25 + 1 + 4 + 0.04))
    assert op.effective_sample_size(np.ones(7)) == pytest.approx(7)
    assert op.effective_sample_size(np.zeros(3)) == 0


def test_doubly_robust_by_hand():
    pi = np.array([[0.25, 0.75], [0.5, 0.5]])
    model = np.array([[0.2, 0.6], [0.4, 0.0]])
    reward, action, weight = np.array([1.0, 0.0]), np.array([1, 0]), np.array([1.5, 2.0])
    believed = [0.25 * 0.2 + 0.75 * 0.6, 0.2]
    assert op.direct_method(pi, model) == pytest.approx(np.mean(believed))
    terms = [believed[0] + 1.5 * 0.4, believed[1] + 2 * -0.4]
    assert np.allclose(op.doubly_robust_terms(reward, action, weight, pi, model), terms)
    assert op.doubly_robust(reward, action, weight, pi, model) == pytest.approx(np.mean(terms))


def bandit(n, seed, wrong_model=False, wrong_propensity=False):
    """A log of a bandit of three contexts and four actions, and the true value of another policy."""
    rng = np.random.default_rng(seed)
    table = np.random.default_rng(7)
    mean = table.uniform(0.1, 0.9, (3, 4))
    logging, target = table.dirichlet(np.ones(4) * 2, 3), table.dirichlet(np.ones(4), 3)
    context = rng.integers(3, size=n)
    action = (rng.random(n)[:, None] > logging[context].cumsum(1)).sum(1)
    reward = (rng.random(n) < mean[context, action]).astype(float)
    model = np.full_like(mean, 0.5) if wrong_model else mean
    propensity = np.full(n, 0.25) if wrong_propensity else logging[context, action]
    weight = op.importance_weights(target[context, action], propensity)
    truth = float((target * mean).sum(1).mean())
    return reward, action, weight, target[context], model[context], truth


def test_each_estimator_is_right_where_it_should_be_and_wrong_where_it_may():
    n = 200_000
    reward, action, weight, pi, model, truth = bandit(n, 0, wrong_model=True)
    assert op.ips(reward, weight) == pytest.approx(truth, abs=0.01)
    assert op.snips(reward, weight) == pytest.approx(truth, abs=0.01)
    assert abs(op.direct_method(pi, model) - truth) > 0.02
    assert op.doubly_robust(reward, action, weight, pi, model) == pytest.approx(truth, abs=0.01)
    reward, action, weight, pi, model, truth = bandit(n, 0, wrong_propensity=True)
    assert abs(op.ips(reward, weight) - truth) > 0.02
    assert op.doubly_robust(reward, action, weight, pi, model) == pytest.approx(truth, abs=0.01)
    reward, action, weight, pi, model, truth = bandit(n, 0, wrong_model=True, wrong_propensity=True)
    assert abs(op.doubly_robust(reward, action, weight, pi, model) - truth) > 0.02


def test_doubly_robust_has_less_variance_with_a_good_model():
    errors = {"ips": [], "dr": []}
    for seed in range(200):
        reward, action, weight, pi, model, truth = bandit(300, seed)
        errors["ips"].append(op.ips(reward, weight) - truth)
        errors["dr"].append(op.doubly_robust(reward, action, weight, pi, model) - truth)
    assert np.std(errors["dr"]) < 0.92 * np.std(errors["ips"])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        reward, _, weight, _, _, truth = bandit(400, 1000 + seed)
        mean, low, high = op.snips_interval(reward, weight, np.random.default_rng(seed), resamples=200)
        assert low <= mean <= high
        covered += low <= truth <= high
    assert 86 <= covered <= 100


def test_a_gain_is_judged_on_the_same_rounds():
    """Two policies that differ a little: their intervals overlap widely, that of the difference is far narrower."""
    reward, _, weight, *_ = bandit(2000, 0)
    other = weight * (1 + 0.1 * np.sign(np.arange(2000) % 2 - 0.5))
    mean, low, high = op.snips_gain_interval(reward, weight, other, np.random.default_rng(0), resamples=300)
    assert mean == pytest.approx(op.snips(reward, weight) - op.snips(reward, other))
    assert low < mean < high
    alone = op.snips_interval(reward, weight, np.random.default_rng(0), resamples=300)
    assert high - low < 0.3 * (alone.high - alone.low)
    assert op.snips_gain_interval(reward, weight, weight, np.random.default_rng(0), resamples=20) == (0, 0, 0)


@pytest.mark.slow
def test_estimates_find_the_truth_in_the_ad_world():
    """The logged mixture is random and stale; the policy to be judged is the expert, whose value the world knows."""
    world = AdWorld(AdWorldConfig.preset("tiny", base_ctr=0.1))
    users = np.arange(world.config.n_users)
    state = world.state(users)
    clicked = world.truth.clicked(state)
    policy = expert(world, state, clicked)
    click = world.truth.click_probability(state)
    truth = float((policy * np.where(clicked, 0, click)).sum(1).mean())
    behaviour = np.stack([stale(world, state, clicked), random(world, state, clicked)])
    log = world.log({"stale": 0.5, "random": 0.5}, 60_000, np.random.default_rng(0))
    assert np.allclose(log.propensity, behaviour.mean(0)[log.user, log.item])
    weight = op.importance_weights(policy[log.user, log.item], log.propensity)
    for estimate in (op.ips, op.snips):
        assert estimate(log.click.astype(float), weight) == pytest.approx(truth, rel=0.05)
    wrong = np.full_like(click, click.mean())
    found = op.doubly_robust(log.click.astype(float), log.item, weight, policy[log.user], wrong[log.user])
    assert found == pytest.approx(truth, rel=0.05)


def test_bad_logs_are_refused():
    with pytest.raises(ValueError, match=r"propensity: must lie in \(0, 1\]"):
        op.importance_weights(PROBABILITY, np.array([0.5, 0.0, 0.2, 0.5]))
    with pytest.raises(ValueError, match=r"probability: must lie in \[0, 1\]; pass probabilities, not logits"):
        op.importance_weights(np.log(PROBABILITY), PROPENSITY)
    with pytest.raises(ValueError, match="reward: contains NaN or infinity"):
        op.snips(np.array([1.0, math.nan, 0, 0]), WEIGHT)
    with pytest.raises(ValueError, match="weight: must be finite and at least 0"):
        op.ips(REWARD, np.array([1.0, math.inf, 0, 0]))
    with pytest.raises(ValueError, match="weight: all zero"):
        op.snips(REWARD, np.zeros(4))
    with pytest.raises(ValueError, match=r"model: shape \(2, 3\) and probability \(2, 2\)"):
        op.doubly_robust(np.ones(2), np.zeros(2, dtype=int), np.ones(2), np.ones((2, 2)) / 2, np.ones((2, 3)))
