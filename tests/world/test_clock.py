"""Time: the law of the gaps stays, only what they say about missions changes."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from reclib.world import AdWorld, AdWorldConfig
from reclib.world.clock import Clock


def world_with(dial):
    return AdWorld(AdWorldConfig(n_users=400, time_information=dial))


@pytest.fixture(scope="module", params=[0.0, 0.5, 1.0])
def timed(request):
    world = world_with(request.param)
    log = world.simulate()
    inner = np.ones(len(log), dtype=bool)
    inner[log.offsets[:-1]] = False
    gap = np.diff(log.time, prepend=0)[inner]
    return world, gap, log.extra["mission_start"][inner]


def mixture_cdf(config):
    short, long = np.log(config.session_gap), np.log(config.mission_gap)
    s = config.gap_sigma
    return lambda y: 0.5 * stats.norm.cdf((y - short) / s) + 0.5 * stats.norm.cdf((y - long) / s)


def test_gaps_have_one_law_whatever_the_dial(timed):
    world, gap, _ = timed
    result = stats.kstest(np.log(gap), mixture_cdf(world.config))
    # First events are left out, and more of them start missions than others do, which shifts the law a little.
    assert result.statistic < 0.02
    assert np.median(gap[gap < 4000]) == pytest.approx(world.config.session_gap, rel=0.1)


def test_the_dial_sets_how_well_gaps_mark_missions(timed):
    world, gap, start = timed
    delta = 4 * world.config.time_information
    assert roc_auc_score(start, gap) == pytest.approx(stats.norm.cdf(delta / np.sqrt(2)), abs=0.01)


def test_evidence_is_the_odds_ratio_of_the_gap(timed):
    """Bayes with it is calibrated: of pauses that speak for a mission with probability p, a share p starts one."""
    world, gap, start = timed
    prior = start.mean() / (1 - start.mean())
    odds = prior * world.clock.evidence(gap)
    p = odds / (1 + odds)
    bins = np.digitize(p, [0.1, 0.3, 0.5, 0.7, 0.9])
    for b in np.unique(bins):
        here = bins == b
        n = here.sum()
        assert abs(start[here].sum() - p[here].sum()) <= 5 * np.sqrt((p[here] * (1 - p[here])).sum()) + 0.01 * n
    if world.config.time_information == 0:
        assert world.clock.evidence(gap) == pytest.approx(1)


def test_evidence_inverts_the_gap():
    config = AdWorldConfig(time_information=0.7)
    clock = Clock(config, 0.6)
    gap = clock.gaps(np.array([False, True] * 2000), np.random.default_rng(0))
    x = np.random.default_rng(0).standard_normal(4000) + clock.delta * np.array([0, 1] * 2000)
    assert np.log(clock.evidence(gap)) == pytest.approx(clock.delta * x - clock.delta**2 / 2, abs=0.02)


def test_the_dial_moves_nothing_but_time():
    a, b = world_with(0.0).simulate(), world_with(0.9).simulate()
    assert (a.item == b.item).all()
    for key in a.extra:
        assert (a.extra[key] == b.extra[key]).all()
    assert not np.allclose(a.time, b.time)


def test_users_arrive_within_the_window(timed):
    world, _, _ = timed
    log = world.simulate()
    first = log.time[log.offsets[:-1]]
    assert stats.kstest(first / world.config.start_window, "uniform").pvalue > 1e-3
