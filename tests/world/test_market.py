"""Money and meaning: the dial delivers the correlation it is set to, and moves nothing else."""

import numpy as np
import pytest

from reclib.world import ASPECTS, AdWorld, AdWorldConfig

pytestmark = pytest.mark.slow

SIZE = {"n_users": 800}


@pytest.fixture(scope="module")
def plain():
    return AdWorld(AdWorldConfig(**SIZE))


def sample(n=40_000, seed=5):
    rng = np.random.default_rng(seed)
    return rng.integers(800, size=n), rng.integers(1, 1201, size=n)


@pytest.mark.parametrize("rho", [-1.0, -0.8, -0.4, 0.0, 0.4, 0.8, 1.0])
def test_the_dial_delivers_the_asked_correlation(plain, rho):
    world = AdWorld(AdWorldConfig(**SIZE, alignment=rho))
    users, items = sample()
    reward = np.log(1000 * world.expected_revenue(users, items))
    fit = world.semantic_fit(users, items)
    # The constants come from other random pairs; a correlation of 40,000 pairs has a standard error below 0.005.
    assert np.corrcoef(reward, fit)[0, 1] == pytest.approx(rho, abs=0.02)
    # Mean and spread of the reward are those under plain bids.
    natural = np.log(1000 * plain.expected_revenue(users, items))
    assert reward.mean() == pytest.approx(natural.mean(), abs=0.05)
    assert reward.std() == pytest.approx(natural.std(), rel=0.05)


@pytest.mark.parametrize("rho", [-0.8, 0.8])
def test_the_conflict_is_there_inside_every_user_too(rho):
    """A policy chooses among the ads of one user, so the sign must hold per user."""
    world = AdWorld(AdWorldConfig(**SIZE, alignment=rho))
    users = np.arange(60)
    items = np.tile(np.arange(1, 1201), (60, 1))
    reward, fit = np.log(world.expected_revenue(users, items)), world.semantic_fit(users, items)
    per_user = np.array([np.corrcoef(r, f)[0, 1] for r, f in zip(reward, fit, strict=True)])
    assert per_user.mean() == pytest.approx(rho, abs=0.1)
    assert (np.sign(per_user) == np.sign(rho)).all()


def test_the_dial_moves_nothing_but_bids(plain):
    world = AdWorld(AdWorldConfig(**SIZE, alignment=-0.8))
    a, b = plain.simulate(), world.simulate()
    assert (a.item == b.item).all()
    assert (a.time == b.time).all()
    for key in a.extra:
        assert (a.extra[key] == b.extra[key]).all()
    users, items = sample(2000)
    assert (plain.click_probability(users, items) == world.click_probability(users, items)).all()
    assert (plain.semantic_fit(users, items) == world.semantic_fit(users, items)).all()
    assert not np.allclose(plain.bids(users, items), world.bids(users, items))
    assert plain.catalogue.table.equals(world.catalogue.table)


def test_plain_bids_are_the_catalogues(plain):
    users, items = sample(2000)
    assert (plain.bids(users, items) == plain.catalogue.bid[items]).all()
    assert plain.expected_revenue(users, items) == pytest.approx(
        plain.click_probability(users, items) * plain.catalogue.bid[items]
    )


def test_at_the_natural_correlation_the_adjustment_vanishes(plain):
    natural = plain.market.calibration.natural
    assert 0 < natural < 1
    world = AdWorld(AdWorldConfig(**SIZE, alignment=natural))
    users, items = sample(2000)
    assert world.bids(users, items) == pytest.approx(plain.bids(users, items))


def test_fit_is_a_weighted_mean_of_the_aspects(plain):
    users, items = sample(3000)
    aspects, weights = plain.aspects(users, items), plain.aspect_weights(users)
    assert aspects.shape == (3000, len(ASPECTS))
    assert ((aspects >= 0) & (aspects <= 1)).all()
    assert (weights >= 0).all()
    assert weights.sum(1) == pytest.approx(1)
    assert plain.semantic_fit(users, items) == pytest.approx((aspects * weights).sum(1))
    assert plain.semantic_fit(users[:30], items.reshape(30, 100)).shape == (30, 100)


def test_aspects_by_hand(plain):
    """In plain Python, for some events in the middle of the log, so that novelty must not look ahead."""
    log, c, u, tree = plain.simulate(), plain.catalogue, plain.users, plain.catalogue.tree
    rng = np.random.default_rng(0)
    events, items = rng.integers(len(log), size=300), rng.integers(1, 1201, size=300)
    answers = plain.aspects(None, items, event=events)
    state = plain.state(event=events)
    for k, (event, item) in enumerate(zip(events, items, strict=True)):
        user, topic = log.user[event], c.topic[item]
        audience_fits = c.audience[item] == 0 or c.audience[item] == u.gender[user] + 1
        mismatch = abs(c.price_band[item] - (2 - u.price_sensitivity[user])) / 2
        profile = (
            audience_fits + 1 - mismatch + (c.selling_point[item] == u.selling_point[user])
            + (c.persona[item] == u.persona[user])
        ) / 4  # fmt: skip
        awake = [t for t, w in zip(state.interest[k], state.weight[k], strict=True) if w > 0]
        industries = {tree.industry[t] for t in awake}
        interest = 1 if topic in awake else 0.5 if tree.industry[topic] in industries else 0
        past = c.topic[log.item[log.offsets[user] : event]]
        novelty = 0 if topic in past else 0.5 if tree.industry[topic] in tree.industry[past] else 1
        intent = state.intent[k]
        context = 0 if intent < 0 else 1 if topic == intent else 0.5 if topic in tree.complements[intent] else 0
        assert answers[k] == pytest.approx([profile, interest, novelty, context])


def test_a_recent_shift_doubles_the_weight_of_context(plain):
    weights = plain.aspect_weights(event=plain.offsets[:-1] + 15)
    state = plain.state(event=plain.offsets[:-1] + 15)
    shifted = (state.intent >= 0) & ~((state.interest == state.intent[:, None]) & (state.weight > 0)).any(1)
    assert 0.05 < shifted.mean() < 0.95
    ratio = weights[:, 3] / weights[:, 0]
    for age in range(4):
        here = plain.users.age_band == age
        assert ratio[here & shifted].mean() == pytest.approx(2 * ratio[here & ~shifted].mean())


def test_users_click_what_fits_more_than_chance(plain):
    log = plain.simulate()
    events = np.flatnonzero(~log.extra["noise"])[::10]
    fit = plain.semantic_fit(None, log.item[events], event=events)
    chance = plain.semantic_fit(None, np.random.default_rng(1).integers(1, 1201, size=len(events)), event=events)
    assert fit.mean() > chance.mean() + 0.1
