"""People: the laws of their hidden traits."""

import numpy as np
import pytest
from scipy import stats

from reclib.world import AdWorld, AdWorldConfig, words

N = 20_000


@pytest.fixture(scope="module")
def crowd():
    return AdWorld(AdWorldConfig(n_users=N, noise_rate=0.2, noise_concentration=20)).users


def test_noise_rates_follow_the_beta_law(crowd):
    law = stats.beta(0.2 * 20, 0.8 * 20)
    assert stats.kstest(crowd.noise_rate, law.cdf).pvalue > 1e-3
    assert crowd.noise_rate.mean() == pytest.approx(0.2, abs=4 * law.std() / np.sqrt(N))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_noise_rate_at_its_ends_is_the_same_for_all(rate):
    users = AdWorld(AdWorldConfig.preset("tiny", noise_rate=rate)).users
    assert (users.noise_rate == rate).all()


def test_taste_is_a_random_direction(crowd):
    assert np.linalg.norm(crowd.taste, axis=1) == pytest.approx(1)
    # Each entry has mean 0 and variance 1/d.
    d = crowd.taste.shape[1]
    assert crowd.taste.mean(0) == pytest.approx(0, abs=4 / np.sqrt(d * N))
    assert (crowd.taste**2).mean(0) == pytest.approx(1 / d, abs=0.02)


def test_profiles_are_uniform_and_independent_of_the_hidden_community(crowd):
    for trait, levels in [
        (crowd.gender, 2), (crowd.age_band, 4), (crowd.price_sensitivity, 3), (crowd.region, 4),
        (crowd.selling_point, 6), (crowd.appeal, 6), (crowd.community, 5),
    ]:  # fmt: skip
        assert stats.chisquare(np.bincount(trait, minlength=levels)).pvalue > 1e-4
    table = np.histogram2d(crowd.community, crowd.gender * 4 + crowd.age_band, bins=[5, 8])[0]
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_persona_follows_from_age_and_gender_but_not_exactly(crowd):
    cell = crowd.gender * 4 + crowd.age_band
    table = np.histogram2d(cell, crowd.persona, bins=[8, 8])[0]
    assert stats.chi2_contingency(table).pvalue < 1e-10
    assert (table.max(1) / table.sum(1)).max() < 0.95


def test_the_profile_uses_known_words_and_hides_the_rest(crowd):
    for user in range(200):
        text = crowd.profile(user).split()
        assert words.GENDERS[crowd.gender[user]] in text
        assert words.AGE_BANDS[crowd.age_band[user]] in text
        assert words.PRICE_SENSITIVITY[crowd.price_sensitivity[user]] in text
        assert words.SELLING_POINTS[crowd.selling_point[user]] in text
        assert not set(text) & (set(words.PERSONAS) | set(words.APPEALS))
