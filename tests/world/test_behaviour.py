"""What users do: every share, rate and half-life of the configuration, measured in the log or in the minds."""

import numpy as np
import pytest
from scipy import stats

from reclib.world import SOURCES, AdWorld, AdWorldConfig
from reclib.world.behaviour import COMPLEMENTARY, INTENT, NOISE, OWN, RETURNED, drift, newborn

pytestmark = pytest.mark.slow

# Topics of 50 ads are not exhausted by histories of 50 events, so sources have exactly the shares asked for.
ROOMY = {"n_users": 1000, "n_items": 4800, "n_complements": 2}


@pytest.fixture(scope="module")
def roomy():
    return AdWorld(AdWorldConfig(**ROOMY))


def shares(world):
    source = world.simulate().extra["source"]
    return np.bincount(source, minlength=len(SOURCES)) / len(source)


def close(count, n, p, sigmas=4):
    """A binomial count lies within some standard errors of what it should be."""
    return abs(count - n * p) <= sigmas * np.sqrt(n * p * (1 - p))


# ------------------------------------------------------------------------------------------------- the log itself


def test_the_log_is_well_formed(book):
    log = book.simulate()
    assert log.n_users == 1000
    assert log.n_items == 1200
    assert log.lengths.min() >= book.config.min_events
    assert set(log.extra) == {
        "source", "noise", "intent", "topic", "mission_start", "session_position", "click_probability",
    }  # fmt: skip
    assert log.items.equals(book.catalogue.table)


def test_nobody_clicks_an_ad_twice(book, lifelong):
    for world in (book, lifelong):
        log = world.simulate()
        pairs = log.user * (log.n_items + 1) + log.item
        assert len(np.unique(pairs)) == len(log)


def test_lengths_are_log_normal_with_the_asked_mean():
    config = AdWorldConfig(n_users=20_000)
    length = np.diff(AdWorld(config).offsets)
    s = config.sigma_events
    se = 50 * np.sqrt(np.expm1(s**2) / 20_000)
    assert length.mean() == pytest.approx(config.mean_events, abs=5 * se)  # min_events cuts 0.01 % of the law
    assert np.log(length).std() == pytest.approx(s, rel=0.03)


def test_labels_agree_with_one_another(book):
    log, trace = book.simulate(), book.trace
    x, first = log.extra, log.offsets[:-1]
    assert (x["noise"] == (x["source"] == NOISE)).all()
    assert (x["topic"] == book.catalogue.topic[log.item]).all()
    # The intent moves to the topic of a genuine click and stays through an accident …
    assert (x["intent"][~x["noise"]] == x["topic"][~x["noise"]]).all()
    assert (x["intent"][x["noise"]] == trace.intent_before[x["noise"]]).all()
    # … and is what the next event finds.
    inner = np.ones(len(log), dtype=bool)
    inner[first] = False
    assert (trace.intent_before[inner] == x["intent"][np.flatnonzero(inner) - 1]).all()
    assert (trace.intent_before[first] == -1).all()
    assert (x["mission_start"] == np.isin(x["source"], [OWN, RETURNED])).all()
    # Positions count from a mission's start, or from a user's first event.
    zero = x["session_position"] == 0
    assert (zero[first]).all()
    assert (zero[inner] == x["mission_start"][inner]).all()
    assert (x["session_position"][~zero] == x["session_position"][np.flatnonzero(~zero) - 1] + 1).all()


def test_topics_of_genuine_clicks_are_where_the_source_says(book):
    log, trace, tree = book.simulate(), book.trace, book.catalogue.tree
    source, topic = log.extra["source"], log.extra["topic"]
    awake = (trace.interest == topic[:, None]) & (trace.weight > 0)
    assert awake[np.isin(source, [OWN, RETURNED])].any(1).all()
    assert (topic == trace.intent_before)[source == INTENT].all()
    moved = source == COMPLEMENTARY
    assert (tree.complements[trace.intent_before[moved]] == topic[moved, None]).any(1).all()


# ------------------------------------------------------------------------------------------------ shares and rates


def test_sources_have_the_shares_that_were_asked_for(roomy):
    config, source = roomy.config, roomy.simulate().extra["source"]
    x = roomy.trace
    genuine = (source != NOISE) & (x.intent_before >= 0)
    n = genuine.sum()
    assert close(np.isin(source[genuine], [OWN, RETURNED]).sum(), n, config.return_share)
    assert close((source[genuine] == INTENT).sum(), n, config.stay_share)
    assert close((source[genuine] == COMPLEMENTARY).sum(), n, config.complement_share)
    # Before there is an intent, a genuine click can only be an own interest.
    no_intent = (source != NOISE) & (x.intent_before < 0)
    assert np.isin(source[no_intent], [OWN, RETURNED]).all()


def test_complements_come_in_the_asked_order_of_frequency(roomy):
    source, topic, tree = roomy.trace.source, roomy.simulate().extra["topic"], roomy.catalogue.tree
    moved = source == COMPLEMENTARY
    rank = (tree.complements[roomy.trace.intent_before[moved]] == topic[moved, None]).argmax(1)
    observed = np.bincount(rank, minlength=len(tree.complement_share))
    assert stats.chisquare(observed, tree.complement_share * len(rank)).pvalue > 1e-3


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3])
def test_the_noise_rate_is_what_was_asked_for(rate):
    world = AdWorld(AdWorldConfig(**ROOMY, noise_rate=rate))
    log = world.simulate()
    noise = log.extra["noise"]
    expected = world.users.noise_rate[log.user]
    # Given each user's own rate, events are independent coins.
    assert abs(noise.sum() - expected.sum()) <= 4 * np.sqrt((expected * (1 - expected)).sum()) + 1e-9
    # And users differ as much as their rates do.
    if rate:
        share = np.bincount(log.user, noise) / log.lengths
        slope = np.polyfit(world.users.noise_rate, share, 1)[0]
        assert slope == pytest.approx(1, abs=0.1)


def test_accidents_follow_exposure_whoever_has_them(book):
    log, c = book.simulate(), book.catalogue
    item = log.item[log.extra["noise"]]
    # Pool ads by exposure into 20 groups of equal mass; nobody clicks twice, which bends this a little.
    order = np.argsort(c.exposure[1:]) + 1
    group = np.zeros(c.n_items + 1, dtype=int)
    group[order] = np.minimum(np.cumsum(c.exposure[order]) * 20, 19).astype(int)
    expected = np.bincount(group, c.exposure, minlength=20)
    assert stats.chisquare(np.bincount(group[item], minlength=20), expected * len(item)).pvalue > 1e-4


def test_first_clicks_of_a_topic_follow_the_preference_law(book):
    """P(i | u, z) = e_i exp s(u, i) / N(u, z), checked by its rank transform: summed in any fixed order of the ads,
    the cumulative probability around the drawn ad, randomised within it, is uniform on [0, 1]."""
    log, world = book.simulate(), book
    topic, noise = log.extra["topic"], log.extra["noise"]
    key = log.user * 96 + topic
    fresh = np.zeros(len(log), dtype=bool)
    fresh[np.unique(key, return_index=True)[1]] = True
    event = np.flatnonzero(fresh & ~noise)
    user, item, z = log.user[event], log.item[event], topic[event]
    shelf = world.catalogue.topic_items[z]
    s = np.stack([world.affinity.pairs(user, shelf[:, k]) for k in range(shelf.shape[1])], axis=1)
    p = np.where(shelf > 0, world.catalogue.exposure[shelf] * np.exp(s), 0)
    p /= p.sum(1, keepdims=True)
    assert np.log(p[shelf == item[:, None]]).mean() == pytest.approx(
        (p * np.log(np.maximum(p, 1e-300))).sum(1).mean(), abs=0.03
    )
    place = (shelf == item[:, None]).argmax(1)
    below = np.where(np.arange(p.shape[1]) < place[:, None], p, 0).sum(1)
    u = below + np.random.default_rng(0).random(len(p)) * p[np.arange(len(p)), place]
    assert stats.kstest(u, "uniform").pvalue > 1e-3


# ----------------------------------------------------------------------------------------------- interests over time


@pytest.fixture(scope="module")
def minds_over_time():
    """2,000 minds watched for 300 events: topics, strengths and wakefulness of their slots."""
    config = AdWorldConfig(n_users=2000, awake_events=30, sleep_events=15, interest_lifetime=120, drift_events=40)
    world, rng = AdWorld(config), np.random.default_rng(0)
    minds = newborn(config, world.users, np.arange(2000), rng)
    topics, strength, awake = [], [], []
    for _ in range(300):
        topics.append(minds.interest.copy())
        strength.append(minds.strength.copy())
        awake.append(minds.awake.copy())
        drift(minds, config, world.users, rng)
    return config, np.stack(topics), np.stack(strength), np.stack(awake)


def test_interests_of_a_user_are_different_topics(minds_over_time):
    _, topics, _, awake = minds_over_time
    ordered = np.sort(topics, axis=2)
    assert (np.diff(ordered, axis=2) > 0).all()
    assert awake.any(2).all()


def test_interests_live_as_long_as_asked(minds_over_time):
    config, topics, _, _ = minds_over_time
    changes = (topics[1:] != topics[:-1]).sum()
    # Two slots falling due together lose one (1 % of cases at this rate), hence the tolerance.
    assert changes == pytest.approx(topics[1:].size / config.interest_lifetime, rel=0.03)


def test_strengths_are_stationary_and_forget_at_the_asked_rate(minds_over_time):
    config, topics, strength, _ = minds_over_time
    for t in (0, 150, 299):
        assert strength[t].std() == pytest.approx(config.interest_sigma, rel=0.04)
    same = topics[100] == topics[120]
    correlation = np.corrcoef(strength[100][same], strength[120][same])[0, 1]
    assert correlation == pytest.approx(np.exp(-20 / config.drift_events), abs=0.04)


def test_sleep_is_geometric_with_the_asked_mean(minds_over_time):
    config, _, _, awake = minds_over_time
    # Falls in the first half, so that almost every sleep ends within the window (mean 15, window 150 more).
    t, user, slot = np.nonzero(awake[:149] & ~awake[1:150])
    later = awake[1:, user, slot]  # [time, falls]
    asleep = np.array([np.argmax(later[start:, k]) for k, start in enumerate(t)])
    assert asleep.min() >= 1
    # A new interest in the slot also ends a sleep: rate 1/15 + 1/120.
    rate = 1 - (1 - 1 / config.sleep_events) * (1 - 1 / config.interest_lifetime)
    assert asleep.mean() == pytest.approx(1 / rate, rel=0.05)
    for n in (5, 10, 30):
        assert (asleep > n).mean() == pytest.approx((1 - rate) ** n, abs=0.02)


def test_new_interests_follow_the_persona(book):
    """Interests at birth are drawn with P(z | persona) ∝ exp(logits), without replacement."""
    users, config = book.users, book.config
    rng = np.random.default_rng(1)
    who = np.flatnonzero(users.persona == users.persona[0])[:1].repeat(20_000)
    first = newborn(config, users, who, rng).interest[:, 0]
    logits = users.interest_logits[users.persona[who[0]]]
    p = np.exp(logits - logits.max())
    assert stats.chisquare(np.bincount(first, minlength=config.n_topics), p / p.sum() * 20_000).pvalue > 1e-4


def test_lifelong_interests_return_after_hundreds_of_events(lifelong):
    log, trace = lifelong.simulate(), lifelong.trace
    assert log.lengths.min() >= 1000
    returned = np.flatnonzero(log.extra["source"] == RETURNED)
    assert (np.bincount(log.user[returned], minlength=log.n_users) >= 3).mean() > 0.9
    # How many events ago did the user last click the topic for its own sake?
    own = np.isin(log.extra["source"], [OWN, RETURNED])
    key = log.user * 96 + log.extra["topic"]
    event = np.flatnonzero(own)[np.argsort(key[own], kind="stable")]
    previous = np.where(np.diff(key[event], prepend=-1) == 0, np.roll(event, 1), -1)
    pause = np.full(len(log), -1)
    pause[event] = np.where(previous >= 0, event - previous, -1)
    away = pause[returned]
    away = away[away > 0]  # the rest had not been clicked before this sleep
    assert np.median(away) > 150
    assert (away > 300).mean() > 0.2
    assert (away > 500).sum() > 10
    # While asleep an interest has no weight at all.
    assert (trace.weight == 0).mean() > 0.4


def test_a_returned_interest_really_slept(book):
    """Just before a `returned` event, and since its last use, the interest had been at weight 0."""
    log, trace = book.simulate(), book.trace
    returned = np.flatnonzero(log.extra["source"] == RETURNED)
    rng = np.random.default_rng(0)
    for event in rng.choice(returned, size=200, replace=False):
        begin, topic = log.offsets[log.user[event]], log.extra["topic"][event]
        slot = np.flatnonzero((trace.interest[event] == topic) & (trace.weight[event] > 0))[0]
        past = slice(begin, event)
        used = np.isin(log.extra["source"][past], [OWN, RETURNED]) & (log.extra["topic"][past] == topic)
        since = begin + (np.flatnonzero(used)[-1] + 1 if used.any() else 0)
        # An interest asleep at birth may wake in the pause before the first event that records it.
        assert (trace.weight[since:event, slot] == 0).any()
