"""Truth: the probabilities the world claims are the ones it draws from."""

import itertools

import numpy as np
import pytest

from reclib.world import AdWorld, AdWorldConfig
from reclib.world.truth import entropy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def events(book):
    """A random tenth of the log, first events included."""
    rng = np.random.default_rng(0)
    return np.sort(rng.choice(len(book.simulate()), size=5000, replace=False))


@pytest.fixture(scope="module")
def predicted(book, events):
    return book.next_item_distribution(event=events)


def test_rows_are_distributions_over_new_ads(book, events, predicted):
    assert predicted.sum(1) == pytest.approx(1)
    assert (predicted >= 0).all()
    assert (predicted[:, 0] == 0).all()
    clicked = book.truth.clicked(book.state(event=events))
    assert (predicted[clicked] == 0).all()


def test_clicked_ads_are_those_before_the_event(book, events):
    log = book.simulate()
    clicked = book.truth.clicked(book.state(event=events[::100]))
    for row, event in zip(clicked, events[::100], strict=True):
        assert set(np.flatnonzero(row)) == set(log.item[log.offsets[log.user[event]] : event])


def test_the_claimed_surprise_is_the_real_one(book, events, predicted):
    """E[-log P*(next)] = E[entropy of P*] if and only if events really follow P* (or something very like it)."""
    log = book.simulate()
    surprise = -np.log(predicted[np.arange(len(events)), log.item[events]])
    excess = surprise - entropy(predicted)
    assert abs(excess.mean()) <= 4 * excess.std() / np.sqrt(len(events))
    assert book.intent_entropy(event=events[:50]) == pytest.approx(entropy(predicted[:50]))


def test_probabilities_are_calibrated(book, events, predicted):
    """Of the ads said to come with probability p, a share p comes, from rare to likely."""
    hit = np.zeros(predicted.shape, dtype=bool)
    hit[np.arange(len(events)), book.simulate().item[events]] = True
    edges = [1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5, 1.0]
    for low, high in itertools.pairwise(edges):
        here = (predicted >= low) & (predicted < high)
        expected, variance = predicted[here].sum(), (predicted[here] * (1 - predicted[here])).sum()
        assert abs(hit[here].sum() - expected) <= 4 * np.sqrt(variance) + 1


def test_the_pause_before_an_event_is_weighed_by_bayes(book, events):
    """With the pause known the surprise falls, and the claimed surprise is still the real one."""
    log = book.simulate()
    with_time = book.oracle.distribution(book.state(event=events))
    assert with_time.sum(1) == pytest.approx(1)
    blind = -np.log(book.next_item_distribution(event=events)[np.arange(len(events)), log.item[events]])
    surprise = -np.log(with_time[np.arange(len(events)), log.item[events]])
    gain = blind - surprise
    assert gain.mean() > 4 * gain.std() / np.sqrt(len(events))
    excess = surprise - entropy(with_time)
    assert abs(excess.mean()) <= 4 * excess.std() / np.sqrt(len(events))


def test_average_odds_under_exposure_are_base_ctr(book):
    """Σ_i e_i o(u, i) = base_ctr for every user, exactly: P(i) sums to 1."""
    p = book.truth.click_probability(book.state(np.arange(300)))
    odds = p / (1 - p)
    assert (odds * book.catalogue.exposure).sum(1) == pytest.approx(book.config.base_ctr)
    assert (p[:, 0] == 0).all()


def test_single_pairs_agree_with_whole_rows(book):
    users = np.arange(200)
    rows = book.truth.click_probability(book.state(users))
    items = np.random.default_rng(0).integers(1, 1201, size=(200, 30))
    assert book.click_probability(users, items) == pytest.approx(rows[users[:, None], items])
    assert book.click_probability(users, items[:, 0]) == pytest.approx(rows[users, items[:, 0]])


def test_clicks_on_exposed_ads_follow_the_law_of_the_log():
    """Show ads by exposure, keep the clicked ones: their topics follow P(i), as the module claims."""
    world = AdWorld(AdWorldConfig.preset("tiny", base_ctr=1e-6))
    state = world.state(np.arange(300))
    thinned = world.catalogue.exposure * world.truth.click_probability(state)
    thinned /= thinned.sum(1, keepdims=True)
    p = world.truth.next_item_distribution(state, np.zeros(thinned.shape, dtype=bool))
    assert thinned == pytest.approx(p, abs=1e-3)  # the rest is the difference of odds and probability


def test_logged_click_probability_belongs_to_the_event(book):
    log = book.simulate()
    rng = np.random.default_rng(1)
    events = rng.integers(len(log), size=500)
    assert log.extra["click_probability"][events] == pytest.approx(
        book.click_probability(None, log.item[events], event=events), rel=1e-5
    )
    genuine = ~log.extra["noise"]
    assert log.extra["click_probability"][genuine].mean() > 5 * log.extra["click_probability"][~genuine].mean()


def test_topic_distribution_by_hand(book):
    """One user, added up in plain Python."""
    c = book.config
    state = book.state(event=np.array([book.offsets[7] + 20]))
    expected = np.zeros(48)
    for topic, weight in zip(state.interest[0], state.weight[0], strict=True):
        expected[topic] += c.return_share * weight
    expected[state.intent[0]] += c.stay_share
    for topic, share in zip(
        book.catalogue.tree.complements[state.intent[0]], book.catalogue.tree.complement_share, strict=True
    ):
        expected[topic] += c.complement_share * share
    assert book.truth.topic_distribution(state)[0] == pytest.approx(expected)
    h = -sum(p * np.log(p) for p in expected if p > 0)
    assert book.intent_entropy(event=state.event, level="topic")[0] == pytest.approx(h)


def test_affinity_by_hand(book):
    config, c, u = book.config, book.catalogue, book.users
    rng = np.random.default_rng(2)
    for user, item in zip(rng.integers(1000, size=200), rng.integers(1, 1201, size=200), strict=True):
        s = config.taste_strength * u.taste[user] @ c.vector[item]
        s += config.quality_strength * c.quality[item]
        s += config.persona_strength * (u.persona[user] == c.persona[item])
        s += config.appeal_strength * (u.appeal[user] == c.appeal[item])
        s += config.selling_strength * (u.selling_point[user] == c.selling_point[item])
        s += config.community_strength * (u.community[user] == c.community[item])
        s -= config.price_strength * abs(c.price_band[item] - (2 - u.price_sensitivity[user])) / 2
        s -= config.audience_strength * ((c.audience[item] == 1 and u.gender[user] == 1) or
                                         (c.audience[item] == 2 and u.gender[user] == 0))  # fmt: skip
        assert book.affinity.pairs(np.array([user]), np.array([item]))[0] == pytest.approx(s)
        assert book.affinity.rows(np.array([user]))[0, item] == pytest.approx(s)


def test_affinity_moves_clicks_in_the_asked_direction(book):
    """In the log, users prefer ads that fit them; hidden properties included."""
    log, c, u = book.simulate(), book.catalogue, book.users
    own, other = log.item, np.random.default_rng(3).permutation(log.item)
    for user_trait, item_trait in [
        (u.persona, c.persona), (u.appeal, c.appeal), (u.community, c.community), (u.selling_point, c.selling_point),
    ]:  # fmt: skip
        fits, chance = user_trait[log.user] == item_trait[own], user_trait[log.user] == item_trait[other]
        assert fits.mean() > chance.mean() + 4 * np.sqrt(0.25 / len(log))


def test_conversion_probability(book):
    users, items = np.arange(1000), np.random.default_rng(4).integers(1, 1201, size=1000)
    p = book.conversion_probability(users, items)
    c, u = book.catalogue, book.users
    mismatch = np.abs(c.price_band[items] - (2 - u.price_sensitivity[users])) / 2
    logit = np.log(0.05 / 0.95) + 0.5 * c.quality[items] + (c.persona[items] == u.persona[users]) - 0.5 * mismatch
    assert np.log(p / (1 - p)) == pytest.approx(logit)


def test_questions_that_make_no_sense_are_refused(tiny):
    users = np.arange(3)
    with pytest.raises(ValueError, match=r"items: must lie in 1 … 120, found 0"):
        tiny.click_probability(users, np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"users: must lie in 0 … 299"):
        tiny.click_probability(users + 298, np.array([1, 2, 3]))
    with pytest.raises(ValueError, match=r"items: must have shape \[3\] or \[3, m\]"):
        tiny.click_probability(users, np.array([1, 2]))
    with pytest.raises(ValueError, match="users: give users, or events"):
        tiny.intent_entropy()
    with pytest.raises(ValueError, match="event: belongs to other users"):
        tiny.state(users, event=tiny.offsets[[5, 6, 7]])
    with pytest.raises(ValueError, match="event: must lie in 0"):
        tiny.state(event=np.array([len(tiny.simulate())]))
    with pytest.raises(ValueError, match="level: must be 'item' or 'topic'"):
        tiny.intent_entropy(users, level="word")
    with pytest.raises(ValueError, match="users: is empty"):
        tiny.click_probability(np.array([], dtype=int), np.array([], dtype=int))
