"""Intervals against scipy, an exact bootstrap, and their own promise: 95 % of them hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from reclib.intervals import bootstrap_interval, seed_interval


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_seed_interval_agrees_with_scipy(level):
    values = np.random.default_rng(0).normal(0.3, 0.05, size=5)
    found = seed_interval(values, level=level)
    low, high = stats.t.interval(level, 4, loc=values.mean(), scale=stats.sem(values))
    assert found == pytest.approx((values.mean(), low, high), rel=1e-12)


def test_seed_interval_by_hand():
    # s = 1, √n = √3, t(.975, 2) = 4.302653
    assert seed_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert seed_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


def test_the_t_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [seed_interval(rng.normal(size=4)) for _ in range(3000)]
    hits = np.mean([low <= 0 <= high for _, low, high in intervals])
    assert abs(hits - 0.95) < 3 * (0.95 * 0.05 / 3000) ** 0.5


def test_bootstrap_of_two_values_is_known():
    """Resampled means of {0, 1} are 0, ½, 1 with probability ¼, ½, ¼."""
    assert bootstrap_interval([0.0, 1.0], level=0.95) == (0.5, 0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5, 0.5)


def test_bootstrap_agrees_with_a_plain_one():
    values = np.random.default_rng(2).exponential(size=300)
    found = bootstrap_interval(values, resamples=4000)
    rng = np.random.default_rng(3)
    means = values[rng.integers(0, 300, size=(4000, 300))].mean(1)
    spread = means.std()
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.1 * spread)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.1 * spread)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, level=0.5).low > found.low


def test_pairing_cancels_what_users_share():
    rng = np.random.default_rng(4)
    users = rng.normal(size=400)
    ours, theirs = users + 0.1 * rng.normal(size=400) + 0.05, users + 0.1 * rng.normal(size=400)
    paired = bootstrap_interval(ours, theirs)
    alone = bootstrap_interval(ours)
    assert paired.mean == pytest.approx(ours.mean() - theirs.mean())
    assert paired.low > 0  # the difference shows only when paired
    assert alone.low < 0
    assert paired.high - paired.low < (alone.high - alone.low) / 3


def test_no_spread():
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25, 0.25)
    assert bootstrap_interval([1.0, 2.0], [0.0, 1.0]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("interval", [bootstrap_interval, seed_interval])
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([0.5], "values: need a list of at least two"),
        ([], "values: need a list of at least two"),
        ([[0.1, 0.2], [0.3, 0.4]], r"values: need a list of at least two .* shape \(2, 2\)"),
        ([0.1, math.nan], "values: contain NaN"),
        ([0.1, math.inf], "values: contain NaN or infinity"),
    ],
)
def test_bad_values(interval, values, problem):
    with pytest.raises(ValueError, match=problem):
        interval(values)


@pytest.mark.parametrize("interval", [bootstrap_interval, seed_interval])
@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_bad_level(interval, level):
    with pytest.raises(ValueError, match="level: must lie between 0 and 1"):
        interval([0.1, 0.2], level=level)


def test_a_baseline_of_other_users():
    with pytest.raises(ValueError, match=r"baseline: shape \(3,\) differs from values \(2,\)"):
        bootstrap_interval([0.1, 0.2], [0.1, 0.2, 0.3])
