"""The A/B test: right statistics, a fair randomisation, and arms that behave."""

import numpy as np
import pytest
import torch
from scipy import stats

from reclib.world import POLICIES
from reclib.world.experiment import compare

pytestmark = pytest.mark.slow


def test_the_statistics_are_welchs(book):
    rng = np.random.default_rng(0)
    a, b = rng.normal(1.1, 2.0, 300), rng.normal(1.0, 1.0, 500)
    result = compare("click", a, b)
    v = a.var(ddof=1) / 300, b.var(ddof=1) / 500
    df = sum(v) ** 2 / (v[0] ** 2 / 299 + v[1] ** 2 / 499)
    half = stats.t.ppf(0.975, df) * np.sqrt(sum(v))
    assert result.difference == pytest.approx(a.mean() - b.mean())
    assert (result.low, result.high) == pytest.approx((result.difference - half, result.difference + half))
    assert result.p_value == pytest.approx(2 * stats.t.sf(abs(result.difference) / np.sqrt(sum(v)), df))
    assert result.lift == pytest.approx(a.mean() / b.mean() - 1)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """1,000 tests of two arms whose lift is 10 %: 95 % intervals of difference and lift contain it 95 % of the time."""
    rng = np.random.default_rng(1)
    hits = np.zeros(2)
    for _ in range(1000):
        result = compare("click", rng.binomial(20, 0.11, 400) / 20, rng.binomial(20, 0.10, 400) / 20)
        hits += [result.low <= 0.01 <= result.high, result.lift_low <= 0.1 <= result.lift_high]
    assert hits / 1000 == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 1000))


def test_two_arms_with_the_same_policy_do_not_differ(book):
    """A/A tests: p-values are uniform."""
    p = [
        book.run_policy("expert", "expert", n_users=200, rounds=2, rng=np.random.default_rng(seed))["click"].p_value
        for seed in range(30)
    ]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_arms_rank_as_their_policies(book):
    """Click-through in the experiment: oracle > expert > stale > popular, the first against each beyond doubt."""
    clicks = {}
    for name in ("expert", "stale", "popular", "random"):
        result = book.run_policy("oracle", name, rounds=5)
        clicks[name] = result["click"].control
        assert result["click"].low > 0 or name == "expert"
        assert result["click"].difference > 0
    assert clicks["expert"] > clicks["stale"] > max(clicks["popular"], clicks["random"])


def test_the_first_round_agrees_with_the_exact_value_of_the_policy(book):
    result = book.run_policy("expert", "stale", rounds=1)
    for arm, name in ((0, "expert"), (1, "stale")):
        clicks = result.per_user["click"][arm]
        assert abs(clicks.mean() - book.policy_value(name).mean()) <= 4.5 * clicks.std() / np.sqrt(len(clicks))


def test_a_recommender_can_be_tested(book):
    class Constant:
        """Scores grow with the id; notes what it is given."""

        seen: list[tuple] = []  # noqa: RUF012

        def score(self, history, time=None):
            self.seen.append((history.clone(), time.clone()))
            return torch.arange(1201).float().expand(len(history), -1)

    model = Constant()
    result = book.run_policy(model, "random", n_users=100, rounds=3)
    assert result.treatment == "Constant"
    assert result.users == (50, 50)
    assert len(model.seen) == 3
    for (history, time), (later, _) in zip(model.seen[:-1], model.seen[1:], strict=True):
        length = (history > 0).sum(1)
        assert time.shape == (len(history), history.shape[1] + 1)
        grown = (later > 0).sum(1) - length
        assert ((grown == 1) | (grown == 2)).all()  # one organic event, and the slot's ad if clicked
        rows = torch.arange(len(history))
        assert (time[rows, length] > time[rows, length - 1]).all()  # the request comes after the last event
        assert (later[:, : history.shape[1]][history > 0] == history[history > 0]).all()


def test_a_function_can_be_tested(book):
    def cheapest(world, state, clicked):
        bid = np.where(clicked, np.inf, world.catalogue.bid)
        bid[:, 0] = np.inf
        return np.eye(1201)[bid.argmin(1)]

    result = book.run_policy(cheapest, "popular", n_users=200, rounds=2)
    assert result.treatment == "cheapest"
    with pytest.raises(ValueError, match="policy: must return probabilities"):
        book.run_policy(lambda world, state, clicked: clicked * 0.0, n_users=20)


def test_it_is_reproducible_and_leaves_the_world_alone(book):
    before = book.trace.final.copy()
    a, b = (book.run_policy("stale", n_users=100, rounds=3) for _ in range(2))
    assert a.to_frame().equals(b.to_frame())
    after = book.trace.final
    for field in ("intent", "interest", "strength", "awake", "woke"):
        assert (getattr(before, field) == getattr(after, field)).all()


def test_the_result_reads_well(book):
    result = book.run_policy("expert", n_users=100, rounds=2)
    text = str(result)
    assert "expert against popular: 50 and 50 users, 2 impressions each, 95% intervals" in text
    assert "click" in text
    assert "p =" in text
    assert list(result.to_frame().index) == ["click", "conversion", "revenue"]
    with pytest.raises(ValueError, match="metric: there is no 'likes'"):
        result["likes"]


def test_bad_arguments_are_refused(tiny):
    with pytest.raises(ValueError, match="policy: there is no policy 'oracel'; did you mean 'oracle'"):
        tiny.run_policy("oracel")
    with pytest.raises(ValueError, match="control: there is no policy"):
        tiny.run_policy("expert", control="nothing at all")
    with pytest.raises(ValueError, match="n_users: must be between 4 and"):
        tiny.run_policy("expert", n_users=301)
    with pytest.raises(ValueError, match="rounds: must be at least 1"):
        tiny.run_policy("expert", rounds=0)
    with pytest.raises(ValueError, match="level: must lie between"):
        tiny.run_policy("expert", level=95)
    assert set(POLICIES) == {"expert", "stale", "popular", "random", "oracle"}
