"""The experiments of chapter 03: learners, estimators and records, on bandits small enough to check by other means."""

import math
from dataclasses import replace

import pytest
import torch

from reclib.experiments import ch03_policy_gradients as ch03
from reclib.experiments.ad_bandit import expected_reward, follow, log_policy, sample_pages, uniform_policy
from reclib.experiments.results import load
from reclib.ledger import claims
from reclib.objectives.grpo import dr_grpo_loss, reinforce_loss

pytestmark = pytest.mark.slow

CONFIG = ch03.SCALES["smoke"]


@pytest.fixture(scope="module")
def clicks():
    return ch03.measured_bandit(CONFIG, (0, 1, 2))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_exact_gradient_equals_finite_differences(clicks):
    bandit, scale = clicks
    bandit = replace(bandit, user=bandit.user.double(), ad=bandit.ad.double(), click=bandit.click.double())
    policy = ch03.Policy(scale.half.ads.double(), scale.half.stop.double())
    exact = ch03.exact_gradient(bandit, policy)
    for row, column in ((0, 0), (3, 5), (7, 1)):
        values = []
        for step in (1e-4, -1e-4):
            ads = policy.ads.clone()
            ads[:, row, column] += step
            values.append(expected_reward(bandit, log_policy(bandit, policy._replace(ads=ads))).mean(1))
        torch.testing.assert_close((values[0] - values[1]) / 2e-4, exact[:, row, column], rtol=1e-4, atol=1e-8)


def test_gradients_of_replicates_equal_autograd_one_by_one(clicks):
    bandit, scale = clicks
    pages = sample_pages(bandit, scale.half, 6, 4, generator())
    found = ch03.policy_gradients(scale.half, pages, pages.reward, dr_grpo_loss, 3)
    for part in range(3):
        weights = scale.half.ads.clone().requires_grad_()
        some = pages.at(torch.arange(2 * part, 2 * part + 2).expand(3, 2))
        log_prob = some.log_policy(scale.half._replace(ads=weights)).flatten(1)
        loss = reinforce_loss(log_prob, some.reward.flatten(1)).sum()
        torch.testing.assert_close(found[:, part], -torch.autograd.grad(loss, weights)[0], rtol=1e-4, atol=1e-6)


def test_quality_of_an_estimator_with_known_bias_and_noise():
    exact = torch.randn(2, 3, 4, generator=generator()).double()
    noise = torch.randn(2, 20_000, 3, 4, generator=generator(1)).double()
    moments = ch03.Moments()
    moments.add(0.5 * exact[:, None] + 2 * noise)
    size = exact.square().sum((1, 2))
    quality = moments.quality(exact)
    torch.testing.assert_close(quality.length, torch.full((2,), 0.5).double(), rtol=0.1, atol=0)
    torch.testing.assert_close(quality.cosine, torch.ones(2).double(), rtol=0.02, atol=0)
    torch.testing.assert_close(quality.variance, 4 * 12 / size, rtol=0.05, atol=0)
    torch.testing.assert_close(quality.noise, quality.variance / quality.length**2)


def test_group_mean_is_leave_one_out_shrunk_on_the_same_samples(clicks):
    bandit, scale = clicks
    found = ch03.baseline_quality(bandit, scale.half, 2, budget=16, replicates=100, generator=generator())
    torch.testing.assert_close(found["group mean"].length, found["leave-one-out"].length / 2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["group mean"].variance, found["leave-one-out"].variance / 4, rtol=1e-4, atol=1e-6)


def test_share_without_variance_equals_simulation(clicks):
    bandit, scale = clicks
    for size in (2, 8):
        exact = ch03.zero_variance_share(bandit, scale.half, size)
        pages = sample_pages(bandit, scale.half, 20_000, size, generator())
        seen = (pages.reward.amax(-1) == pages.reward.amin(-1)).float().mean(1)
        torch.testing.assert_close(seen, exact, rtol=0, atol=4 * 0.5 / math.sqrt(20_000))


@pytest.mark.parametrize("std", ["sample", "none"])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_weight_of_a_user_equals_simulation(std, p):
    """One user, two ads, of which one always and one never pays: the gradient of p in the logit is p (1 - p)."""
    size, draws = 4, 200_000
    hit = (torch.rand(draws, size, generator=generator()) < p).double()
    gain = ch03.group_advantages(hit, std=std, eps=0.0).advantages
    estimate = (gain * (hit - p)).mean(-1)  # the score of the logit
    expected = ch03.difficulty_weight(p, size, std) * p * (1 - p)
    assert estimate.mean().item() == pytest.approx(expected, abs=4 * estimate.std().item() / math.sqrt(draws))
    if std == "none":
        assert expected == pytest.approx((1 - 1 / size) * p * (1 - p))


def test_dynamic_sampling_keeps_the_first_informative_groups():
    flat = torch.tensor(
        [[True, False, True, False, False], [True, True, True, False, True], [False, False, True, True, True]]
    )
    rows, kept, looked_at = ch03.first_informative(flat, 2)
    assert rows[0].tolist() == [1, 3]
    assert rows[1, 0] == 3
    assert rows[2].tolist() == [0, 1]
    assert kept.tolist() == [[True, True], [True, False], [True, True]]
    assert looked_at.tolist() == [4, 5, 2]


def test_samples_are_interpolated():
    samples = torch.tensor([[0.0, 0.0], [10.0, 20.0], [20.0, 40.0]]).double()
    values = torch.tensor([[0.0, 0.0], [1.0, 1.0], [3.0, 2.0]]).double()
    assert ch03.at_samples(samples, values, 15).tolist() == pytest.approx([2.0, 0.75])
    assert ch03.at_samples(samples, values, 20).tolist() == pytest.approx([3.0, 1.0])


def test_each_row_of_the_stack_learns_at_its_own_rate_as_adam_would(clicks):
    """One update at two rates; Adam's first step is the rate times the sign of the gradient."""
    bandit, _ = clicks
    lr = torch.tensor([0.01, 0.1, 0.0])
    learner = ch03.LEARNERS["RLOO"]
    done = ch03.train(bandit, learner, lr, updates=1, groups=8, size=4, generator=generator(), every=1)
    moved = done.snapshots[1].ads.abs()
    assert (moved[2] == 0).all()
    for row in (0, 1):
        steps = moved[row][moved[row] > 0.5 * lr[row]]
        torch.testing.assert_close(steps, lr[row].expand_as(steps), rtol=0.05, atol=0)
        assert len(steps) > 20


@pytest.mark.parametrize("name", ch03.LEARNERS)
@pytest.mark.parametrize("kind", ["clicks", "page"])
def test_every_learner_learns(name, kind):
    bandit, scale = ch03.measured_bandit(replace(CONFIG, users=8), (0, 1, 2), kind)
    done = ch03.train(
        bandit, ch03.LEARNERS[name], torch.full((3,), 0.05), updates=60, groups=16, size=8, generator=generator()
    )
    gain = scale.gain(follow(bandit, done.snapshots))
    assert gain[-1].mean() > 0.25
    assert done.steps == (0, 10, 20, 30, 40, 50, 60)
    drawn = done.samples[-1]
    assert (drawn >= 60 * 16 * 8).all() if ch03.LEARNERS[name].dynamic else (drawn == 60 * 16 * 8).all()


def test_first_epoch_has_ratio_one_and_nothing_clipped(clicks):
    bandit, _ = clicks
    done = ch03.train(
        bandit, ch03.LEARNERS["RLOO"], torch.full((3,), 0.1), updates=5, groups=8, size=4, generator=generator()
    )
    assert (done.token_ratio_std < 1e-4).all()
    assert (done.clip_fraction == 0).all()


def test_a_penalty_holds_the_policy_near_its_start(clicks):
    bandit, _ = clicks
    start = uniform_policy(bandit)
    kl = []
    for beta in (0.0, 1.0):
        learner = replace(ch03.ON_POLICY, beta=beta)
        done = ch03.train(bandit, learner, torch.full((3,), 0.05), updates=60, groups=16, size=8, generator=generator())
        kl.append(ch03.kl_to(bandit, done.snapshots[-1], start))
    assert (kl[1] < 0.5 * kl[0]).all()


def test_a_reward_model_with_a_long_honest_log_knows_the_truth_better(clicks):
    bandit, _ = clicks
    error = {
        (n, taps): (ch03.fit_reward_model(bandit, uniform_policy(bandit), n, taps, generator()).click - bandit.click)
        .square()
        .mean()
        .item()
        for n in (200, 50_000)
        for taps in (False, True)
    }
    assert error[50_000, False] < 0.5 * error[200, False]
    assert error[50_000, True] > 2 * error[50_000, False]  # more data does not mend a wrong label


def test_k3_is_unbiased_and_follows_the_other_divergence(clicks):
    bandit, scale = clicks
    found = ch03.kl_quality(bandit, scale.half, uniform_policy(bandit))
    torch.testing.assert_close(found.kl.float(), ch03.kl_to(bandit, scale.half, uniform_policy(bandit)))
    assert found.k3_bias.abs().max() < 1e-6
    torch.testing.assert_close(found.forward_cosine, torch.ones(3).double())
    assert (found.reverse_cosine < 0.99).all()


def test_ratios_of_pages_equal_to_their_tokens_for_one_slot(clicks):
    bandit, scale = clicks
    quality, spread = ch03.ratio_quality(
        bandit, scale.half, scale.top, groups=4, size=4, replicates=20, generator=generator()
    )
    for name in ("sequence", "page"):
        torch.testing.assert_close(quality[name].noise, quality["token"].noise, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(spread[name], spread["token"])


@pytest.mark.slow
def test_a_small_run_decides_every_claim_and_is_not_repeated(tmp_path, capsys):
    """Tiny budgets, but the sizes the claims speak of: no claim may wait for a number that is never measured."""
    config = replace(
        CONFIG, updates=10, climb=20, replicates=50, hacking_updates=20, epochs=(1, 4, 16), lengths=(16,),
        impressions=(500, 8000, 32000), betas=(0.0, 0.1),
    )  # fmt: skip
    ch03.run(config, [0, 1], root=tmp_path)
    first = load(ch03.NAME, tmp_path)
    for claim in claims(chapter=3):
        assert claim.statistic.per_seed(first).index.tolist() == [0, 1], claim.id
    assert "recorded before" not in capsys.readouterr().out
    ch03.run(config, [0, 1], root=tmp_path)
    assert load(ch03.NAME, tmp_path).equals(first)
