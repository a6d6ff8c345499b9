"""The bandit of chapter 03: what is said to be exact is compared with enumeration, the rest with simulation."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from reclib.experiments.ad_bandit import (
    TABLES,
    AdBandit,
    Policy,
    ad_bandit,
    ad_world,
    expected_reward,
    follow,
    kl_to,
    log_policy,
    move_by_kl,
    revenue,
    sample_pages,
    scale_of,
    sparser,
    uniform_policy,
    verifiable,
)


@pytest.fixture
def pages():
    """Two seeds, three users, pages of up to three of two ads."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.rand(*shape, generator=generator)

    click = random(2, 3, 3, 2)
    value, bid, item = 1 + random(2, 3, 3, 2), random(2, 3, 3, 2), torch.ones(2, 3, 3, 2, dtype=torch.long)
    bandit = AdBandit(random(2, 3, 4), random(2, 3, 3, 2, 5), click, value, bid, click * 0, item, cost=0.3)
    policy = Policy(2 * random(2, 4, 5) - 1, random(2, 4) - 1)
    return bandit, policy


def test_expected_reward_and_kl_equal_enumeration_of_all_pages(pages):
    bandit, policy = pages
    other = Policy(-policy.ads, policy.stop / 2)
    log_prob, log_other = log_policy(bandit, policy), log_policy(bandit, other)
    for seed, user in itertools.product(range(2), range(3)):
        total = reward = kl = 0.0
        for page in itertools.product(range(3), repeat=3):
            shown = page[: page.index(2)] if 2 in page else page  # 2 is stop
            if any(action != 0 for action in page[len(shown) + 1 :]):
                continue  # what follows stop is never drawn; count each page once
            tokens = page[: len(shown) + 1]
            chance = sum(log_prob[seed, user, t, a] for t, a in enumerate(tokens)).exp()
            total += chance
            reward += chance * sum(
                bandit.click[seed, user, t, a] * bandit.value[seed, user, t, a] - 0.3 for t, a in enumerate(shown)
            )
            kl += chance * sum(log_prob[seed, user, t, a] - log_other[seed, user, t, a] for t, a in enumerate(tokens))
        assert total.item() == pytest.approx(1, abs=1e-5)
        assert expected_reward(bandit, log_prob)[seed, user].item() == pytest.approx(reward.item(), abs=1e-5)
        one = bandit.at(torch.full((2, 1), user))
        assert kl_to(one, policy, other)[seed].item() == pytest.approx(kl.item(), abs=1e-5)


def test_drawn_pages_earn_the_expected_reward_and_stop_where_masked(pages):
    bandit, policy = pages
    drawn = sample_pages(bandit, policy, 2000, 20, torch.Generator().manual_seed(2))
    expected = expected_reward(drawn.users, log_policy(drawn.users, policy)).mean(1)
    error = drawn.reward.mean((1, 2)) - expected
    deviation = drawn.reward.flatten(1).std(1) / 200
    assert (error.abs() < 4 * deviation).all()
    stopped = (drawn.action == 2) & drawn.mask
    assert (stopped.sum(-1) <= 1).all()  # at most one stop counts
    after = drawn.mask[..., 1:] & stopped[..., :-1]
    assert not after.any()
    torch.testing.assert_close(drawn.log_policy(policy), drawn.log_prob)
    some = drawn.at(torch.tensor([[5, 7], [1, 1]]))
    torch.testing.assert_close(some.reward[0, 1], drawn.reward[0, 7])
    torch.testing.assert_close(some.log_policy(policy), some.log_prob)


def test_a_bandit_without_noise_pays_its_expectation(pages):
    bandit, policy = pages
    drawn = sample_pages(replace(bandit, noisy=False, may_stop=False), policy, 4, 3, torch.Generator().manual_seed(2))
    table = drawn.users.reward
    for index in itertools.product(range(2), range(4), range(3)):
        seed, group, _ = index
        earned = sum(table[seed, group, t, a] for t, a in enumerate(drawn.action[index].tolist()))
        assert drawn.reward[index].item() == pytest.approx(earned.item(), abs=1e-5)
    assert drawn.mask.all()


@pytest.fixture(scope="module")
def world_bandit():
    return ad_bandit(ad_world("tiny"), [0, 1, 10_000], users=40, slots=1, ads=8)


def test_a_seed_means_the_same_users_whatever_its_company(world_bandit):
    alone = ad_bandit(ad_world("tiny"), [1], users=40, slots=1, ads=8)
    for name in TABLES:
        torch.testing.assert_close(getattr(alone, name)[0], getattr(world_bandit, name)[1])
        assert torch.isfinite(getattr(alone, name)).all()
    assert not torch.equal(world_bandit.click[0], world_bandit.click[1])


def test_clicks_and_bids_are_those_of_the_world(world_bandit):
    assert ((world_bandit.click > 0) & (world_bandit.click < 1)).all()
    user = np.random.default_rng([3, 1]).choice(len(ad_world("tiny").users), 40, replace=False)
    asked = ad_world("tiny").click_probability(user, world_bandit.item[1, :, 0].numpy())
    np.testing.assert_allclose(asked, world_bandit.click[1, :, 0], rtol=1e-5)
    for items in world_bandit.item.flatten(0, 1).flatten(1).tolist():
        assert len(set(items)) == len(items)  # no ad stands twice on a page
    catalogue = ad_world("tiny").catalogue
    cents = (world_bandit.bid * catalogue.bid[1:].mean()).round().unique()
    assert set(cents.tolist()) <= set(catalogue.bid[1:].tolist())
    assert 0.1 < (world_bandit.tap > 0).float().mean() < 0.6  # a third of all ads are videos
    assert world_bandit.tap.max() <= 1


def test_good_candidates_are_better_than_fillers(world_bandit):
    half = world_bandit.click.sort(-1, descending=True).values
    assert half[..., :4].mean() > 5 * half[..., 4:].mean()


def test_variants(world_bandit):
    rare = sparser(world_bandit, 0.1)
    odds, rare_odds = (b.click / (1 - b.click) for b in (world_bandit, rare))
    torch.testing.assert_close(rare_odds, 0.1 * odds)
    answers = verifiable(world_bandit)
    assert not answers.noisy
    torch.testing.assert_close(answers.click.sum(-1), torch.ones(3, 40, 1))
    torch.testing.assert_close(answers.click.argmax(-1), world_bandit.click.argmax(-1))
    torch.testing.assert_close(revenue(world_bandit).reward, world_bandit.click * world_bandit.bid)


def test_the_ruler_goes_from_the_uniform_policy_upwards(world_bandit):
    scale = scale_of(world_bandit, 60)
    start = uniform_policy(world_bandit)
    torch.testing.assert_close(scale.uniform, world_bandit.click.mean((1, 2, 3)))
    gain = scale.gain(follow(world_bandit, [start, scale.half, scale.top]))
    torch.testing.assert_close(gain[0], torch.zeros(3))
    assert ((gain[1] >= 0.5) & (gain[1] < 1)).all()
    torch.testing.assert_close(gain[2], torch.ones(3))
    assert (scale.best < world_bandit.click.amax(-1).mean((1, 2))).all()


def test_moving_by_kl_ends_at_the_divergence_asked_for(world_bandit):
    scale = scale_of(world_bandit, 60)
    nats = torch.tensor([0.01, 0.02, 0.05])
    moved = move_by_kl(world_bandit, scale.half, scale.top, nats)
    torch.testing.assert_close(kl_to(world_bandit, moved, scale.half), nats, rtol=0.01, atol=1e-5)
