"""Logging policies: known quality, true propensities, any mixture."""

import numpy as np
import pytest
from scipy import stats

from reclib.world import POLICIES

pytestmark = pytest.mark.slow

MIX = {"expert": 0.1, "stale": 0.6, "random": 0.3}


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_a_distribution_over_new_ads(book, name):
    state = book.state(np.arange(200))
    clicked = book.truth.clicked(state)
    p = POLICIES[name](book, state, clicked)
    assert p.shape == (200, 1201)
    assert p.sum(1) == pytest.approx(1)
    assert (p >= 0).all()
    assert (p[:, 0] == 0).all()
    assert (p[clicked] == 0).all()


@pytest.mark.parametrize("reward", ["click", "revenue"])
def test_policies_rank_as_their_names_say(book, reward):
    users = np.arange(100 if reward == "revenue" else 1000)
    value = {name: book.policy_value(name, users, reward=reward).mean() for name in POLICIES}
    # Odds are lifts over exposure, so being shown often earns nothing per impression: popular and random are both poor.
    assert value["expert"] > 2 * value["stale"] > 10 * max(value["popular"], value["random"])
    if reward == "click":
        assert value["oracle"] > value["expert"]


def test_the_oracle_beats_every_policy_for_every_user(book):
    users = np.arange(300)
    best = book.policy_value("oracle", users)
    for name in POLICIES:
        assert (best >= book.policy_value(name, users) - 1e-12).all()


def test_logged_propensities_are_those_of_the_mixture(book):
    logged = book.log(MIX, 600, np.random.default_rng(0))
    state = book.state(logged.user)
    clicked = book.truth.clicked(state)
    expected = sum(
        ratio * POLICIES[name](book, state, clicked)[np.arange(600), logged.item] for name, ratio in MIX.items()
    )
    assert logged.propensity == pytest.approx(expected)
    assert (logged.propensity >= 0.3 / 1200).all()


def test_ads_are_shown_as_often_as_their_propensity_says(tiny):
    """All of one user's ads, many times over: chi-square against the mixture."""
    user = 5
    event = np.full(20_000, tiny.offsets[user] + 12)
    logged = tiny.log(MIX, len(event), np.random.default_rng(1), event=event)
    p = np.zeros(121)
    p[logged.item] = logged.propensity
    assert p.sum() == pytest.approx(1, abs=0.01)  # what never came is rare
    shown = np.bincount(logged.item, minlength=121)
    common = p * len(event) > 5
    observed = np.append(shown[common], shown[~common].sum())
    expected = np.append(p[common], 1 - p[common].sum()) * len(event)
    assert stats.chisquare(observed[expected > 1], expected[expected > 1] * observed[expected > 1].sum()
                           / expected[expected > 1].sum()).pvalue > 1e-4  # fmt: skip


def test_ratios_are_followed(book):
    logged = book.log({"expert": 1, "stale": 6, "random": 3}, 5000, np.random.default_rng(2))
    share = np.bincount(logged.policy, minlength=3)
    assert stats.chisquare(share, [500, 3000, 1500]).pvalue > 1e-4
    assert logged.policies == ("expert", "stale", "random")


def test_feedback_follows_its_probabilities(book):
    logged = book.log({"expert": 1}, 20_000, np.random.default_rng(3))
    p = logged.click_probability
    assert abs(logged.click.sum() - p.sum()) <= 4 * np.sqrt((p * (1 - p)).sum())
    q = book.conversion_probability(logged.user, logged.item)[logged.click]
    assert abs(logged.conversion.sum() - q.sum()) <= 4 * np.sqrt((q * (1 - q)).sum())
    assert not (logged.conversion & ~logged.click).any()
    assert (logged.revenue == np.where(logged.click, book.bids(logged.user, logged.item), 0)).all()
    assert logged.expected_revenue == pytest.approx(p * book.bids(logged.user, logged.item))
    assert p == pytest.approx(book.click_probability(logged.user, logged.item))


def test_propensities_let_one_policy_be_judged_by_the_log_of_others(book):
    """Inverse propensity weighting is unbiased: from the mixture's log it finds the value of the expert."""
    logged = book.log({"expert": 1, "stale": 1, "random": 1}, 6000, np.random.default_rng(4))
    state = book.state(logged.user)
    target = POLICIES["expert"](book, state, book.truth.clicked(state))[np.arange(6000), logged.item]
    # True click probabilities instead of clicks: same expectation, less noise.
    estimate = target / logged.propensity * logged.click_probability
    truth = book.policy_value("expert")[logged.user]
    excess = estimate - truth
    assert abs(excess.mean()) <= 4 * excess.std() / np.sqrt(len(excess))


def test_the_stale_policy_knows_the_past_only(book):
    state = book.state(np.arange(50))
    past = book.truth.earlier(state, 20)
    assert (past.event == np.maximum(state.event - 20, book.offsets[:50])).all()
    assert (past.user == state.user).all()
    none = np.zeros((50, 1201), dtype=bool)
    p = POLICIES["stale"](book, state, none)
    assert p == pytest.approx(POLICIES["expert"](book, past, none))


def test_logging_at_moments_of_the_past(book):
    event = book.offsets[:40] + 10
    logged = book.log({"popular": 1}, 40, np.random.default_rng(5), event=event)
    assert (logged.user == np.arange(40)).all()
    assert (logged.event == event).all()
    history = book.simulate().item
    for row in range(40):
        assert logged.item[row] not in history[book.offsets[row] : event[row]]


def test_a_log_is_reproducible_and_becomes_a_table(book):
    a, b = (book.log(MIX, 300, np.random.default_rng(6)).to_frame() for _ in range(2))
    assert a.equals(b)
    assert set(a["policy"]) <= set(MIX)
    assert len(a) == 300


def test_bad_mixtures_are_refused(tiny):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"policy_mix: there is no policy 'expart'; did you mean 'expert'"):
        tiny.log({"expart": 1}, 10, rng)
    with pytest.raises(ValueError, match="policy_mix: ratios must be at least 0"):
        tiny.log({"expert": -1, "random": 2}, 10, rng)
    with pytest.raises(ValueError, match="policy_mix: ratios must be at least 0 and not all 0"):
        tiny.log({}, 10, rng)
    with pytest.raises(ValueError, match="n: must be at least 1"):
        tiny.log({"random": 1}, 0, rng)
    with pytest.raises(ValueError, match="event: has 2 entries but n is 3"):
        tiny.log({"random": 1}, 3, rng, event=np.array([1, 2]))
    with pytest.raises(ValueError, match="reward: must be"):
        tiny.policy_value("random", reward="likes")
